"""The values that flow between the parts."""

import datetime as dt
import re
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

ANOMALY = "Anomaly Detected"
NO_ANOMALY = "No Anomaly"
KEYED = 5  # the version of ids that are made from names; all others are random

DIMENSIONS = 64  # of a vector at most

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Floats = NDArray[np.float32]

_Batch = TypeVar("_Batch")
_Material = TypeVar("_Material")
_BatchResult = TypeVar("_BatchResult")


class BatchRunner(Protocol):
    """Yields `compute(read(batch))` for each batch, in order, with at most `streams` computed at once.

    `inference.pipeline.read_ahead` runs them in threads of this process.
    """

    def __call__(
        self,
        batches: Iterable[_Batch],
        read: Callable[[_Batch], _Material],
        compute: Callable[[_Material], _BatchResult],
        streams: int,
    ) -> Generator[_BatchResult]: ...


@dataclass(frozen=True, slots=True)
class ImageContract:
    """How an image becomes what the network sees: a centred square of the frame, scaled to `size`.

    What cannot be done is a ValueError. `bands` and `stretch` say how FITS is shown; pictures are shown as they are.
    """

    RGB: ClassVar[str] = "RGB"
    STRETCHES: ClassVar[tuple[str, ...]] = ("none", "asinh", "zscale", "linear")

    size: int = 227  # pixels, each way
    crop: float = 1.0  # share of the shorter side that is looked at
    bands: str = RGB  # or numbers of planes: "2,1,0", or "0" for grey
    stretch: str = "none"  # FITS is refused
    resample: str = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a size of 1 pixel or more, not {self.size}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"a crop above 0, to 1, not {self.crop}")
        if not re.fullmatch(r"RGB|\d{1,4}(,\d{1,4},\d{1,4})?", self.bands, re.ASCII):
            raise ValueError(f'bands such as "RGB", "2,1,0" or "0", not "{self.bands}"')
        if self.stretch not in self.STRETCHES:
            raise ValueError(f"a stretch of {', '.join(self.STRETCHES)}, not {self.stretch}")
        if self.resample != "bilinear":
            raise ValueError(f"resampling is bilinear, not {self.resample}")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass of the network says of a batch, image by image along the first axis."""

    probabilities: Floats  # (n, classes), each row adds up to 1
    features: Floats  # (n, features): 2048 of a ResNet50
    maps: Floats  # (n, h, w) class activation: what each place adds for the class that is said; of two, for the second

    @property
    def scores(self) -> Floats:
        """Of a model of two classes: the probability of the second one, the positive one."""
        return self.probabilities[:, 1]

    def __getitem__(self, places: slice) -> "Outputs":
        """Some of the images."""
        return Outputs(self.probabilities[places], self.features[places], self.maps[places])

    @staticmethod
    def concatenate(parts: Sequence["Outputs"]) -> "Outputs":
        """The images of all parts, in their order."""
        return Outputs(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.maps for part in parts]),
        )


def as_probabilities(said: Floats) -> Floats:
    """What a head says, one probability of the second class or one of each class, as (n, classes)."""
    return said if said.shape[1] > 1 else np.concatenate([1 - said, said], axis=1)


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """A verdict on one image, before it has its row."""

    image_name: str
    image_sha256: str
    score: float
    threshold: float | None  # None of a model of several classes
    model: str
    model_version: str
    request_id: uuid.UUID = field(default_factory=uuid.uuid4)
    timestamp: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    label: str | None = None  # the class that the image is taken for; None in what earlier versions left in the outbox
    probabilities: Mapping[str, float] | None = None  # of each class
    novelty: float | None = None  # 0 to 1: the share of the training images that are less unusual
    vector: tuple[float, ...] | None = None  # where the image stands among others, in a space
    space: str | None = None  # only vectors of the same one compare

    @property
    def has_client_key(self) -> bool:
        """Whether its id comes from a caller's key, who may ask for it again."""
        return self.request_id.version == KEYED

    @property
    def result(self) -> str:
        """The verdict in the words that the log uses: an anomaly or not, or which of several classes."""
        if self.threshold is None:
            return str(self.label)
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
    label: str | None
    probabilities: Mapping[str, float] | None = field(hash=False)  # no dict has a hash
    novelty: float | None
    space: str | None

    @property
    def image_key(self) -> str:
        """What its labels go by: the image's sum, and where that is not known the prediction's own id."""
        return self.image_sha256 or str(self.id)


@dataclass(frozen=True, slots=True)
class QueuedPrediction:
    """A verdict that is safe on disk, and becomes a row when PostgreSQL is back."""

    scored: ScoredImage

    @property
    def request_id(self) -> uuid.UUID:
        """As a row has it."""
        return self.scored.request_id

    @property
    def image_sha256(self) -> str:
        """As a row has it."""
        return self.scored.image_sha256

    @property
    def model(self) -> str:
        """As a row has it."""
        return self.scored.model


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A prediction whose image is like another one; the smaller the distance, the more."""

    prediction: Prediction
    distance: float


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG of an image, the whole frame upright."""

    image_sha256: str
    jpeg: bytes
    width: int  # pixels
    height: int


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """Where in an image a model saw what it took it for."""

    image_sha256: str
    model_version: str
    places: NDArray[np.uint8]  # (height, width): 255 where most speaks for the class
    crop: float  # share of the frame's shorter side that they cover, from its centre


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """Images of one space, image by image along the first axis."""

    ids: list[int]  # of the first prediction of each
    images: list[str]  # their sums
    classes: list[str]  # what each was taken for
    novelty: Floats
    vectors: Floats  # (n, dimensions)


@dataclass(frozen=True, slots=True)
class PredictionFilters:
    """Which predictions are asked for; None asks nothing."""

    result: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    name: str | None = None  # part of the image's name, whatever the case
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    request_id: uuid.UUID | None = None
    model: str | None = None
    label: str | None = None
    min_novelty: float | None = None


@dataclass(frozen=True, slots=True)
class PredictionPage:
    """Some predictions, newest first; the ids to go on from: None on the last page, and on the newest."""

    predictions: list[Prediction]
    next_before: int | None
    previous_after: int | None
