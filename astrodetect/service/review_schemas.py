"""The JSON of labels, tags and the review queue, as pydantic models for the OpenAPI document."""

import datetime as dt
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from astrodetect.anomalies import active_learning
from astrodetect.labels import LABEL_KEYS, MAX_NOTE_LENGTH, LabelValue
from astrodetect.service.query_params import LabelName, TagName
from astrodetect.service.review_queue import ReviewBatch
from astrodetect.service.schemas import EXAMPLE_ROW, PredictionResponse, with_example


class LabelRequest(BaseModel):
    """A person's label of the image of a prediction."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"label": "interesting", "who": "ada", "note": "a ring?"}}
    )

    label: LabelName = Field(
        description="interesting, ordinary, artefact, or a name of one's own for a kind of interesting images"
    )
    who: str | None = Field(default=None, max_length=255)
    note: str | None = Field(default=None, max_length=MAX_NOTE_LENGTH)


class LabelResponse(BaseModel):
    """A stored label and the image that it belongs to."""

    model_config = with_example(
        id=12,
        prediction_id=1842,
        image_name=EXAMPLE_ROW["image_name"],
        image_sha256=EXAMPLE_ROW["image_sha256"],
        label="interesting",
        who="ada",
        note="a ring?",
        timestamp="2026-11-21T06:30:00.123456Z",
    )

    id: int
    prediction_id: int
    image_name: str
    image_sha256: str | None
    label: LabelValue
    who: str | None
    note: str | None
    timestamp: dt.datetime


class LabelNameRequest(BaseModel):
    """What a name of labels counts as, and its key in Review."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"role": "artefact", "key": "x"}})

    name: LabelName | None = Field(default=None, description="a new name, where no label has the old one")
    role: Literal["interesting", "ordinary", "artefact"] = "interesting"
    key: str | None = Field(default=None, pattern=f"^[{LABEL_KEYS}]$", description="null: the next free digit")


class LabelNameResponse(BaseModel):
    """A name of one's own, with the number of labels that have it."""

    model_config = with_example(name="satellite trail", role="artefact", key="x", labels=12)

    name: LabelValue
    role: LabelValue
    key: str | None
    labels: int


class TagRequest(BaseModel):
    """A tag of the image of a prediction."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"tag": "blue core", "who": "ada"}})

    tag: TagName = Field(description="letters, digits and . _ -, in lower case")
    who: str | None = Field(default=None, max_length=255)


class TagsResponse(BaseModel):
    """The tags of the image of a prediction."""

    model_config = with_example(id=1842, image_sha256=EXAMPLE_ROW["image_sha256"], tags=["blue core", "tidal tail"])

    id: int
    image_sha256: str | None
    tags: list[str]


class CandidateResponse(BaseModel):
    """An image to label, and why it was chosen."""

    why: list[str]
    prediction: PredictionResponse


class ProgressResponse(BaseModel):
    """Numbers of labelled images, by label: `names` has one's own; `found_per_100` is null before the first."""

    labelled: int
    interesting: int
    ordinary: int
    artefact: int
    names: dict[str, int]
    found_per_100: float | None


class ReviewResponse(BaseModel):
    """The images to label next, in order; `note` says why the order is not the requested one."""

    model_config = with_example(
        by="interest",
        note=None,
        next=[
            {
                "why": ["novelty 0.998", "most like it: 3 interesting, 2 artefact"],
                "prediction": EXAMPLE_ROW,
            }
        ],
        progress={
            "labelled": 50,
            "interesting": 14,
            "ordinary": 20,
            "artefact": 9,
            "names": {"merger": 4, "ring": 3},
            "found_per_100": 42.0,
        },
    )

    by: active_learning.ReviewOrder
    note: str | None
    next: list[CandidateResponse]
    progress: ProgressResponse

    @classmethod
    def of(cls, batch: ReviewBatch) -> "ReviewResponse":
        """From the images that the queue chose."""
        candidates = [
            CandidateResponse(why=candidate.why, prediction=PredictionResponse.of(candidate.prediction))
            for candidate in batch.candidates
        ]
        progress = ProgressResponse.model_validate(batch.progress, from_attributes=True)
        return cls(by=batch.by, note=batch.note, next=candidates, progress=progress)
