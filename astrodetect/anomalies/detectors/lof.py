"""The local outlier factor: how much thinner it is round an image than round its neighbours."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import NearestNeighbours, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

LEAST_REACH = 0.5  # of the mean reach: copies of an image are infinitely dense, and would set apart what is beside them
NOTHING = 1e-10  # as scikit-learn has it, for distances that are all 0


@dataclass(frozen=True, slots=True)
class Lof:
    """Density by the distances to the neighbours, each counted as that neighbour's reach at least."""

    name: ClassVar[str] = "lof"
    limit: ClassVar[float | None] = None

    reach: Floats  # of each image of the reference: how far its last neighbour is
    density: Floats

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""
        last = seen.near.distances[:, -1]
        reach = np.maximum(last, LEAST_REACH * last.mean())
        return cls(reach, _density(seen.near, reach))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written."""
        return cls(stored.floats("reach", len(reference)), stored.floats("density", len(reference)))

    def score(self, seen: DetectorInput) -> Floats:
        """About 1 where it is as dense as round the neighbours, larger where it is thinner."""
        own = _density(seen.near, self.reach)
        return np.asarray(self.density[seen.near.places].mean(axis=1) / own, np.float32)


def _density(near: NearestNeighbours, reach: Floats) -> Floats:
    return np.asarray(1 / (np.maximum(near.distances, reach[near.places]).mean(axis=1) + NOTHING), np.float32)
