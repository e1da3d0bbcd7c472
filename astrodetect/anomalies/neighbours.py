"""The nearest of the images learnt from, exactly, by blocks of products."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.progress import track
from astrodetect.records import Floats

MAX_NEIGHBOURS = 20
SPARE = 12  # candidates beyond those wanted: products in single precision may swap what is equally near
BLOCK = 256  # images at a time: 20 MB of products with 20,000


class NearestNeighbours(NamedTuple):
    """The nearest ones of each image, the nearest first."""

    distances: Floats  # (n, neighbours)
    places: NDArray[np.int64]  # (n, neighbours)


@dataclass(frozen=True)
class ReferencePoints:
    """Points to be near to, one a row."""

    points: Floats  # (points, dimensions)

    @classmethod
    def read(cls, stored: StoredArrays, dimensions: int) -> Self:
        """As written."""
        return cls(stored.floats("points", None, dimensions))

    @property
    def dimensions(self) -> int:
        """Of the space that the points are in."""
        return int(self.points.shape[1])

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, vectors: Floats, count: int = MAX_NEIGHBOURS) -> NearestNeighbours:
        """Those near to new images."""
        blocks = [self._nearest(vectors[at : at + BLOCK], count) for at in range(0, max(len(vectors), 1), BLOCK)]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def among_others(self, count: int = MAX_NEIGHBOURS) -> NearestNeighbours:
        """Those near to each of the points, itself left out."""
        starts = range(0, len(self), BLOCK)
        blocks = [
            self._nearest(self.points[at : at + BLOCK], count, own=at)
            for at in track(starts, "comparing the images", len(starts))
        ]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def _nearest(self, vectors: Floats, count: int, own: int | None = None) -> NearestNeighbours:
        """By products first, then the best of those by differences, which are exact and the same in any company."""
        across, half_squares = self._across
        products = np.einsum("nd,dp->np", vectors, across) - half_squares
        others = len(self)
        if own is not None:
            products[np.arange(len(vectors)), own + np.arange(len(vectors))] = -np.inf
            others -= 1
        likely = np.argpartition(products, -min(count + SPARE, others), axis=1)[:, -min(count + SPARE, others) :]
        apart = self.points[likely].astype(np.float64) - vectors[:, None, :]
        distances = np.sqrt(np.einsum("npd,npd->np", apart, apart))
        order = np.lexsort((likely, distances))[:, :count]
        found = np.take_along_axis(distances, order, axis=1), np.take_along_axis(likely, order, axis=1)
        return NearestNeighbours(found[0].astype(np.float32), found[1])

    @cached_property
    def _across(self) -> tuple[Floats, Floats]:
        """The points one a column, for products without BLAS, whose threads cost a lone image fifty times as much."""
        return np.ascontiguousarray(self.points.T), np.asarray((self.points**2).sum(axis=1) / 2)
