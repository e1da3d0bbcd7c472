"""The shapes of the answers, as callers and the OpenAPI document see them; every error has one."""

import datetime as dt
import json
import uuid
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from starlette.datastructures import URL
from starlette.responses import JSONResponse

from astrodetect.anomalies import active_learning
from astrodetect.errors import AstrodetectError
from astrodetect.labels import LONGEST_NOTE
from astrodetect.records import Neighbour, Prediction, PredictionPage, QueuedPrediction
from astrodetect.service.review_queue import ReviewBatch

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
CSV = "text/csv; charset=utf-8"
CSV_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {CSV: {"schema": {"type": "string"}}}, "description": "id, prediction_id, image_name, …"}
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"content": {PROMETHEUS: {"schema": {"type": "string"}}}, "description": "Prometheus's text format"}
}
NDJSON = "application/x-ndjson"
LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NDJSON: {"schema": {"type": "string"}}},
        "description": "a line for each image, in order: its verdict, or its name and an error",
    }
}
FORM_OF_MANY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}

URLS_OR_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image_paths"],
                    "properties": {"image_paths": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
                }
            },
            **FORM_OF_MANY["requestBody"]["content"],
        },
    }
}

PREDICTION: JsonDict = {
    "result": "Anomaly Detected",
    "score": 0.9834,
    "label": "E",
    "probability": 0.9834,
    "probabilities": {"E": 0.9834, "SB": 0.0166},
    "novelty": 0.912,
    "id": 1842,
    "logged": "committed",
    "image_name": "587722981742084144.jpg",
    "timestamp": "2026-11-20T21:04:05.123456Z",
    "threshold": 0.5,
    "model": "resnet50_model",
    "model_version": "5f0c3a9be214",
    "image_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "request_id": "3f2b8c1e-7d54-4a0e-9f0e-2f1f6f0c9b11",
}


class PredictionResponse(BaseModel):
    """A logged verdict: the row of the table `predictions`; `queued` while PostgreSQL is away, and then without id.

    `result` and `score` are an anomaly or not, and how probable one is; of a model of several classes, the label and
    its probability. What was logged before there were labels has none; `novelty` is of models that carry detectors.
    """

    model_config = ConfigDict(json_schema_extra={"example": PREDICTION}, protected_namespaces=())

    result: str
    score: float
    label: str | None = None
    probability: float | None = None  # of the label
    probabilities: dict[str, float] | None = None
    novelty: float | None = None  # the share of the training images that are less unusual
    id: int | None
    logged: Literal["committed", "queued"] = "committed"
    image_name: str
    timestamp: dt.datetime
    threshold: float | None
    model: str | None
    model_version: str | None
    image_sha256: str | None
    request_id: uuid.UUID | None

    @classmethod
    def of(cls, row: Prediction | QueuedPrediction) -> "PredictionResponse":
        """The row as callers see it, or will."""
        if isinstance(row, QueuedPrediction):
            return cls(id=None, logged="queued", result=row.scored.result, **asdict(row.scored))
        return cls.model_validate(row, from_attributes=True)

    @model_validator(mode="after")
    def _most_probable_first(self) -> Self:
        if self.label is not None and self.probabilities:
            self.probability = self.probabilities.get(self.label)
            self.probabilities = dict(sorted(self.probabilities.items(), key=lambda one: one[1], reverse=True))
        return self


class AnomalyResponse(BaseModel):
    """How unusual an image is among those that the model's detectors learnt from; its verdict is in the log."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "filename": "https://example.org/m51.jpg",
                "loss": 0.045,
                "anomaly": True,
                "novelty": 0.998,
                "id": 1842,
                "logged": "committed",
                "request_id": "3f2b8c1e-7d54-4a0e-9f0e-2f1f6f0c9b11",
            }
        }
    )

    filename: str
    loss: float  # larger is more unusual
    anomaly: bool
    novelty: float  # the share of those images that are less unusual
    id: int | None
    logged: Literal["committed", "queued"]
    request_id: uuid.UUID | None


class PredictionsResponse(BaseModel):
    """Some of the log, newest first; `next` is where the older ones are, `previous` where the newer ones are.

    They are null at the two ends; beside the last of them a page may be empty.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "predictions": [PREDICTION],
                "next": "/predictions?limit=1&before=1842",
                "previous": "/predictions?limit=1&after=1842",
            }
        }
    )

    predictions: list[PredictionResponse]
    next: str | None
    previous: str | None

    @classmethod
    def of(cls, page: PredictionPage, asked: URL) -> "PredictionsResponse":
        """The page as callers see it who asked for this address."""
        bare = asked.remove_query_params(["before", "after"]).replace(scheme="", netloc="")
        edges = {"before": page.next_before, "after": page.previous_after}
        older, newer = (
            None if edge is None else str(bare.include_query_params(**{name: edge})) for name, edge in edges.items()
        )
        return cls(predictions=[PredictionResponse.of(row) for row in page.predictions], next=older, previous=newer)


class NeighbourResponse(BaseModel):
    """A logged image that is like another one; the smaller the distance, the more."""

    distance: float
    prediction: PredictionResponse


class SimilarResponse(BaseModel):
    """The logged images that are most like this one, nearest first, each once."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"prediction": PREDICTION, "similar": [{"distance": 1.75, "prediction": PREDICTION}]}
        }
    )

    prediction: PredictionResponse
    similar: list[NeighbourResponse]

    @classmethod
    def of(cls, row: Prediction, neighbours: list[Neighbour]) -> "SimilarResponse":
        """The neighbours as callers see them."""
        similar = [
            NeighbourResponse(distance=one.distance, prediction=PredictionResponse.of(one.prediction))
            for one in neighbours
        ]
        return cls(prediction=PredictionResponse.of(row), similar=similar)


class LabelRequest(BaseModel):
    """What somebody calls the image of a prediction."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"label": "interesting", "who": "ada", "note": "a ring?"}}
    )

    label: active_learning.LabelValue
    who: str | None = Field(default=None, max_length=255)
    note: str | None = Field(default=None, max_length=LONGEST_NOTE)


class LabelResponse(BaseModel):
    """A labelling as it is kept, with the image that it is of."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 12,
                "prediction_id": 1842,
                "image_name": PREDICTION["image_name"],
                "image_sha256": PREDICTION["image_sha256"],
                "label": "interesting",
                "who": "ada",
                "note": "a ring?",
                "timestamp": "2026-11-21T06:30:00.123456Z",
            }
        }
    )

    id: int
    prediction_id: int
    image_name: str
    image_sha256: str | None
    label: active_learning.LabelValue
    who: str | None
    note: str | None
    timestamp: dt.datetime


class CandidateResponse(BaseModel):
    """An image to look at, and why."""

    why: list[str]
    prediction: PredictionResponse


class ProgressResponse(BaseModel):
    """How many images are labelled, and as what; null per 100 before the first."""

    labelled: int
    interesting: int
    ordinary: int
    artefact: int
    found_per_100: float | None


class ReviewResponse(BaseModel):
    """What to look at next, the first one first; `note` says why the order is not the one that was asked for."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "by": "interest",
                "note": None,
                "next": [
                    {"why": ["novelty 0.998", "most like it: 3 interesting, 2 artefact"], "prediction": PREDICTION}
                ],
                "progress": {"labelled": 50, "interesting": 21, "ordinary": 20, "artefact": 9, "found_per_100": 42.0},
            }
        }
    )

    by: active_learning.ReviewOrder
    note: str | None
    next: list[CandidateResponse]
    progress: ProgressResponse

    @classmethod
    def of(cls, found: ReviewBatch) -> "ReviewResponse":
        """The queue as callers see it."""
        candidates = [
            CandidateResponse(why=one.why, prediction=PredictionResponse.of(one.prediction)) for one in found.candidates
        ]
        progress = ProgressResponse.model_validate(found.progress, from_attributes=True)
        return cls(by=found.by, note=found.note, next=candidates, progress=progress)


class LivenessResponse(BaseModel):
    """The service is there, or ready."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "live"}})

    status: str


class ReadinessResponse(BaseModel):
    """A prediction would be answered; `queued`: PostgreSQL is away, and `outbox` rows wait for it on disk."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ready", "logged": "committed", "outbox": 0}})

    status: str
    logged: Literal["committed", "queued"]
    outbox: int


class ErrorDetail(BaseModel):
    """`code` is for programs and stays; `message` is for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every error of this service."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"error": {"code": "image_empty", "message": "the file is empty"}}}
    )

    error: ErrorDetail


class FailedResponse(BaseModel):
    """An image among others that has no answer, and why."""

    filename: str
    error: ErrorDetail

    @classmethod
    def of(cls, name: str, error: AstrodetectError) -> "FailedResponse":
        """The error in the one shape."""
        return cls(filename=name, error=ErrorDetail(code=error.code, message=error.public or str(error)))


def error_response(error: AstrodetectError, *, close: bool = False) -> JSONResponse:
    """An error in the one shape; `close`: the connection is of no more use, as its body was not read."""
    return plain_error(error.status, error.code, error.public or str(error), error_headers(error, close=close))


def error_headers(error: AstrodetectError, *, close: bool = False) -> dict[str, str]:
    """What is said of it beside its words."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.status == 503 else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if close:
        headers["Connection"] = "close"
    return headers


def error_line(error: AstrodetectError, name: str | None = None) -> bytes:
    """An error in an answer of many lines, and whose it is."""
    whose = {} if name is None else {"image_name": name}
    told = {"error": {"code": error.code, "message": error.public or str(error)}}
    return json.dumps(whose | told).encode() + b"\n"


def plain_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one shape, for what the framework itself refuses."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
