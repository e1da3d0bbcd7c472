"""kNN distance: the mean distance to the k nearest training images."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Knn:
    """Mean kNN distance; it has no parameters beyond the reference points."""

    name: ClassVar[str] = "knn"
    limit: ClassVar[float | None] = None

    @classmethod
    def fit(cls, _images: DetectorInput) -> Self:
        """Fit to the training images."""
        return cls()

    @classmethod
    def read(cls, _stored: StoredArrays, _reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        return cls()

    def score(self, images: DetectorInput) -> Floats:
        """The mean distance, in whitened units."""
        return np.asarray(images.neighbours.distances[:, :NEIGHBOURS].mean(axis=1))
