"""What belongs to no cluster: too far from every image that has company."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

LEAST_COMPANY = 4  # others within the radius: with the image itself, the study's five
CORE_SHARE = 0.97  # of the images have company at least: where the curve has no knee, its knee is anywhere
SMALLEST_RADIUS = 1e-6


@dataclass(frozen=True, slots=True)
class Dbscan:
    """The distance to the nearest core image, in radii; the radius is where the curve of distances bends."""

    name: ClassVar[str] = "dbscan"
    limit: ClassVar[float | None] = 1.0

    radius: float
    core: NDArray[np.int32]  # the images of the reference that have company

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""
        company = seen.near.distances[:, min(LEAST_COMPANY, seen.near.distances.shape[1]) - 1]
        radius = max(_knee(company), float(np.percentile(company, 100 * CORE_SHARE)), SMALLEST_RADIUS)
        return cls(radius, np.flatnonzero(company <= radius).astype(np.int32))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written."""
        return cls(stored.number("radius"), stored.places("core", None, below=len(reference)))

    def score(self, seen: DetectorInput) -> Floats:
        """Beyond 1 it is noise."""
        is_core = np.zeros(len(seen.reference), bool)
        is_core[self.core] = True
        near = np.where(is_core[seen.near.places], seen.near.distances, np.inf).min(axis=1)
        far = ~np.isfinite(near)  # none of the neighbours is a core image: those further off are looked through
        if far.any():
            near[far] = ReferencePoints(seen.reference.points[self.core]).nearest(seen.vectors[far], 1).distances[:, 0]
        return np.asarray(near / self.radius, np.float32)


def _knee(distances: Floats) -> float:
    """Where the curve of ordered distances is farthest below the line from its start to its end."""
    curve = np.sort(distances)
    line = np.linspace(curve[0], curve[-1], len(curve))
    return float(curve[np.argmax(line - curve)])
