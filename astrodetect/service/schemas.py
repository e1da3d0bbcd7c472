"""The JSON of requests, responses and errors, as pydantic models for the OpenAPI document."""

import datetime as dt
import json
import uuid
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.config import JsonDict, JsonValue
from starlette.datastructures import URL
from starlette.responses import JSONResponse

from astrodetect.errors import AstrodetectError
from astrodetect.records import Neighbour, Prediction, PredictionPage, QueuedPrediction

CSV = "text/csv; charset=utf-8"

EXAMPLE_ROW: JsonDict = {
    "result": "Anomaly Detected",
    "score": 0.9834,
    "label": "E",
    "probability": 0.9834,
    "probabilities": {"E": 0.9834, "SB": 0.0166},
    "novelty": 0.912,
    "in_domain": True,
    "novelty_view": "asymmetry",
    "id": 1842,
    "logged": "committed",
    "image_name": "587722981742084144.jpg",
    "timestamp": "2026-11-20T21:04:05.123456Z",
    "threshold": 0.5,
    "model": "resnet50_model",
    "model_version": "5f0c3a9be214",
    "image_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "request_id": "3f2b8c1e-7d54-4a0e-9f0e-2f1f6f0c9b11",
    "ra": 202.46957,
    "dec": 47.19525,
    "object_id": "587733080270569500",
    "known": True,
    "known_name": "M 51",
    "known_type": "GPair",
    "known_arcsec": 0.4,
    "known_references": 4313,
    "known_catalogue": "SIMBAD",
    "tags": ["blue core", "tidal tail"],
}


def with_example(**example: JsonValue) -> ConfigDict:
    """The configuration of a model with this example in the OpenAPI document."""
    return ConfigDict(json_schema_extra={"example": example})


class PredictionResponse(BaseModel):
    """A row of the table `predictions`; `queued`, and without an id, while PostgreSQL is down.

    `result` and `score`: whether the image is an anomaly, and the probability that it is one; of a model of several
    classes, the label and its probability. Rows from before there were labels have none. `novelty`, `in_domain`
    and `novelty_view` need a model that carries anomaly detectors.
    """

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE_ROW}, protected_namespaces=())

    result: str
    score: float
    label: str | None = None
    probability: float | None = None  # of the label
    probabilities: dict[str, float] | None = None
    novelty: float | None = None  # share of the training images that are less unusual
    in_domain: bool | None = None  # whether the image is like those that the detectors were fitted on
    novelty_view: str | None = None  # what of the image is the most unusual: object, cutout, asymmetry or colours
    id: int | None
    logged: Literal["committed", "queued"] = "committed"
    image_name: str
    timestamp: dt.datetime
    threshold: float | None
    model: str | None
    model_version: str | None
    image_sha256: str | None
    request_id: uuid.UUID | None
    ra: float | None = None  # degrees, ICRS
    dec: float | None = None
    object_id: str | None = None
    known: bool | None = None  # whether a known object is at the position: null until that was compared
    known_name: str | None = None
    known_type: str | None = None
    known_arcsec: float | None = None
    known_references: int | None = None
    known_catalogue: str | None = None
    tags: list[str] = []  # of the image, by people; empty in what /detect answers

    @classmethod
    def of(cls, row: Prediction | QueuedPrediction) -> "PredictionResponse":
        """From a row, or from one that is queued."""
        if isinstance(row, QueuedPrediction):
            return cls(id=None, logged="queued", result=row.scored.result, **asdict(row.scored))
        return cls.model_validate(row, from_attributes=True)

    @model_validator(mode="after")
    def _most_probable_first(self) -> Self:
        if self.label is not None and self.probabilities:
            self.probability = self.probabilities.get(self.label)
            self.probabilities = dict(sorted(self.probabilities.items(), key=lambda item: item[1], reverse=True))
        return self


def prediction_json(prediction: Prediction | QueuedPrediction) -> str:
    """The JSON of a prediction."""
    return PredictionResponse.of(prediction).model_dump_json()


class AnomalyResponse(BaseModel):
    """The novelty of an image among those that the model's detectors were fitted on; its prediction is recorded too."""

    model_config = with_example(
        filename="https://example.org/m51.jpg",
        loss=0.045,
        anomaly=True,
        novelty=0.998,
        id=1842,
        logged="committed",
        request_id="3f2b8c1e-7d54-4a0e-9f0e-2f1f6f0c9b11",
    )

    filename: str
    loss: float  # larger is more unusual
    anomaly: bool
    novelty: float  # share of the training images that are less unusual
    id: int | None
    logged: Literal["committed", "queued"]
    request_id: uuid.UUID | None


class PredictionsResponse(BaseModel):
    """A page of predictions, newest first; `next` leads to older ones, `previous` to newer ones.

    They are null at the two ends; the last page may be empty.
    """

    model_config = with_example(
        predictions=[EXAMPLE_ROW],
        next="/predictions?limit=1&before=1842",
        previous="/predictions?limit=1&after=1842",
    )

    predictions: list[PredictionResponse]
    next: str | None
    previous: str | None

    @classmethod
    def of(cls, page: PredictionPage, url: URL) -> "PredictionsResponse":
        """From a page, and the URL that it was requested by."""
        bare = url.remove_query_params(["before", "after"]).replace(scheme="", netloc="")
        edges = {"before": page.next_before, "after": page.previous_after}
        older, newer = (
            None if edge is None else str(bare.include_query_params(**{name: edge})) for name, edge in edges.items()
        )
        return cls(predictions=[PredictionResponse.of(row) for row in page.predictions], next=older, previous=newer)


class NeighbourResponse(BaseModel):
    """A recorded image, and its distance to the query image in the embedding space."""

    distance: float
    prediction: PredictionResponse


class SimilarResponse(BaseModel):
    """The recorded images that are nearest to this one, nearest first, each once."""

    model_config = with_example(
        prediction=EXAMPLE_ROW,
        similar=[{"distance": 1.75, "prediction": EXAMPLE_ROW}],
    )

    prediction: PredictionResponse
    similar: list[NeighbourResponse]

    @classmethod
    def of(cls, row: Prediction, neighbours: list[Neighbour]) -> "SimilarResponse":
        """From a row and its neighbours."""
        similar = [
            NeighbourResponse(distance=neighbour.distance, prediction=PredictionResponse.of(neighbour.prediction))
            for neighbour in neighbours
        ]
        return cls(prediction=PredictionResponse.of(row), similar=similar)


class ErrorDetail(BaseModel):
    """`code` is stable, for programs; `message` is for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every error response."""

    model_config = with_example(error={"code": "image_empty", "message": "the file is empty"})

    error: ErrorDetail


class FailedResponse(BaseModel):
    """An image of a batch that has no result, and its error."""

    filename: str
    error: ErrorDetail

    @classmethod
    def of(cls, name: str, error: AstrodetectError) -> "FailedResponse":
        """From an error."""
        return cls(filename=name, error=ErrorDetail(code=error.code, message=error.public or str(error)))


def closing_response(error: AstrodetectError) -> JSONResponse:
    """An error as JSON, after which the connection closes: the body of the request is not read."""
    return json_error(error.status, error.code, error.public or str(error), error_headers(error, close=True))


def error_headers(error: AstrodetectError, *, close: bool = False) -> dict[str, str]:
    """The headers of an error response."""
    headers = {"Retry-After": str(error.retry_after_s)} if error.status in {429, 503} else {}
    headers |= {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return headers | ({"Connection": "close"} if close else {})


def error_line(error: AstrodetectError, name: str | None = None) -> bytes:
    """An error as a line of a batch response, with the name of its image."""
    image = {} if name is None else {"image_name": name}
    detail = {"error": {"code": error.code, "message": error.public or str(error)}}
    return json.dumps(image | detail).encode() + b"\n"


def json_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as JSON."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def csv_response(columns: str, *, json_rows: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """A CSV file of these columns, or the same rows as a JSON array, for the OpenAPI document."""
    content: dict[str, Any] = {CSV: {"schema": {"type": "string"}}}
    if json_rows:
        rows = {"type": "array", "items": {"$ref": f"#/components/schemas/{json_rows.__name__}"}}
        content["application/json"] = {"schema": rows}
    return {200: {"content": content, "description": columns}}
