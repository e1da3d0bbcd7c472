"""The space that the detectors see, in two dimensions: a map on which images that are alike lie together."""

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

from astrodetect.errors import DrawingFailed
from astrodetect.progress import Bar
from astrodetect.records import Floats
from astrodetect.settings import ROOT

MAX_IMAGES = 5000  # images on the map of a run: t-SNE takes half a minute for them, and more dots hide each other
PERPLEXITY = 30.0
TSNE_STEPS = 1000  # of t-SNE
ANGLE = 0.8  # how coarsely it sees what is far: at 0.5 20,000 images take half as long again and lie hardly better
MIN_IMAGES = 8  # images for which neighbours mean something
PCA_METHOD, TSNE_METHOD = "first two principal components", "t-SNE"


@dataclass(frozen=True, slots=True)
class Projection:
    """Where images lie on the map."""

    places: NDArray[np.int64]  # which images, ascending
    xy: Floats  # (m, 2), each axis from 0 to 1
    method: str  # in words, for people


def project(vectors: Floats, wanted: Sequence[int], *, seed: int = 0) -> Projection:
    """A map of all images, or of as many as it takes: those that are `wanted` and others drawn by `seed`."""
    count = len(vectors)
    places = np.arange(count)
    sampled = ""
    if count > MAX_IMAGES:
        first = np.asarray(wanted[:MAX_IMAGES], np.int64)
        others = np.random.default_rng(seed).permutation(np.setdiff1d(places, first))
        places = np.sort(np.concatenate([first, others[: MAX_IMAGES - len(first)]]))
        sampled = f" of {MAX_IMAGES:,} images: those of the gallery, and others drawn at random"
    chosen = vectors[places]
    if not has_neighbours(chosen):
        return Projection(places, pca_projection(chosen), f"{PCA_METHOD}{sampled}")
    with Bar("flattening the map", TSNE_STEPS) as bar:
        xy = tsne_projection(chosen, bar.step, seed=seed)
    return Projection(places, xy, f"{TSNE_METHOD}{sampled}")


def has_neighbours(vectors: Floats) -> bool:
    """Whether it means something which of these images are near each other."""
    return len(vectors) >= MIN_IMAGES and vectors.shape[1] >= 2 and bool(np.ptp(vectors, axis=0).max() > 0)


def pca_projection(vectors: Floats) -> Floats:
    """(m, 2) where the images lie in the two directions in which they vary most, each axis from 0 to 1."""
    return _scaled(_widest(vectors))


def tsne_projection(vectors: Floats, stepped: Callable[[int], None], *, seed: int = 0) -> Floats:
    """(m, 2) so that neighbours stay neighbours, each axis from 0 to 1; `stepped` is told of steps of STEPS done."""
    from sklearn.manifold import TSNE as Method  # noqa: PLC0415, N811 - it takes a second to load
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    start = _widest(vectors)
    start *= 1e-4 / max(start[:, 0].std(), 1e-12)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    said = _Said(stepped)
    with threadpool_limits(1), redirect_stdout(said):  # its threads wait for each other: two took twice as long
        method = Method(
            2,
            perplexity=perplexity,
            init=start.astype(np.float32),
            angle=ANGLE,
            max_iter=TSNE_STEPS,
            random_state=seed,
            verbose=2,
        )
        found = method.fit_transform(vectors.astype(np.float64))
    return _scaled(np.asarray(found, np.float64))


class _Said(io.TextIOBase):
    """How far scikit-learn is, which it tells nobody but prints."""

    def __init__(self, stepped: Callable[[int], None]) -> None:
        self._stepped, self._done = stepped, 0

    def write(self, text: str) -> int:
        if found := re.search(r"Iteration (\d+)", text):
            done = int(found[1])
            self._stepped(done - self._done)
            self._done = done
        return len(text)


def _widest(vectors: Floats) -> NDArray[np.float64]:
    """(m, 2) along the two directions in which they vary most."""
    off = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(off.T @ off)
    axes = axes[:, ::-1][:, :2]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)  # else LAPACK's whim
    wide = np.zeros((len(off), 2))
    wide[:, : axes.shape[1]] = off @ axes
    return wide


def _scaled(xy: NDArray[np.float64]) -> Floats:
    low, spread = xy.min(axis=0), np.ptp(xy, axis=0)
    return np.asarray((xy - low) / np.where(spread > 0, spread, 1), np.float32)


COMMAND = (sys.executable, "-m", "astrodetect.anomalies.projection")
NICENESS = 19  # of os.nice: every other process goes before it
PARENT_GONE_STATUS = 1  # its exit status where whoever started it has gone
DONE = b"done\n"  # what it says before the map
KIND = np.dtype("<f4")  # of the numbers between the two


class ProjectionProcess:
    """The process, from its start on; to be stopped by any thread, and by whoever made it in the end."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would have to be read all the time
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            creationflags=getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),  # on Windows, which knows no os.nice
        )

    def of(self, vectors: Floats, told: Callable[[float], None]) -> Floats:
        """The map of these vectors as `flat.tsne` draws it; `told` hears what share of the work is done."""
        assert self._process.stdin  # noqa: S101 - it is a pipe
        assert self._process.stdout  # noqa: S101
        try:
            self._process.stdin.write(b"%d %d\n" % vectors.shape + vectors.astype(KIND).tobytes())
            self._process.stdin.flush()  # and not closed: its end tells the process that nobody waits any more
            while (line := self._process.stdout.readline()) != DONE:
                told(float(line))
            return np.frombuffer(self._process.stdout.read(), KIND).reshape(len(vectors), 2).astype(np.float32)
        except (OSError, ValueError) as error:
            raise DrawingFailed(self._reason()) from error

    def stop(self) -> None:
        """Ends it, whatever it is at; `of` then fails."""
        self._process.kill()

    def close(self) -> None:
        """It is there no more when this returns."""
        self.stop()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with suppress(OSError):  # what it did not read: EPIPE, on Windows EINVAL
                    pipe.close()

    def _reason(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process that draws the map was ended by signal {-status}: was the memory too little?"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process that draws the map failed: {said[-1] if said else f'status {status}'}"


def main() -> None:
    """Reads vectors, writes how far it is, then the map."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the service, which stops us
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    given, out = sys.stdin.buffer, sys.stdout.buffer
    shape = [int(number) for number in given.readline().split()]
    vectors = np.frombuffer(given.read(math.prod(shape) * KIND.itemsize), KIND).reshape(shape)
    threading.Thread(target=_end_with, args=(given.fileno(),), daemon=True).start()
    done = 0

    def stepped(count: int) -> None:
        nonlocal done
        done += count
        out.write(b"%.3f\n" % (done / TSNE_STEPS))
        out.flush()

    xy = tsne_projection(vectors, stepped)
    out.write(DONE + xy.astype(KIND).tobytes())
    out.flush()


def _end_with(given: int) -> None:
    """A service that was killed ends nobody, but its end of the pipe closes."""
    os.read(given, 1)
    os._exit(PARENT_GONE_STATUS)


if __name__ == "__main__":
    main()
