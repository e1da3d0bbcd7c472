"""The values that flow between the parts."""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ANOMALY = "Anomaly Detected"
NO_ANOMALY = "No Anomaly"
KEYED = 5  # the version of ids that are made from names; all others are random

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageContract:
    """How an image becomes what the network sees: a centred square of the frame, scaled to `size`."""

    size: int = 227  # pixels, each way
    crop: float = 1.0  # share of the shorter side that is looked at
    bands: str = "RGB"
    stretch: str = "none"
    resample: str = "bilinear"


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass of the network says of a batch, image by image along the first axis."""

    probabilities: Floats  # (n, classes), each row adds up to 1
    features: Floats  # (n, features): 2048 of a ResNet50
    maps: Floats  # (n, h, w) class activation: what each place adds for the class that the image is taken for

    @property
    def scores(self) -> Floats:
        """Of a model of two classes: the probability of the second one, the positive one."""
        return self.probabilities[:, 1]

    def __getitem__(self, places: slice) -> "Outputs":
        """Some of the images."""
        return Outputs(self.probabilities[places], self.features[places], self.maps[places])

    @staticmethod
    def joined(parts: Sequence["Outputs"]) -> "Outputs":
        """The images of all parts, in their order."""
        return Outputs(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.maps for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """A verdict on one image, before it has its row."""

    image_name: str
    image_sha256: str
    score: float
    threshold: float
    model: str
    model_version: str
    request_id: uuid.UUID = field(default_factory=uuid.uuid4)
    timestamp: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def keyed(self) -> bool:
        """Whether its id comes from a caller's key, who may ask for it again."""
        return self.request_id.version == KEYED

    @property
    def result(self) -> str:
        """The verdict in the words that the log uses."""
        return ANOMALY if self.score > self.threshold else NO_ANOMALY


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row of the table `predictions`; what an older program logged lacks the later columns."""

    id: int
    image_name: str
    score: float
    result: str
    timestamp: dt.datetime
    request_id: uuid.UUID | None
    image_sha256: str | None
    threshold: float | None
    model: str | None
    model_version: str | None


@dataclass(frozen=True, slots=True)
class Queued:
    """A verdict that is safe on disk, and becomes a row when PostgreSQL is back."""

    scored: Scored

    @property
    def image_sha256(self) -> str:
        """As a row has it."""
        return self.scored.image_sha256


@dataclass(frozen=True, slots=True)
class Filters:
    """Which predictions are asked for; None asks nothing."""

    result: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    name: str | None = None  # part of the image's name, whatever the case
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    request_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some predictions, newest first; `next_before` is the id to go on from, None on the last page."""

    predictions: list[Prediction]
    next_before: int | None
