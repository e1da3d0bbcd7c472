"""How far the middle of the nearest cluster is, as the study has it: too far is unusual, and so is too near."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import WHISKER, DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

CLUSTERS = 10
LEAST_MEMBERS = 5  # images a cluster, on the average: of fewer images there are fewer clusters
SMALLEST_SPREAD = 1e-6  # where all distances are the same
SEED = 0


@dataclass(frozen=True, slots=True)
class KMeans:
    """The distance to the nearest centre: by how many interquartile ranges it is off the middle of the quartiles."""

    name: ClassVar[str] = "kmeans"
    limit: ClassVar[float | None] = 0.5 + WHISKER  # beyond either whisker

    centres: Floats
    middle: float
    spread: float

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""
        from sklearn import cluster  # noqa: PLC0415 - what only scores starts without it

        distinct = len(np.unique(seen.vectors, axis=0))
        clusters = min(CLUSTERS, distinct, max(1, len(seen.vectors) // LEAST_MEMBERS))
        found = cluster.KMeans(clusters, n_init=10, random_state=SEED).fit(seen.vectors)
        centres = found.cluster_centers_.astype(np.float32)
        low, high = np.percentile(_distance(seen, centres), (25, 75))
        return cls(centres, float((low + high) / 2), float(max(high - low, SMALLEST_SPREAD)))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written."""
        centres = stored.floats("centres", None, reference.dimensions)
        return cls(centres, stored.number("middle"), stored.number("spread"))

    def score(self, seen: DetectorInput) -> Floats:
        """0 at a common distance, larger both ways."""
        return np.asarray(np.abs(_distance(seen, self.centres) - self.middle) / self.spread, np.float32)


def _distance(seen: DetectorInput, centres: Floats) -> Floats:
    return np.asarray(np.stack([np.linalg.norm(seen.vectors - centre, axis=1) for centre in centres]).min(axis=0))
