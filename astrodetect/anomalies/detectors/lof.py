"""Local outlier factor (Breunig et al. 2000): the density around an image relative to that of its neighbours."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput, NearestNeighbours, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

MIN_REACH = 0.5  # of the mean k-distance: duplicates have infinite density and would flag everything near them
EPSILON = 1e-10  # as in scikit-learn, against division by zero


@dataclass(frozen=True, slots=True)
class Lof:
    """LOF with k-distances bounded from below."""

    name: ClassVar[str] = "lof"
    limit: ClassVar[float | None] = None

    reach: Floats  # the k-distance of each reference point
    density: Floats  # its local reachability density

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        k_distances = images.neighbours.distances[:, -1]
        reach = np.maximum(k_distances, MIN_REACH * k_distances.mean())
        return cls(reach, _reachability_density(images.neighbours, reach))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        return cls(stored.floats("reach", len(reference)), stored.floats("density", len(reference)))

    def score(self, images: DetectorInput) -> Floats:
        """The local outlier factor: about 1 for an inlier, larger in sparser surroundings."""
        density = _reachability_density(images.neighbours, self.reach)
        return np.asarray(self.density[images.neighbours.indices].mean(axis=1) / density, np.float32)


def _reachability_density(neighbours: NearestNeighbours, reach: Floats) -> Floats:
    reachability = np.maximum(neighbours.distances, reach[neighbours.indices])
    return np.asarray(1 / (reachability.mean(axis=1) + EPSILON), np.float32)
