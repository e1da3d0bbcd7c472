"""Two-dimensional maps of the whitened space: PCA, t-SNE, and t-SNE in a process of its own at low priority."""

import io
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.placement import Placement
from astrodetect.errors import ProjectionFailed
from astrodetect.progress import ProgressBar
from astrodetect.records import Floats
from astrodetect.settings import ROOT

MAX_IMAGES = 5000  # on the map of a run: t-SNE takes half a minute for them, and more dots overlap
PERPLEXITY = 30.0
TSNE_STEPS = 1000
ANGLE = 0.8  # Barnes–Hut θ: at 0.5, 20,000 images take half as long again for a hardly better map
MIN_IMAGES = 8  # for meaningful neighbourhoods
PCA_METHOD, TSNE_METHOD = "first two principal components", "t-SNE"

COMMAND = (sys.executable, "-m", "astrodetect.anomalies.projection")
NICENESS = 19  # the lowest priority of os.nice
PARENT_GONE_STATUS = 1  # the exit status after the parent process ended
DONE = b"done\n"  # separates the progress lines from the map
MORE = b"+"  # precedes vectors that are to be placed on the map
DTYPE = np.dtype("<f4")  # of the vectors and the map on the pipes


@dataclass(frozen=True, slots=True)
class Projection:
    """Map positions of images."""

    indices: NDArray[np.int64]  # of the images on the map, ascending
    xy: Floats  # (m, 2), each axis from 0 to 1
    method: str  # in words, for the page


def project(vectors: Floats, required: Sequence[int], *, seed: int = 0) -> Projection:
    """A map of all images, or of MAX_IMAGES: the `required` ones and a random sample of the others."""
    count = len(vectors)
    indices = np.arange(count)
    sampled = ""
    if count > MAX_IMAGES:
        first = np.asarray(required[:MAX_IMAGES], np.int64)
        others = np.random.default_rng(seed).permutation(np.setdiff1d(indices, first))
        indices = np.sort(np.concatenate([first, others[: MAX_IMAGES - len(first)]]))
        sampled = f" of {MAX_IMAGES:,} images: those of the gallery and a random sample of the others"
    selected = vectors[indices]
    if not has_neighbours(selected):
        return Projection(indices, pca_projection(selected), f"{PCA_METHOD}{sampled}")
    with ProgressBar("computing the map", TSNE_STEPS) as bar:
        xy = tsne_projection(selected, bar.step, seed=seed)
    return Projection(indices, xy, f"{TSNE_METHOD}{sampled}")


def has_neighbours(vectors: Floats) -> bool:
    """Whether there are enough distinct images for a neighbourhood-preserving map."""
    return len(vectors) >= MIN_IMAGES and vectors.shape[1] >= 2 and bool(np.ptp(vectors, axis=0).max() > 0)


def pca_projection(vectors: Floats) -> Floats:
    """(m, 2) the first two principal components, each axis scaled to 0 to 1."""
    return _scale(_principal_components(vectors))


def tsne_projection(vectors: Floats, advance: Callable[[int], None], *, seed: int = 0) -> Floats:
    """(m, 2) t-SNE initialised with PCA, each axis scaled to 0 to 1; `advance` gets the steps done since its last call.

    There are TSNE_STEPS steps.
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415 - takes a second to import
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    start = _principal_components(vectors)
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    output = _StepParser(advance)
    with threadpool_limits(1), redirect_stdout(output):  # its threads contend: two take twice as long as one
        tsne = TSNE(
            2,
            perplexity=perplexity,
            init=start.astype(np.float32),
            angle=ANGLE,
            max_iter=TSNE_STEPS,
            random_state=seed,
            verbose=2,
        )
        xy = tsne.fit_transform(vectors.astype(np.float64))
    return _scale(np.asarray(xy, np.float64))


class _StepParser(io.TextIOBase):
    """Reads the step count from what scikit-learn prints: it has no progress callback."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._done = advance, 0

    def write(self, text: str) -> int:
        if match := re.search(r"Iteration (\d+)", text):
            done = int(match[1])
            self._advance(done - self._done)
            self._done = done
        return len(text)


def _principal_components(vectors: Floats) -> NDArray[np.float64]:
    """(m, 2)"""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)  # LAPACK's signs vary
    components = np.zeros((len(centred), 2))
    components[:, : axes.shape[1]] = centred @ axes
    return components


def _scale(xy: NDArray[np.float64]) -> Floats:
    low, spread = xy.min(axis=0), np.ptp(xy, axis=0)
    return np.asarray((xy - low) / np.where(spread > 0, spread, 1), np.float32)


class ProjectionProcess:
    """t-SNE in a subprocess of the lowest priority; `stop` may be called from any thread, `close` by the owner."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would have to be drained
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            creationflags=getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),  # Windows, which has no os.nice
        )

    def project(self, vectors: Floats, report: Callable[[float], None]) -> Floats:
        """The t-SNE map of the vectors; `report` gets the share of the work done."""
        assert self._process.stdin  # noqa: S101 - it is a pipe
        assert self._process.stdout  # noqa: S101
        try:
            self._process.stdin.write(b"%d %d\n" % vectors.shape + vectors.astype(DTYPE).tobytes())
            self._process.stdin.flush()  # and stays open: its end tells the process that its parent is gone
            while (line := self._process.stdout.readline()) != DONE:
                report(float(line))
            xy = self._process.stdout.read(2 * DTYPE.itemsize * len(vectors))
            return np.frombuffer(xy, DTYPE).reshape(len(vectors), 2).astype(np.float32)
        except (OSError, ValueError) as error:
            raise ProjectionFailed(self._failure()) from error

    def place(self, vectors: Floats) -> Floats:
        """Positions of other images on that map."""
        assert self._process.stdin  # noqa: S101 - as above
        assert self._process.stdout  # noqa: S101
        try:
            self._process.stdin.write(MORE + b"%d %d\n" % vectors.shape + vectors.astype(DTYPE).tobytes())
            self._process.stdin.flush()
            xy = self._process.stdout.read(2 * DTYPE.itemsize * len(vectors))
            return np.frombuffer(xy, DTYPE).reshape(len(vectors), 2).astype(np.float32)
        except (OSError, ValueError) as error:
            raise ProjectionFailed(self._failure()) from error

    def stop(self) -> None:
        """Kill the process; a running `project` then fails."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and wait for its end."""
        self.stop()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with suppress(OSError):  # unread data: EPIPE, on Windows EINVAL
                    pipe.close()

    def _failure(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process that computes the map was ended by signal {-status}: it may have run out of memory"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process that computes the map failed: {lines[-1] if lines else f'status {status}'}"


def main() -> None:
    """The subprocess: read vectors from stdin; write progress, then the map, to stdout; then place others on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the service, which stops this process
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    source, out = sys.stdin.buffer, sys.stdout.buffer
    vectors = _read_vectors(source)
    watcher = threading.Thread(target=_exit_with_parent, args=(source.fileno(),), daemon=True)
    watcher.start()
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        out.write(b"%.3f\n" % (done / TSNE_STEPS))
        out.flush()

    xy = tsne_projection(vectors, advance)
    out.write(DONE + xy.astype(DTYPE).tobytes())
    out.flush()
    watcher.join()
    placement = Placement(vectors, xy)
    while True:
        out.write(placement.place(_read_vectors(source)).astype(DTYPE).tobytes())
        out.flush()
        _exit_with_parent(source.fileno())


def _read_vectors(source: IO[bytes]) -> Floats:
    shape = [int(number) for number in source.readline().split()]
    return np.frombuffer(source.read(math.prod(shape) * DTYPE.itemsize), DTYPE).reshape(shape)


def _exit_with_parent(descriptor: int) -> None:
    """Wait for MORE; exit when the pipe closes: a killed parent cannot end its children."""
    if os.read(descriptor, 1) != MORE:
        os._exit(PARENT_GONE_STATUS)


if __name__ == "__main__":
    main()
