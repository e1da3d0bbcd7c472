"""Projections of the recorded images: computed by another process, stored in the database, shared by services."""

import datetime as dt
import errno
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from projection_fakes import COUNT, FakeDatabase

from astrodetect.anomalies import projection, serialisation
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import DatabaseUnavailable
from astrodetect.service import projection_jobs, projection_store
from astrodetect.service.job_lease import JobLease
from astrodetect.service.projection_jobs import ProjectionJobs, ProjectionState

SPACE, OTHER = "5f0c3a9be214", "9be2145f0c3a"
TIMEOUT_S = 60.0
ENDLESS = (sys.executable, "-c", "import sys; print('0.25', flush=True); sys.stdin.read()")
INSTANT = (  # the first two numbers of each vector
    sys.executable,
    "-c",
    "import sys\n"
    "import numpy as np\n"
    "n, d = map(int, sys.stdin.buffer.readline().split())\n"
    "vectors = np.frombuffer(sys.stdin.buffer.read(4 * n * d), np.float32).reshape(n, d)\n"
    "sys.stdout.buffer.write(b'0.5\\ndone\\n' + vectors[:, :2].tobytes())\n",
)


@pytest.fixture
def database() -> FakeDatabase:
    """The database that all jobs of a test share."""
    return FakeDatabase()


@pytest.fixture
def started(database: FakeDatabase) -> Iterator[Callable[..., ProjectionJobs]]:
    """Opens jobs, each as of a service process of its own, and closes them."""
    opened = []

    def start(other: FakeDatabase | None = None) -> ProjectionJobs:
        opened.append(ProjectionJobs(other or database))
        return opened[-1]

    yield start
    for jobs in opened:
        jobs.close()


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(INSTANT))


def wait_for(jobs: ProjectionJobs, condition: Callable[[ProjectionState], bool], space: str = SPACE) -> ProjectionState:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition(state := jobs.state(space)):
        assert time.monotonic() < deadline, state
        time.sleep(0.01)
    return state


def idle(state: ProjectionState) -> bool:
    return not state.running


def test_a_pca_projection_is_shown_until_t_sne_is_done(
    started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_start = threading.Event()

    def delayed() -> ProjectionProcess:
        assert may_start.wait(TIMEOUT_S)
        return ProjectionProcess(INSTANT)

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", delayed)
    jobs = started()
    assert jobs.state(SPACE).due
    jobs.start(SPACE)
    state = wait_for(jobs, lambda state: state.stored is not None)
    assert state.stored
    assert (state.running, state.due, state.stored.method, state.stored.preliminary) == (
        True,
        False,
        projection.PCA_METHOD,
        True,
    )
    assert state.stored.ids.tolist() == list(range(COUNT, 0, -1))  # the most unusual first
    may_start.set()
    final = wait_for(jobs, idle).stored
    assert final
    assert (final.method, final.ids.tolist()) == (projection.TSNE_METHOD, state.stored.ids.tolist())
    assert final.stamp != state.stored.stamp
    assert jobs.labels(SPACE, final) == [(COUNT - 4, "artefact")]


def test_a_stored_projection_outlives_the_service_and_counts_new_images(
    started: Callable[..., ProjectionJobs], instant: None, database: FakeDatabase
) -> None:
    first = started()
    first.start(SPACE)
    drawn = wait_for(first, idle).stored
    database.embeddings.count += 5
    state = started().state(SPACE)
    assert drawn
    assert state.stored
    assert state.stored.stamp == drawn.stamp
    np.testing.assert_array_equal(state.stored.xy, drawn.xy)
    assert (state.new_images, state.running, state.due) == (5, False, False)
    assert started().state(OTHER).stored is None


def test_a_damaged_map_is_computed_again(
    started: Callable[..., ProjectionJobs], instant: None, database: FakeDatabase
) -> None:
    now = dt.datetime.now(dt.UTC)
    for content in (b"", b"PK\x03\x04", b"x" * 1000):
        database.maps.save(SPACE, content, now, preliminary=False)
        assert started().state(SPACE).due
    jobs = started()
    jobs.start(SPACE)
    assert wait_for(jobs, idle).stored
    content = database.maps.read(SPACE, preliminary=False) or b""
    database.maps.save(SPACE, content[:-40], now, preliminary=False)
    assert started().state(SPACE).due


def test_images_beyond_the_limit_of_t_sne_are_placed_among_a_sample(
    started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = (
        "from astrodetect.anomalies import projection as p; p.NICENESS = 0;"
        " p.tsne_projection = lambda vectors, _: p.pca_projection(vectors); p.main()"
    )
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess((sys.executable, "-c", fast)))
    monkeypatch.setattr(projection_jobs, "MAX_PROJECTED", 20)
    monkeypatch.setattr(projection_jobs, "PLACED_AT_ONCE", 7)
    jobs = started(FakeDatabase(50))
    jobs.start(SPACE)
    preliminary = wait_for(jobs, lambda state: state.stored is not None).stored
    stored = wait_for(jobs, idle).stored
    assert preliminary
    assert stored
    assert stored.ids.tolist() == list(range(50, 0, -1))
    assert np.isfinite(stored.xy).all()
    if preliminary.preliminary:
        assert len(preliminary.ids) == 19  # one label is of an image that is gone
        assert 4 in preliminary.ids  # the labelled one
    assert jobs.shown(SPACE) is stored


def test_maps_of_version_0_1_are_read() -> None:
    drawn = dt.datetime.now(dt.UTC)
    metadata = {"images": ["a", "b"], "classes": ["SB", "E"], "method": "t-SNE", "drawn": drawn.isoformat()}
    arrays = {
        "ids": np.array([7.0, 3.0]),
        "novelty": np.array([0.9, 0.1], np.float32),
        "xy": np.array([[0, 1], [1, 0]], np.float32),
    }
    file = io.BytesIO()
    serialisation.write_arrays(file, metadata, arrays)
    stored = projection_store.projection_from_bytes(file.getvalue())
    assert stored
    assert (stored.ids.tolist(), [stored.class_names[code] for code in stored.class_of]) == ([7, 3], ["SB", "E"])


def test_close_stops_the_computation(started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []

    def endless() -> ProjectionProcess:
        processes.append(ProjectionProcess(ENDLESS))
        return processes[-1]

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", endless)
    jobs = started()
    jobs.start(SPACE)
    assert wait_for(jobs, lambda state: state.progress > 0).progress == 0.25
    jobs.start(SPACE)
    assert len(processes) == 1  # not started again
    jobs.start(OTHER)  # another default model: only its projection is needed
    wait_for(jobs, lambda state: state.progress > 0, OTHER)
    assert [process._process.poll() is None for process in processes] == [False, True]
    jobs.close()
    assert all(process._process.poll() is not None for process in processes)


def test_a_failed_computation_reports_why_and_keeps_the_stored_projection(
    started: Callable[..., ProjectionJobs], instant: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unavailable = FakeDatabase()
    unavailable.embeddings.failure = DatabaseUnavailable("PostgreSQL at a secret place does not answer")
    failing = started(unavailable)
    failing.start(SPACE)
    assert wait_for(failing, idle) == ProjectionState(SPACE, None, COUNT, error=DatabaseUnavailable.public or "")
    assert not failing.state(SPACE).due  # no retry at every request
    jobs = started()
    jobs.start(SPACE)
    before = wait_for(jobs, idle).stored
    monkeypatch.setattr(
        projection_jobs,
        "ProjectionProcess",
        lambda: ProjectionProcess((sys.executable, "-c", "raise SystemExit('oh')")),
    )
    jobs.start(SPACE)
    state = wait_for(jobs, idle)
    assert before
    assert state.stored
    assert "oh" in state.error
    assert state.stored.stamp == before.stamp


@pytest.mark.parametrize("error", [OSError("/secret/place"), NotADirectoryError(errno.ENOTDIR, "No way", "/secret")])
def test_errors_shown_to_users_have_no_paths(
    started: Callable[..., ProjectionJobs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
) -> None:
    def failing() -> ProjectionProcess:
        raise error

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", failing)
    jobs = started()
    jobs.start(SPACE)
    state = wait_for(jobs, idle)
    assert state.error == (error.strerror or "the process that computes the map cannot be started")
    assert "/secret" in caplog.text


def test_few_projections_are_cached(started: Callable[..., ProjectionJobs], instant: None) -> None:
    jobs = started()
    for number in range(4):
        jobs.start(f"{number:012}")
        wait_for(jobs, idle, f"{number:012}")
    assert len(jobs._cache) == projection_jobs.MAX_CACHED
    for number in range(4):
        assert jobs.state(f"{number:012}").stored
    assert len(jobs._cache) == projection_jobs.MAX_CACHED


def test_other_services_show_the_progress_the_preliminary_map_and_the_error(
    started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch, database: FakeDatabase
) -> None:
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(ENDLESS))
    drawing, jobs = started(), started()
    drawing.start(SPACE)
    state = wait_for(jobs, lambda state: state.progress > 0)
    assert state.stored
    assert (state.running, state.due, state.progress, state.stored.preliminary) == (True, False, 0.25, True)
    assert state.remaining_s is not None
    reads = database.maps.reads
    assert jobs.state(SPACE).stored is state.stored
    assert database.maps.reads == reads
    assert not jobs.state(OTHER).running
    drawing.close()  # it is asked to stop: another service starts again
    state = wait_for(jobs, idle)
    assert (state.stored, state.error, state.due) == (None, "", True)

    failing = (sys.executable, "-c", "raise SystemExit('oh')")
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(failing))
    failed = started()
    failed.start(SPACE)
    wait_for(failed, idle)
    state = jobs.state(SPACE)
    assert "oh" in state.error
    assert not state.due  # no service tries again by itself


def test_two_services_compute_one_projection(
    started: Callable[..., ProjectionJobs], instant: None, database: FakeDatabase
) -> None:
    other = JobLease(database.leases, projection_jobs.LEASE)
    assert other.acquire({"space": SPACE})
    jobs = started()
    jobs.start(SPACE)
    first = wait_for(jobs, lambda state: state.stored is not None).stored
    assert first
    by_other = replace(first, method="other", drawn=dt.datetime.now(dt.UTC))
    content = projection_store.projection_to_bytes(by_other)
    database.maps.save(SPACE, content, by_other.drawn, preliminary=False)
    assert jobs.state(SPACE).running
    other.release()
    state = wait_for(jobs, idle)
    assert state.stored
    assert state.stored.method == "other"


def test_few_images_have_no_projection(started: Callable[..., ProjectionJobs]) -> None:
    jobs = started(FakeDatabase(projection.MIN_IMAGES - 1))
    assert not jobs.state(SPACE).due
    jobs.start(SPACE)
    assert wait_for(jobs, idle).stored is None
