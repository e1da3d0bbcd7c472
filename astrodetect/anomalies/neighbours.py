"""Exact k-nearest-neighbour search among the training images, by blocks of matrix products."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.progress import track_progress
from astrodetect.records import Floats

MAX_NEIGHBOURS = 20
SPARE_CANDIDATES = 12  # beyond those requested: single precision may swap points at nearly the same distance
BLOCK = 256  # images per product: 20 MB with 20,000 reference points


class NearestNeighbours(NamedTuple):
    """The nearest neighbours of each image, the nearest first."""

    distances: Floats  # (n, neighbours)
    indices: NDArray[np.int64]  # (n, neighbours)


@dataclass(frozen=True)
class ReferencePoints:
    """The points that are searched, one per row."""

    points: Floats  # (points, dimensions)

    @classmethod
    def read(cls, stored: StoredArrays, dimensions: int) -> Self:
        """Load from stored arrays."""
        return cls(stored.floats("points", None, dimensions))

    @property
    def dimensions(self) -> int:
        """The number of dimensions of the space."""
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, vectors: Floats, count: int = MAX_NEIGHBOURS) -> NearestNeighbours:
        """The nearest reference points of new images."""
        blocks = [self._nearest(vectors[at : at + BLOCK], count) for at in range(0, max(len(vectors), 1), BLOCK)]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def leave_one_out(self, count: int = MAX_NEIGHBOURS) -> NearestNeighbours:
        """The nearest reference points of each reference point, itself excluded."""
        starts = range(0, len(self), BLOCK)
        blocks = [
            self._nearest(self.points[at : at + BLOCK], count, first_index=at)
            for at in track_progress(starts, "comparing the images", len(starts))
        ]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def _nearest(self, vectors: Floats, count: int, first_index: int | None = None) -> NearestNeighbours:
        """Candidates by products, then exact distances, so that results do not depend on the rest of the batch.

        `first_index` is the index of the first vector where the vectors are reference points, to be excluded.
        """
        transposed, half_squares = self._transposed
        products = np.einsum("nd,dp->np", vectors, transposed) - half_squares
        available = len(self)
        if first_index is not None:
            products[np.arange(len(vectors)), first_index + np.arange(len(vectors))] = -np.inf
            available -= 1
        candidate_count = min(count + SPARE_CANDIDATES, available)
        candidates = np.argpartition(products, -candidate_count, axis=1)[:, -candidate_count:]
        differences = self.points[candidates].astype(np.float64) - vectors[:, None, :]
        distances = np.sqrt(np.einsum("npd,npd->np", differences, differences))
        order = np.lexsort((candidates, distances))[:, :count]
        return NearestNeighbours(
            np.take_along_axis(distances, order, axis=1).astype(np.float32),
            np.take_along_axis(candidates, order, axis=1),
        )

    @cached_property
    def _transposed(self) -> tuple[Floats, Floats]:
        """(dimensions, points) for products without BLAS, whose threads make a single image fifty times slower."""
        return np.ascontiguousarray(self.points.T), np.asarray((self.points**2).sum(axis=1) / 2)
