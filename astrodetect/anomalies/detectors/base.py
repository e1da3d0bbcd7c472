"""The protocol of anomaly detectors and what they share: their input and the Tukey fence."""

from functools import cached_property
from typing import ClassVar, Protocol, Self

import numpy as np

from astrodetect.anomalies.neighbours import NearestNeighbours, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

WHISKER = 1.5  # interquartile ranges


class DetectorInput:
    """Images as detectors get them: features, whitened vectors, and nearest neighbours, which are searched once.

    With `leave_one_out` the images are the reference points, and no image is its own neighbour.
    """

    def __init__(
        self, features: Floats, vectors: Floats, reference: ReferencePoints, *, leave_one_out: bool = False
    ) -> None:
        self.features, self.vectors, self.reference = features, vectors, reference
        self._leave_one_out = leave_one_out

    @cached_property
    def neighbours(self) -> NearestNeighbours:
        """The nearest reference points of each image."""
        return self.reference.leave_one_out() if self._leave_one_out else self.reference.nearest(self.vectors)


class Detector(Protocol):
    """A fitted, immutable detector: a dataclass whose fields are stored under their names."""

    name: ClassVar[str]
    limit: ClassVar[float | None]  # scores above it are flagged; None: the Tukey fence of the training scores

    def score(self, images: DetectorInput) -> Floats:
        """(n,) anomaly scores; larger is more unusual."""

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays; a ModelError where they do not fit the reference points."""


class FittableDetector(Detector, Protocol):
    """A detector that is fitted on the reference points."""

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""


def tukey_fence(scores: Floats) -> float:
    """The upper Tukey fence, Q3 + 1.5 IQR."""
    low, high = np.percentile(scores, (25, 75))
    return float(high + WHISKER * (high - low))
