"""What all detectors of unusual images have in common."""

from functools import cached_property
from typing import ClassVar, Protocol, Self

import numpy as np

from astrodetect.anomalies.neighbours import NearestNeighbours, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

WHISKER = 1.5  # interquartile ranges: how far beyond a quartile is too far


class DetectorInput:
    """What detectors look at: images as described, where they stand, and who stands near, looked up once for all.

    With `learnt` they are the images of the reference, and each is left out of its own surroundings.
    """

    def __init__(self, described: Floats, vectors: Floats, reference: ReferencePoints, *, learnt: bool = False) -> None:
        self.described, self.vectors, self.reference = described, vectors, reference
        self._learnt = learnt

    @cached_property
    def near(self) -> NearestNeighbours:
        """The nearest images of the reference."""
        return self.reference.among_others() if self._learnt else self.reference.nearest(self.vectors)


class Detector(Protocol):
    """Fitted and immutable: a dataclass whose fields are what is stored."""

    name: ClassVar[str]
    limit: ClassVar[
        float | None
    ]  # the score beyond which it flags; None: an outlier among the scores of what it learnt

    def score(self, seen: DetectorInput) -> Floats:
        """(n,), larger is more unusual."""

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written; a ModelError where it does not fit the reference."""


class FittableDetector(Detector, Protocol):
    """A detector that learns from what is seen alone."""

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""


def tukey_fence(scores: Floats) -> float:
    """Above it are outliers, as a box plot draws them: Q3 + 1.5 IQR."""
    low, high = np.percentile(scores, (25, 75))
    return float(high + WHISKER * (high - low))
