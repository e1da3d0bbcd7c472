"""The shapes of the answers, as callers and the OpenAPI document see them; every error has one."""

import datetime as dt
import uuid
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict
from starlette.responses import JSONResponse

from astrodetect.bundle import Manifest
from astrodetect.errors import AstrodetectError
from astrodetect.records import Page, Prediction

RETRY_AFTER_S = 5  # for what may work again soon: PostgreSQL back, a model trained

PREDICTION: JsonDict = {
    "result": "Anomaly Detected",
    "score": 0.9834,
    "id": 1842,
    "image_name": "587722981742084144.jpg",
    "timestamp": "2026-11-20T21:04:05.123456Z",
    "threshold": 0.5,
    "model": "resnet50_model",
    "model_version": "5f0c3a9be214",
    "image_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "request_id": "3f2b8c1e-7d54-4a0e-9f0e-2f1f6f0c9b11",
}


class PredictionAnswer(BaseModel):
    """A logged verdict: the row of the table `predictions`."""

    model_config = ConfigDict(json_schema_extra={"example": PREDICTION}, protected_namespaces=())

    result: str
    score: float
    id: int
    image_name: str
    timestamp: dt.datetime
    threshold: float | None
    model: str | None
    model_version: str | None
    image_sha256: str | None
    request_id: uuid.UUID | None

    @classmethod
    def of(cls, row: Prediction) -> "PredictionAnswer":
        """The row as callers see it."""
        return cls.model_validate(row, from_attributes=True)


class PredictionsAnswer(BaseModel):
    """Some of the log, newest first; `next` is where the rest of it is, null at the end."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"predictions": [PREDICTION], "next": "/predictions?limit=1&before=1842"}}
    )

    predictions: list[PredictionAnswer]
    next: str | None

    @classmethod
    def of(cls, page: Page, next_url: str | None) -> "PredictionsAnswer":
        """The page as callers see it."""
        return cls(predictions=[PredictionAnswer.of(row) for row in page.predictions], next=next_url)


class ModelAnswer(BaseModel):
    """What is known of a model, from its manifest."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "resnet50_model",
                "version": "5f0c3a9be214",
                "serving": True,
                "task": "binary",
                "classes": ["SB", "E"],
                "positive": "E",
                "threshold": 0.5,
                "image": {"size": 227, "crop": 1.0, "bands": "RGB", "stretch": "none", "resample": "bilinear"},
                "metrics": {"test": {"images": 10057, "accuracy": 0.86, "balanced_accuracy": 0.86, "auc": 0.93}},
                "created": "2026-11-20T21:00:00+00:00",
            }
        }
    )

    name: str
    version: str
    serving: bool
    task: str
    classes: list[str]
    positive: str
    threshold: float
    image: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    created: dt.datetime

    @classmethod
    def of(cls, manifest: Manifest, *, serving: bool) -> "ModelAnswer":
        """The manifest as callers see it."""
        known = {name: getattr(manifest, name) for name in cls.model_fields if name not in ("serving", "image")}
        return cls(**known, image=asdict(manifest.image), serving=serving)


class Health(BaseModel):
    """The service is there, or ready."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ready"}})

    status: str


class ErrorDetail(BaseModel):
    """`code` is for programs and stays; `message` is for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """Every error of this service."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"error": {"code": "image_empty", "message": "the file is empty"}}}
    )

    error: ErrorDetail


def error_response(error: AstrodetectError, *, close: bool = False) -> JSONResponse:
    """An error in the one shape; `close`: the connection is of no more use, as its body was not read."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}
    if close:
        headers["Connection"] = "close"
    return plain_error(error.status, error.code, error.public or str(error), headers)


def plain_error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The one shape, for what the framework itself refuses."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
