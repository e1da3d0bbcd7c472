"""The subprocess that computes a projection: its progress, priority, end and errors."""

import errno
import sys
import time

import numpy as np
import psutil
import pytest

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import ProjectionFailed

TIMEOUT_S = 60.0
FAST = (sys.executable, "-c", "from astrodetect.anomalies import projection as p; p.NICENESS = 0; p.main()")
ENDLESS = (sys.executable, "-c", "import sys; print('0.25', flush=True); sys.stdin.read()")


class WindowsPipe:
    """A pipe to a process that has ended: on Windows, closing it raises."""

    def close(self) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


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
