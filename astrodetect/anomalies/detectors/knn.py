"""How far the nearest images are."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Knn:
    """The mean distance to the nearest images."""

    name: ClassVar[str] = "knn"
    limit: ClassVar[float | None] = None

    @classmethod
    def fit(cls, _seen: DetectorInput) -> Self:
        """It needs no more than the reference."""
        return cls()

    @classmethod
    def read(cls, _stored: StoredArrays, _reference: ReferencePoints) -> Self:
        """As written."""
        return cls()

    def score(self, seen: DetectorInput) -> Floats:
        """In units of the space."""
        return np.asarray(seen.near.distances[:, :NEIGHBOURS].mean(axis=1))
