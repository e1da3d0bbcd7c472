"""The records that pass between packages."""

import datetime as dt
import re
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

ANOMALY = "Anomaly Detected"
NO_ANOMALY = "No Anomaly"
UNUSUAL_NOVELTY = 0.99  # from which an image is called unusual, whatever its class
NAME_BASED_UUID = 5  # the version of request ids made from an Idempotency-Key; all others are random

DIMENSIONS = 64  # of a stored vector; shorter ones are padded with zeros

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
Floats = NDArray[np.float32]
ImagePath: TypeAlias = Path | str  # a local file, or the reference of another image: its URL, or SHARD#MEMBER

BIGINT_MAX = 2**63 - 1  # largest id in PostgreSQL

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


def parse_prior(text: str) -> dict[str, float]:
    """Class name → its share among the images to come, from CLASS=SHARE,…; ValueError says what is wrong."""
    entries = [entry.rpartition("=")[::2] for entry in text.split(",")] if text else []
    try:
        prior = {name: float(share) for name, share in entries}
    except ValueError:
        prior = {}
    if len(prior) < len(entries) or not all(name and 0 < share < 1 for name, share in prior.items()):
        raise ValueError(f"CLASS=SHARE,… with shares between 0 and 1, such as E=0.1, not {text}")
    return prior


@dataclass(frozen=True, slots=True)
class ImageContract:
    """Preprocessing of images for a model: a centred square of the frame, scaled to `size`.

    Invalid values raise ValueError. `bands` and `stretch` apply to FITS only.
    """

    RGB: ClassVar[str] = "RGB"
    STRETCHES: ClassVar[tuple[str, ...]] = ("none", "asinh", "zscale", "linear")

    size: int = 227  # pixels
    crop: float = 1.0  # side of the square, as a share of the shorter side of the frame
    bands: str = RGB  # or plane numbers: "2,1,0", or "0" for grey
    stretch: str = "none"  # "none" rejects FITS
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
    """Outputs of the network for a batch of n images."""

    probabilities: Floats  # (n, classes), each row sums to 1
    features: Floats  # (n, features): 2048 of a ResNet50
    maps: Floats  # (n, h, w), class activation maps of the predicted class; of binary models, of the positive class

    @property
    def scores(self) -> Floats:
        """Probability of the second class, which is the positive class of a binary model."""
        return self.probabilities[:, 1]

    def __getitem__(self, images: slice) -> "Outputs":
        """A slice of the batch."""
        return Outputs(self.probabilities[images], self.features[images], self.maps[images])

    @staticmethod
    def concatenate(parts: Sequence["Outputs"]) -> "Outputs":
        """One batch of all parts, in order."""
        return Outputs(
            np.concatenate([part.probabilities for part in parts]),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.maps for part in parts]),
        )


def as_probabilities(outputs: Floats) -> Floats:
    """Probabilities (n, classes) from a head's outputs: of each class, or of the second one alone."""
    return outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], axis=1)


@dataclass(frozen=True, slots=True)
class SkyObject:
    """Where an image is on the sky, in degrees, ICRS, and what its object is called; `ra` and `dec` come together."""

    ra: float | None = None
    dec: float | None = None
    object_id: str | None = None


@dataclass(frozen=True, slots=True)
class Cone:
    """The positions within a radius of a centre; degrees."""

    ra: float
    dec: float
    radius: float


@dataclass(frozen=True, slots=True)
class SkyCell:
    """A HEALPix cell with objects in it: how many, the highest novelty, and the first of them."""

    cell: int  # nested, of the order of the map
    count: int
    novelty: float | None = None
    id: int | None = None
    ra: float = 0.0
    dec: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The result for one image, before it is a row of the table."""

    image_name: str
    image_sha256: str
    score: float
    threshold: float | None  # None for models of several classes
    model: str
    model_version: str
    request_id: uuid.UUID = field(default_factory=uuid.uuid4)
    timestamp: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    label: str | None = None  # the predicted class; None in the outboxes of earlier versions
    probabilities: Mapping[str, float] | None = None  # of each class
    novelty: float | None = None  # 0 to 1: the share of the training images that are less unusual
    vector: tuple[float, ...] | None = field(
        default=None, repr=False
    )  # the whitened features, for the search for similar images
    space: str | None = None  # identifies the detectors: only vectors of one space are comparable
    in_domain: bool | None = None  # whether the image is like those that the detectors were fitted on
    novelty_view: str | None = None  # the view that contributes the most to the novelty
    description: str | None = None  # base64 of the measured features, which new detectors can describe again
    description_kind: str | None = None  # only descriptions of one kind are comparable
    ra: float | None = None  # of its object: degrees, ICRS
    dec: float | None = None
    object_id: str | None = None

    @property
    def has_client_key(self) -> bool:
        """Whether the request id comes from an Idempotency-Key, so that the client may repeat the request."""
        return self.request_id.version == NAME_BASED_UUID

    @property
    def result(self) -> str:
        """The value of the column `result`: anomaly or not, or the predicted class."""
        if self.threshold is None:
            return str(self.label)
        return ANOMALY if self.score > self.threshold else NO_ANOMALY


@dataclass(frozen=True, slots=True)
class Prediction:
    """A row of the table `predictions`; columns that were added later are None in older rows."""

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
    probabilities: Mapping[str, float] | None = field(hash=False)  # a dict is not hashable
    novelty: float | None
    space: str | None
    in_domain: bool | None
    novelty_view: str | None
    ra: float | None
    dec: float | None
    object_id: str | None
    known: bool | None = None  # of the table `catalogue_matches`; None: not compared with catalogues
    known_name: str | None = None  # of the nearest known object
    known_type: str | None = None
    known_arcsec: float | None = None  # its separation
    known_references: int | None = None
    known_catalogue: str | None = None
    tags: tuple[str, ...] = ()  # of its image, in the table `image_tags`

    @property
    def image_key(self) -> str:
        """Key of the image's labels: its SHA-256, or the prediction's id where that was not recorded."""
        return self.image_sha256 or str(self.id)


@dataclass(frozen=True, slots=True)
class QueuedPrediction:
    """A prediction in the outbox, which becomes a row when PostgreSQL is available."""

    scored: ScoredImage

    @property
    def request_id(self) -> uuid.UUID:
        """As in the row."""
        return self.scored.request_id

    @property
    def image_sha256(self) -> str:
        """As in the row."""
        return self.scored.image_sha256

    @property
    def model(self) -> str:
        """As in the row."""
        return self.scored.model


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar image's prediction, with the Euclidean distance of its vector."""

    prediction: Prediction
    distance: float


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG of the whole frame, upright."""

    image_sha256: str
    jpeg: bytes
    width: int  # pixels
    height: int
    bands: int = 0  # of a FITS image whose values are stored


@dataclass(frozen=True, slots=True, eq=False)
class HeatMap:
    """The class activation map of an image for the predicted class, as bytes."""

    image_sha256: str
    model_version: str
    places: NDArray[np.uint8]  # (height, width), 255 at the maximum
    crop: float  # side of the centred square that it covers, as a share of the frame's shorter side


@dataclass(frozen=True, slots=True)
class EmbeddedImages:
    """The images of one space (n)."""

    ids: list[int]  # of each image's first prediction
    images: list[str]  # SHA-256
    classes: list[str]  # predicted
    scores: Floats  # by the model that was asked for; NaN of other models
    novelty: Floats
    vectors: Floats  # (n, dimensions)
    known: frozenset[int] = frozenset()  # the indices of those at whose position a catalogue has an object


@dataclass(frozen=True, slots=True)
class PredictionFilters:
    """Conditions on predictions; None is no condition."""

    result: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    name: str | None = None  # a part of the image's name, ignoring case
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    request_id: uuid.UUID | None = None
    model: str | None = None
    label: str | None = None
    min_novelty: float | None = None
    in_domain: bool | None = None
    cone: Cone | None = None
    known: bool | None = None
    tag: str | None = None  # of the image


@dataclass(frozen=True, slots=True)
class PredictionPage:
    """A page of predictions, newest first, and the ids to continue from: None on the oldest and on the newest page."""

    predictions: list[Prediction]
    next_before: int | None
    previous_after: int | None


RankedBy = Literal["score", "novelty", "distance"]  # the distance from the centre of a cone

KeyScope = Literal["read", "predict", "review", "operate"]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is stored of an API key, besides its hash."""

    name: str
    scopes: list[KeyScope]
    created: dt.datetime
    expires: dt.datetime | None
    revoked: dt.datetime | None
    last_used: dt.datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A request that changed or exported something."""

    id: int
    timestamp: dt.datetime
    who: str | None
    address: str | None
    request: str
    status: int | None
