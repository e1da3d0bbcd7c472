"""Mahalanobis distance from the training mean."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """Mahalanobis distance with a Ledoit–Wolf shrunk covariance."""

    name: ClassVar[str] = "mahalanobis"
    limit: ClassVar[float | None] = None

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        from sklearn.covariance import LedoitWolf  # noqa: PLC0415 - scoring starts without scikit-learn

        covariance = LedoitWolf().fit(images.vectors.astype(np.float64))
        return cls(covariance.location_, covariance.precision_)

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        dimensions = reference.dimensions
        return cls(stored.doubles("mean", dimensions), stored.doubles("precision", dimensions, dimensions))

    def score(self, images: DetectorInput) -> Floats:
        """The distance, not its square."""
        centred = images.vectors - self.mean
        squares = np.einsum("nd,de,ne->n", centred, self.precision, centred)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)
