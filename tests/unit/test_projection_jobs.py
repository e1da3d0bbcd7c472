"""Projections of the recorded images: computed by another process, stored on disk, shared by service processes."""

import datetime as dt
import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import DatabaseUnavailable, ProjectionFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages
from astrodetect.service import projection_jobs, projection_store
from astrodetect.service.projection_jobs import ProjectionJobs, ProjectionState
from astrodetect.service.projection_store import StoredProjection

SPACE, OTHER = "5f0c3a9be214", "9be2145f0c3a"
COUNT = 30
TIMEOUT_S = 60.0
FAST = (sys.executable, "-c", "from astrodetect.anomalies import projection as p; p.NICENESS = 0; p.main()")
LOCK_HOLDER = (  # until its standard input is closed
    sys.executable,
    "-c",
    "import sys, fasteners\n"
    "with fasteners.InterProcessLock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n",
)
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


class FakeDatabase:
    """The same number of images in every space."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages:  # noqa: ARG002
        n = min(self.count, newest)
        vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
        novelty = np.linspace(0, 1, n, dtype=np.float32)
        return EmbeddedImages(list(range(1, n + 1)), [f"sum {i}" for i in range(n)], ["E"] * n, novelty, vectors)

    def count_newer_images(self, space: str, *, after: int, most: int) -> int:  # noqa: ARG002
        return min(self.count - after, most)

    def current_labels(self) -> Mapping[str, LabelValue]:
        return {"sum 3": "artefact", "sum gone": "ordinary"}


class UnavailableDatabase(FakeDatabase):
    """A database that does not answer."""

    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages:  # noqa: ARG002
        raise DatabaseUnavailable("PostgreSQL at a secret place does not answer")


class WindowsPipe:
    """A pipe to a process that has ended: on Windows, closing it raises."""

    def close(self) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def compute_forever(folder: Path) -> None:
    """Another service process."""
    pytest.MonkeyPatch().setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(ENDLESS))
    ProjectionJobs(FakeDatabase(), folder).start(SPACE)
    time.sleep(2 * TIMEOUT_S)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., ProjectionJobs]]:
    """Opens jobs on one folder, and closes them."""
    opened = []

    def start(database: FakeDatabase | None = None) -> ProjectionJobs:
        opened.append(ProjectionJobs(database or FakeDatabase(), tmp_path / "maps"))
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


def test_another_process_computes_the_projection_and_reports_its_progress() -> None:
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(centre, 0.1, (20, 6)) for centre in (0, 5)]).astype(np.float32)
    shares: list[float] = []
    process = ProjectionProcess(FAST)
    try:
        xy = process.project(vectors, shares.append)
    finally:
        process.close()
    assert xy.shape == (40, 2)
    assert (xy.min(), xy.max()) == (0, 1)
    assert shares == sorted(shares)
    assert len(shares) > 3
    assert 0 < shares[0] < shares[-1] <= 1
    middles = np.repeat([xy[:20].mean(axis=0), xy[20:].mean(axis=0)], 20, axis=0)
    assert np.linalg.norm(middles[0] - middles[-1]) > np.linalg.norm(xy - middles, axis=1).max()


def test_the_process_has_the_lowest_priority_and_ends_with_its_parent() -> None:
    process = ProjectionProcess()
    child = process._process
    assert child.stdin
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)  # some seconds of work
    child.stdin.write(b"%d %d\n" % rows.shape + rows.tobytes())
    child.stdin.flush()
    deadline = time.monotonic() + TIMEOUT_S
    while psutil.Process(child.pid).nice() != projection.NICENESS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.stdin.close()
    assert child.wait(TIMEOUT_S) == projection.PARENT_GONE_STATUS
    process.close()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("raise SystemExit('no memory left')", "no memory left"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
        ("print('done', flush=True)", "status 0"),
        ("print('what?', flush=True)", "failed"),
    ],
)
def test_the_error_of_the_process_is_reported(command: str, why: str) -> None:
    process = ProjectionProcess((sys.executable, "-c", command))
    with pytest.raises(ProjectionFailed, match=why):
        process.project(np.zeros((2, 2), np.float32), print)
    process.close()


def test_a_broken_pipe_is_closed_on_every_system() -> None:
    process = ProjectionProcess(ENDLESS)
    stdin = process._process.stdin
    assert stdin
    process._process.stdin = WindowsPipe()  # type: ignore[assignment]
    process.close()
    assert process._process.poll() is not None
    stdin.close()


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
    assert state.stored.ids == list(range(COUNT, 0, -1))  # the most unusual first
    may_start.set()
    final = wait_for(jobs, idle).stored
    assert final
    assert (final.method, final.ids) == (projection.TSNE_METHOD, state.stored.ids)
    assert final.stamp != state.stored.stamp
    assert jobs.labels(final) == [None] * (COUNT - 4) + ["artefact"] + [None] * 3


def test_a_stored_projection_outlives_the_service_and_counts_new_images(
    started: Callable[..., ProjectionJobs], instant: None, tmp_path: Path
) -> None:
    first = started()
    first.start(SPACE)
    drawn = wait_for(first, idle).stored
    state = started(FakeDatabase(COUNT + 5)).state(SPACE)
    assert drawn
    assert state.stored
    assert state.stored.stamp == drawn.stamp
    np.testing.assert_array_equal(state.stored.xy, drawn.xy)
    assert (state.new_images, state.running, state.due) == (5, False, False)
    assert started().state(OTHER).stored is None
    assert [path.name for path in (tmp_path / "maps").glob("*.part")] == []


def test_a_damaged_file_is_computed_again(
    started: Callable[..., ProjectionJobs], instant: None, tmp_path: Path
) -> None:
    (tmp_path / "maps").mkdir()
    path = projection_store.path(tmp_path / "maps", SPACE)
    for content in (b"", b"PK\x03\x04", b"x" * 1000):
        path.write_bytes(content)
        assert started().state(SPACE).due
    jobs = started()
    jobs.start(SPACE)
    assert wait_for(jobs, idle).stored
    path.write_bytes(path.read_bytes()[:-40])
    assert started().state(SPACE).due


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
    failing = started(UnavailableDatabase())
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
    assert state.error == (error.strerror or "the disk cannot be written")
    assert "/secret" in caplog.text


def test_an_unusable_folder_is_reported_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "maps").write_bytes(b"")
    jobs = ProjectionJobs(FakeDatabase(), tmp_path / "maps")
    jobs.start(SPACE)
    state = wait_for(jobs, idle)
    jobs.close()
    assert state.error
    assert str(tmp_path) not in state.error


def test_few_projections_are_cached(started: Callable[..., ProjectionJobs], instant: None) -> None:
    jobs = started()
    for number in range(4):
        jobs.start(f"{number:012}")
        wait_for(jobs, idle, f"{number:012}")
    assert len(jobs._cache) == projection_jobs.MAX_CACHED
    for number in range(4):
        assert jobs.state(f"{number:012}").stored
    assert list(jobs._cache) == [f"{number:012}" for number in (2, 3)]


def test_the_progress_of_another_process_is_shown_until_it_is_killed(
    started: Callable[..., ProjectionJobs], instant: None, tmp_path: Path
) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=compute_forever, args=(tmp_path / "maps",))
    worker.start()
    try:
        jobs = started()
        state = wait_for(jobs, lambda state: state.progress > 0)
        assert state.stored
        assert (state.running, state.due, state.progress, state.stored.preliminary) == (True, False, 0.25, True)
        assert state.remaining_s is not None
        assert jobs.state(SPACE).stored is state.stored  # read once
        assert not jobs.state(OTHER).running
        assert started().state(SPACE).running  # reading takes the lock from no process
    finally:
        worker.kill()
        worker.join()
    state = wait_for(jobs, idle)
    assert (state.stored, state.due) == (None, True)
    jobs.start(SPACE)
    drawn = wait_for(jobs, idle).stored
    assert drawn
    assert not drawn.preliminary
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [".lock", f"{SPACE}.npz"]


def test_two_processes_compute_one_projection(
    started: Callable[..., ProjectionJobs], instant: None, tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    worker = subprocess.Popen([*LOCK_HOLDER, folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"held\n"
        jobs = started()
        jobs.start(SPACE)
        first = wait_for(jobs, lambda state: state.stored is not None).stored
        assert first
        projection_store.write_projection(folder, SPACE, replace(first, method="other", drawn=dt.datetime.now(dt.UTC)))
        assert jobs.state(SPACE).running
    state = wait_for(jobs, idle)
    assert state.stored
    assert state.stored.method == "other"


def test_few_projections_are_stored(tmp_path: Path) -> None:
    drawn = StoredProjection.from_pca(
        projection_store.sort_by_novelty(FakeDatabase().embedded_images(SPACE, newest=COUNT))
    )
    for number in range(projection_store.MAX_FILES + 3):
        projection_store.write_projection(tmp_path, f"{number:012}", drawn)
        os.utime(projection_store.path(tmp_path, f"{number:012}"), (number, number))
    numbers = sorted(int(path.stem) for path in tmp_path.glob("*.npz"))
    assert numbers == list(range(3, projection_store.MAX_FILES + 3))


def test_few_images_have_no_projection(started: Callable[..., ProjectionJobs]) -> None:
    jobs = started(FakeDatabase(projection.MIN_IMAGES - 1))
    assert not jobs.state(SPACE).due
    jobs.start(SPACE)
    assert wait_for(jobs, idle).stored is None
