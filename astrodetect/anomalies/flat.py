"""The space that the detectors see, in two dimensions: a map on which images that are alike lie together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.progress import Bar
from astrodetect.records import Floats

MOST = 5000  # images on it: t-SNE takes half a minute for them, and more dots hide each other
PERPLEXITY = 30.0
FEWEST = 8  # images for which neighbours mean something


@dataclass(frozen=True, slots=True)
class Flat:
    """Where images lie on the map."""

    places: NDArray[np.int64]  # which images, ascending
    xy: Floats  # (m, 2), each axis from 0 to 1
    method: str  # in words, for people


def flatten(vectors: Floats, wanted: Sequence[int], *, seed: int = 0) -> Flat:
    """A map of all images, or of as many as it takes: those that are `wanted` and others drawn by `seed`."""
    count = len(vectors)
    places = np.arange(count)
    sampled = ""
    if count > MOST:
        first = np.asarray(wanted[:MOST], np.int64)
        others = np.random.default_rng(seed).permutation(np.setdiff1d(places, first))
        places = np.sort(np.concatenate([first, others[: MOST - len(first)]]))
        sampled = f" of {MOST:,} images: those of the gallery, and others drawn at random"
    chosen = vectors[places].astype(np.float64)
    if count < FEWEST or chosen.shape[1] < 2 or np.ptp(chosen, axis=0).max() == 0:
        return Flat(places, _scaled(chosen), f"first two principal components{sampled}")
    with Bar("flattening the map", 1) as bar:
        xy = _tsne(chosen, seed)
        bar.step()
    return Flat(places, _scaled(xy), f"t-SNE{sampled}")


def _tsne(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # noqa: PLC0415 - it takes a second to load
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = vectors[:, :2] / max(vectors[:, 0].std(), 1e-12) * 1e-4  # the space's first axes are the widest
    with threadpool_limits(1):  # its threads wait for each other at every step: two on shared cores took twice as long
        method = TSNE(2, perplexity=perplexity, init=start.astype(np.float32), random_state=seed)
        return np.asarray(method.fit_transform(vectors), np.float64)


def _scaled(xy: NDArray[np.float64]) -> Floats:
    wide = np.zeros((len(xy), 2))
    wide[:, : min(2, xy.shape[1])] = xy[:, :2]
    low, spread = wide.min(axis=0), np.ptp(wide, axis=0)
    return np.asarray((wide - low) / np.where(spread > 0, spread, 1), np.float32)
