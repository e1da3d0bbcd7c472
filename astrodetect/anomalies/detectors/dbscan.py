"""DBSCAN: the distance to the nearest core point, where the knee of the k-distance curve sets the radius."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

MIN_NEIGHBOURS = 4  # within the radius of a core point: with the point itself, min_samples is 5
MIN_CORE_SHARE = 0.97  # of the images: the knee is arbitrary where the k-distance curve has none
MIN_RADIUS = 1e-6


@dataclass(frozen=True, slots=True)
class Dbscan:
    """The distance to the nearest core point, in radii; beyond 1 an image is noise."""

    name: ClassVar[str] = "dbscan"
    limit: ClassVar[float | None] = 1.0

    radius: float
    core: NDArray[np.int32]  # indices of the core points among the reference points

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        distances = images.neighbours.distances
        k_distances = distances[:, min(MIN_NEIGHBOURS, distances.shape[1]) - 1]
        radius = max(_knee(k_distances), float(np.percentile(k_distances, 100 * MIN_CORE_SHARE)), MIN_RADIUS)
        return cls(radius, np.flatnonzero(k_distances <= radius).astype(np.int32))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        return cls(stored.scalar("radius"), stored.indices("core", None, below=len(reference)))

    def score(self, images: DetectorInput) -> Floats:
        """The distance to the nearest core point, in radii."""
        is_core = np.zeros(len(images.reference), bool)
        is_core[self.core] = True
        neighbours = images.neighbours
        distances = np.where(is_core[neighbours.indices], neighbours.distances, np.inf).min(axis=1)
        isolated = ~np.isfinite(distances)  # no core point among the neighbours: search all core points
        if isolated.any():
            core_points = ReferencePoints(images.reference.points[self.core])
            distances[isolated] = core_points.nearest(images.vectors[isolated], 1).distances[:, 0]
        return np.asarray(distances / self.radius, np.float32)


def _knee(distances: Floats) -> float:
    """The knee of the sorted distances: where they are farthest below the chord from first to last."""
    curve = np.sort(distances)
    chord = np.linspace(curve[0], curve[-1], len(curve))
    return float(curve[np.argmax(chord - curve)])
