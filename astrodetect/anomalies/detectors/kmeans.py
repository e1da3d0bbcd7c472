"""k-means: how atypical the distance to the nearest cluster centre is, too small as well as too large."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import WHISKER, DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

CLUSTERS = 10
IMAGES_PER_CLUSTER = 5  # at least, on average: small sets get fewer clusters
MIN_IQR = 1e-6  # where all distances are equal
SEED = 0


@dataclass(frozen=True, slots=True)
class KMeans:
    """The distance to the nearest centre, in interquartile ranges from the midhinge; flagged beyond either whisker."""

    name: ClassVar[str] = "kmeans"
    limit: ClassVar[float | None] = 0.5 + WHISKER

    centres: Floats
    middle: float  # the midhinge of the training distances, (Q1 + Q3) / 2
    spread: float  # their interquartile range

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        from sklearn import cluster  # noqa: PLC0415 - scoring starts without scikit-learn

        distinct = len(np.unique(images.vectors, axis=0))
        clusters = min(CLUSTERS, distinct, max(1, len(images.vectors) // IMAGES_PER_CLUSTER))
        fitted = cluster.KMeans(clusters, n_init=10, random_state=SEED).fit(images.vectors)
        centres = fitted.cluster_centers_.astype(np.float32)
        low, high = np.percentile(_centre_distances(images, centres), (25, 75))
        return cls(centres, float((low + high) / 2), float(max(high - low, MIN_IQR)))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        centres = stored.floats("centres", None, reference.dimensions)
        return cls(centres, stored.scalar("middle"), stored.scalar("spread"))

    def score(self, images: DetectorInput) -> Floats:
        """0 at the midhinge, growing in both directions."""
        return np.asarray(np.abs(_centre_distances(images, self.centres) - self.middle) / self.spread, np.float32)


def _centre_distances(images: DetectorInput, centres: Floats) -> Floats:
    distances = [np.linalg.norm(images.vectors - centre, axis=1) for centre in centres]
    return np.asarray(np.stack(distances).min(axis=0))
