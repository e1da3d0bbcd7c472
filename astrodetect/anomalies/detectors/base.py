"""The protocol of anomaly detectors and what they share: their input and the Tukey fence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.progress import track_progress
from astrodetect.records import Floats

MAX_NEIGHBOURS = 20
SPARE_CANDIDATES = 12  # beyond those requested: single precision may swap points at nearly the same distance
QUICKLY_COMPARED = 4_000  # points, in about a second: without a progress bar
BLAS_IMAGES = 64  # in a product from which on it uses BLAS
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

    def part(self, first: int, last: int) -> "ReferencePoints":
        """The points in some of the dimensions."""
        if (part := self._parts.get((first, last))) is None:
            part = self._parts[first, last] = ReferencePoints(np.ascontiguousarray(self.points[:, first:last]))
        return part

    @cached_property
    def _parts(self) -> "dict[tuple[int, int], ReferencePoints]":
        return {}

    def __len__(self) -> int:
        return len(self.points)

    def nearest(self, vectors: Floats, count: int = MAX_NEIGHBOURS) -> NearestNeighbours:
        """The nearest reference points of new images."""
        blocks = [self._nearest(vectors[at : at + BLOCK], count) for at in range(0, max(len(vectors), 1), BLOCK)]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def leave_one_out(self) -> NearestNeighbours:
        """The nearest reference points of each reference point, itself excluded."""
        starts: Iterable[int] = range(0, len(self), BLOCK)
        if len(self) > QUICKLY_COMPARED:
            starts = track_progress(starts, "comparing the images", len(range(0, len(self), BLOCK)))
        blocks = [self._nearest(self.points[at : at + BLOCK], MAX_NEIGHBOURS, first_index=at) for at in starts]
        return NearestNeighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))

    def _nearest(self, vectors: Floats, count: int, first_index: int | None = None) -> NearestNeighbours:
        """Candidates by products, then exact distances, so that results do not depend on the rest of the batch.

        `first_index` is the index of the first vector where the vectors are reference points, to be excluded.
        """
        transposed, half_squares = self._transposed
        # BLAS only for many: its threads make a single image fifty times slower. Rounding decides on spare candidates.
        many = len(vectors) >= BLAS_IMAGES
        products = vectors @ transposed if many else np.einsum("nd,dp->np", vectors, transposed)
        products -= half_squares
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
        """(dimensions, points) and half the squared lengths of the points."""
        return np.ascontiguousarray(self.points.T), np.asarray((self.points**2).sum(axis=1) / 2)


WHISKER = 1.5  # interquartile ranges


class DetectorInput:
    """Images as detectors get them: features, whitened vectors, and nearest neighbours, which are searched once.

    With `leave_one_out` the images are the reference points, and no image is its own neighbour. `dimensions` are those
    of each block of the space.
    """

    def __init__(
        self,
        features: Floats,
        vectors: Floats,
        reference: ReferencePoints,
        dimensions: Sequence[int] = (),
        *,
        leave_one_out: bool = False,
    ) -> None:
        self.features, self.vectors, self.reference = features, vectors, reference
        self._dimensions, self._leave_one_out = dimensions, leave_one_out

    @cached_property
    def neighbours(self) -> NearestNeighbours:
        """The nearest reference points of each image."""
        return self.reference.leave_one_out() if self._leave_one_out else self.reference.nearest(self.vectors)

    def block(self, number: int, max_dimensions: int) -> "DetectorInput":
        """The same images in the first dimensions of one block of the space."""
        first = sum(self._dimensions[:number])
        last = first + min(max_dimensions, self._dimensions[number])
        return self.within(np.ascontiguousarray(self.vectors[:, first:last]), self.reference.part(first, last))

    def within(self, vectors: Floats, reference: ReferencePoints) -> "DetectorInput":
        """The same images in another space."""
        return DetectorInput(self.features, vectors, reference, leave_one_out=self._leave_one_out)


class Detector(Protocol):
    """A fitted, immutable detector: a dataclass whose fields are stored under their names."""

    name: ClassVar[str]
    limit: ClassVar[float | None]  # scores above it are flagged; None: the Tukey fence of the training scores

    def score(self, images: DetectorInput) -> Floats:
        """(n,) anomaly scores; larger is more unusual."""

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays; a ModelError where they do not fit the reference points."""


class FittableDetector(Detector, Protocol):
    """A detector that is fitted on the reference points."""

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""


def tukey_fence(scores: Floats) -> float:
    """The upper Tukey fence, Q3 + 1.5 IQR."""
    low, high = np.percentile(scores, (25, 75))
    return float(high + WHISKER * (high - low))
