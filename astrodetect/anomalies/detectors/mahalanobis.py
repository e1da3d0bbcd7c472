"""How far an image is off the middle of all."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """Standard deviations off the mean, by a covariance that is shrunk as Ledoit and Wolf do."""

    name: ClassVar[str] = "mahalanobis"
    limit: ClassVar[float | None] = None

    mean: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""
        from sklearn.covariance import LedoitWolf  # noqa: PLC0415 - what only scores starts without it

        found = LedoitWolf().fit(seen.vectors.astype(np.float64))
        return cls(found.location_, found.precision_)

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written."""
        wide = reference.dimensions
        return cls(stored.doubles("mean", wide), stored.doubles("precision", wide, wide))

    def score(self, seen: DetectorInput) -> Floats:
        """The distance, not its square."""
        off = seen.vectors - self.mean
        squares = np.einsum("nd,de,ne->n", off, self.precision, off)
        return np.asarray(np.sqrt(np.maximum(squares, 0)), np.float32)
