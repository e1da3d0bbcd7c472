"""Positions on a map of images that were not part of its computation, by their neighbours among those that were."""

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

NEIGHBOURS = 5
NEAR = 0.02  # of the map: only neighbours that lie so close to the nearest one count, or it would lie between clusters
GROUP = 64  # distances of which the least is compared first
BATCH = 512  # images at a time: 40 MB of distances to 20,000 others


class Placement:
    """Places images on a map of others."""

    def __init__(self, vectors: Floats, xy: Floats) -> None:
        padding = -len(vectors) % GROUP
        self._vectors = np.pad(vectors, ((0, padding), (0, 0))).astype(np.float32)
        self._squares: Floats = np.pad(
            (vectors.astype(np.float32) ** 2).sum(axis=1), (0, padding), constant_values=np.inf
        )
        self._xy = np.pad(xy, ((0, padding), (0, 0)))
        self._count = min(NEIGHBOURS, len(vectors))

    def place(self, vectors: Floats) -> Floats:
        """(n, 2) the mean position of the nearest neighbours that lie together, weighted by inverse square distance."""
        width = self._vectors.shape[1]
        fitted = np.zeros((len(vectors), width), np.float32)
        fitted[:, : vectors.shape[1]] = vectors[:, :width]
        batches = [self._place(fitted[start : start + BATCH]) for start in range(0, len(fitted), BATCH)]
        return np.concatenate(batches) if batches else np.empty((0, 2), np.float32)

    def _place(self, vectors: Floats) -> Floats:
        distances = self._squares - 2 * (vectors @ self._vectors.T)
        nearest, squares = self._nearest(distances)
        squares = np.maximum(squares + (vectors**2).sum(axis=1)[:, None], 1e-9)
        positions = self._xy[nearest]
        apart = np.abs(positions - positions[:, :1]).max(axis=2)
        weights = np.where(apart <= NEAR, 1 / squares, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.asarray((positions * weights[:, :, None]).sum(axis=1), np.float32)

    def _nearest(self, distances: Floats) -> tuple[NDArray[np.int64], Floats]:
        """The indices of the least distances of each row, ascending, and these.

        They are in the groups that have the least minima.
        """
        rows = np.arange(len(distances))[:, None]
        grouped = distances.reshape(len(distances), -1, GROUP)
        groups = min(self._count, grouped.shape[1])
        minima = grouped.min(axis=2)
        chosen = np.argpartition(minima, groups - 1, axis=1)[:, :groups]
        candidates = grouped[rows, chosen].reshape(len(distances), -1)
        best = np.argpartition(candidates, self._count - 1, axis=1)[:, : self._count]
        values = candidates[rows, best]
        order = np.argsort(values, axis=1)
        best, values = best[rows, order], values[rows, order]
        return chosen[rows, best // GROUP] * GROUP + best % GROUP, values
