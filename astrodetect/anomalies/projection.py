"""The space that the detectors see, in two dimensions: a map on which images that are alike lie together."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.progress import Bar
from astrodetect.records import Floats

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
