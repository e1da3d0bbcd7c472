"""The map of the log: drawn by another process, kept on disk, and never in anybody's way."""

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
from astrodetect.errors import DatabaseUnavailable, DrawingFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages
from astrodetect.service import projection_jobs, projection_store
from astrodetect.service.projection_jobs import ProjectionJobs, ProjectionState
from astrodetect.service.projection_store import StoredProjection

SPACE, OTHER = "5f0c3a9be214", "9be2145f0c3a"
COUNT = 30
WITHIN_S = 60.0
IN_A_HURRY = (sys.executable, "-c", "from astrodetect.anomalies import projection as p; p.NICENESS = 0; p.main()")
HOLDS = (  # a lock, until nobody listens any more
    sys.executable,
    "-c",
    "import sys, fasteners\n"
    "with fasteners.InterProcessLock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n",
)
ENDLESS = (sys.executable, "-c", "import sys; print('0.25', flush=True); sys.stdin.read()")
AT_ONCE = (  # draws what it is sent: the first two numbers of each vector
    sys.executable,
    "-c",
    "import sys\n"
    "import numpy as np\n"
    "n, d = map(int, sys.stdin.buffer.readline().split())\n"
    "vectors = np.frombuffer(sys.stdin.buffer.read(4 * n * d), np.float32).reshape(n, d)\n"
    "sys.stdout.buffer.write(b'0.5\\ndone\\n' + vectors[:, :2].tobytes())\n",
)


class Sky:
    """A log with as many images in every space."""

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


class Away(Sky):
    """A log that does not answer."""

    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages:  # noqa: ARG002
        raise DatabaseUnavailable("PostgreSQL at a secret place does not answer")


class Windows:
    """A pipe to a process that has ended, as Windows closes it."""

    def close(self) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def draws_for_ever(folder: Path) -> None:
    """A worker of its own."""
    pytest.MonkeyPatch().setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(ENDLESS))
    ProjectionJobs(Sky(), folder).draw(SPACE)
    time.sleep(2 * WITHIN_S)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., ProjectionJobs]]:
    """Makes atlases in one folder, and closes them."""
    made = []

    def start(log: Sky | None = None) -> ProjectionJobs:
        made.append(ProjectionJobs(log or Sky(), tmp_path / "maps"))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(AT_ONCE))


def until(atlas_: ProjectionJobs, true_of: Callable[[ProjectionState], bool], space: str = SPACE) -> ProjectionState:
    give_up = time.monotonic() + WITHIN_S
    while not true_of(view := atlas_.view(space)):
        assert time.monotonic() < give_up, view
        time.sleep(0.01)
    return view


def idle(view: ProjectionState) -> bool:
    return not view.working


def test_another_process_draws_the_map_and_says_how_far_it_is() -> None:
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(centre, 0.1, (20, 6)) for centre in (0, 5)]).astype(np.float32)
    shares: list[float] = []
    process = ProjectionProcess(IN_A_HURRY)
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


def test_it_lets_others_go_before_it_and_ends_with_whoever_started_it() -> None:
    process = ProjectionProcess()
    child = process._process
    assert child.stdin
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)  # some seconds of work
    child.stdin.write(b"%d %d\n" % rows.shape + rows.tobytes())
    child.stdin.flush()
    give_up = time.monotonic() + WITHIN_S
    while psutil.Process(child.pid).nice() != projection.NICENESS:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    child.stdin.close()
    assert child.wait(WITHIN_S) == projection.PARENT_GONE_STATUS
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
def test_why_it_failed_is_said(command: str, why: str) -> None:
    process = ProjectionProcess((sys.executable, "-c", command))
    with pytest.raises(DrawingFailed, match=why):
        process.project(np.zeros((2, 2), np.float32), print)
    process.close()


def test_a_pipe_that_broke_is_closed_on_every_system() -> None:
    process = ProjectionProcess(ENDLESS)
    stdin = process._process.stdin
    assert stdin
    process._process.stdin = Windows()  # type: ignore[assignment]
    process.close()
    assert process._process.poll() is not None
    stdin.close()


def test_a_map_is_there_at_once_and_a_better_one_later(
    started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def later() -> ProjectionProcess:
        assert go_on.wait(WITHIN_S)
        return ProjectionProcess(AT_ONCE)

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", later)
    ours = started()
    assert ours.view(SPACE).due
    ours.draw(SPACE)
    view = until(ours, lambda view: view.map is not None)
    assert view.map
    assert (view.working, view.due, view.map.method, view.map.rough) == (True, False, projection.PCA_METHOD, True)
    assert view.map.ids == list(range(COUNT, 0, -1))  # the most unusual first
    go_on.set()
    better = until(ours, idle).map
    assert better
    assert (better.method, better.ids) == (projection.TSNE_METHOD, view.map.ids)
    assert better.stamp != view.map.stamp
    assert ours.labels(better) == [None] * (COUNT - 4) + ["artefact"] + [None] * 3


def test_a_map_outlives_the_service_and_says_what_is_new_since(
    started: Callable[..., ProjectionJobs], at_once: None, tmp_path: Path
) -> None:
    first = started()
    first.draw(SPACE)
    drawn = until(first, idle).map
    view = started(Sky(COUNT + 5)).view(SPACE)
    assert drawn
    assert view.map
    assert view.map.stamp == drawn.stamp
    np.testing.assert_array_equal(view.map.xy, drawn.xy)
    assert (view.new, view.working, view.due) == (5, False, False)
    assert started().view(OTHER).map is None
    assert [path.name for path in (tmp_path / "maps").glob("*.part")] == []


def test_a_damaged_file_is_drawn_again(started: Callable[..., ProjectionJobs], at_once: None, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    place = projection_store.path(tmp_path / "maps", SPACE)
    for content in (b"", b"PK\x03\x04", b"x" * 1000):
        place.write_bytes(content)
        assert started().view(SPACE).due
    ours = started()
    ours.draw(SPACE)
    assert until(ours, idle).map
    place.write_bytes(place.read_bytes()[:-40])
    assert started().view(SPACE).due


def test_closing_ends_what_is_at_work(started: Callable[..., ProjectionJobs], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def endless() -> ProjectionProcess:
        made.append(ProjectionProcess(ENDLESS))
        return made[-1]

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", endless)
    ours = started()
    ours.draw(SPACE)
    assert until(ours, lambda view: view.share > 0).share == 0.25
    ours.draw(SPACE)
    assert len(made) == 1  # it goes on
    ours.draw(OTHER)  # another model serves now: only its map counts
    until(ours, lambda view: view.share > 0, OTHER)
    assert [one._process.poll() is None for one in made] == [False, True]
    ours.close()
    assert all(one._process.poll() is not None for one in made)


def test_what_failed_says_why_and_keeps_the_map_that_there_is(
    started: Callable[..., ProjectionJobs], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = started(Away())
    away.draw(SPACE)
    assert until(away, idle) == ProjectionState(SPACE, None, COUNT, failed=DatabaseUnavailable.public or "")
    assert not away.view(SPACE).due  # or each look would try again
    ours = started()
    ours.draw(SPACE)
    before = until(ours, idle).map
    monkeypatch.setattr(
        projection_jobs,
        "ProjectionProcess",
        lambda: ProjectionProcess((sys.executable, "-c", "raise SystemExit('oh')")),
    )
    ours.draw(SPACE)
    view = until(ours, idle)
    assert before
    assert view.map
    assert "oh" in view.failed
    assert view.map.stamp == before.stamp


@pytest.mark.parametrize("error", [OSError("/secret/place"), NotADirectoryError(errno.ENOTDIR, "No way", "/secret")])
def test_places_on_the_disk_are_nobodys_business(
    started: Callable[..., ProjectionJobs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: OSError,
) -> None:
    def refused() -> ProjectionProcess:
        raise error

    monkeypatch.setattr(projection_jobs, "ProjectionProcess", refused)
    ours = started()
    ours.draw(SPACE)
    view = until(ours, idle)
    assert view.failed == (error.strerror or "the disk does not take it")
    assert "/secret" in caplog.text


def test_a_folder_that_is_none_says_so_and_not_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "maps").write_bytes(b"")
    ours = ProjectionJobs(Sky(), tmp_path / "maps")
    ours.draw(SPACE)
    view = until(ours, idle)
    ours.close()
    assert view.failed
    assert str(tmp_path) not in view.failed


def test_few_maps_are_remembered(started: Callable[..., ProjectionJobs], at_once: None) -> None:
    ours = started()
    for number in range(4):
        ours.draw(f"{number:012}")
        until(ours, idle, f"{number:012}")
    assert len(ours._known) == projection_jobs.MOST_KNOWN
    for number in range(4):
        assert ours.view(f"{number:012}").map
    assert list(ours._known) == [f"{number:012}" for number in (2, 3)]


def test_another_worker_tells_how_far_the_map_is_until_it_is_killed(
    started: Callable[..., ProjectionJobs], at_once: None, tmp_path: Path
) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=draws_for_ever, args=(tmp_path / "maps",))
    worker.start()
    try:
        ours = started()
        view = until(ours, lambda view: view.share > 0)
        assert view.map
        assert (view.working, view.due, view.share, view.map.rough) == (True, False, 0.25, True)
        assert view.left_s is not None
        assert ours.view(SPACE).map is view.map  # and is not read again each time
        assert not ours.view(OTHER).working
        assert started().view(SPACE).working  # whoever looks takes the right to draw from nobody
    finally:
        worker.kill()
        worker.join()
    view = until(ours, idle)
    assert (view.map, view.due) == (None, True)
    ours.draw(SPACE)
    drawn = until(ours, idle).map
    assert drawn
    assert not drawn.rough
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [".lock", f"{SPACE}.npz"]


def test_two_workers_draw_one_map(started: Callable[..., ProjectionJobs], at_once: None, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    worker = subprocess.Popen([*HOLDS, folder / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker:
        assert worker.stdout
        assert worker.stdout.readline() == b"held\n"
        ours = started()
        ours.draw(SPACE)
        first = until(ours, lambda view: view.map is not None).map
        assert first
        projection_store.write(folder, SPACE, replace(first, method="theirs", drawn=dt.datetime.now(dt.UTC)))
        assert ours.view(SPACE).working
    view = until(ours, idle)
    assert view.map
    assert view.map.method == "theirs"


def test_few_maps_are_kept(tmp_path: Path) -> None:
    drawn = StoredProjection.first(projection_store.ranked(Sky().embedded_images(SPACE, newest=COUNT)))
    for number in range(projection_store.MOST_KEPT + 3):
        projection_store.write(tmp_path, f"{number:012}", drawn)
        os.utime(projection_store.path(tmp_path, f"{number:012}"), (number, number))
    kept = sorted(int(path.stem) for path in tmp_path.glob("*.npz"))
    assert kept == list(range(3, projection_store.MOST_KEPT + 3))


def test_few_images_are_no_map(started: Callable[..., ProjectionJobs]) -> None:
    ours = started(Sky(projection.MIN_IMAGES - 1))
    assert not ours.view(SPACE).due
    ours.draw(SPACE)
    assert until(ours, idle).map is None
