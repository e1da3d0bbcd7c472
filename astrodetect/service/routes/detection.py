"""Images in, predictions out: /detect, /classify, /detect/batch and /detect-anomalies."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, UploadFile
from starlette.responses import Response, StreamingResponse

from astrodetect.records import Prediction, QueuedPrediction
from astrodetect.service.error_handlers import declared
from astrodetect.service.query_params import IdempotencyKey, ModelName, SkyObjectParam, allow_query, read_single_file
from astrodetect.service.schemas import AnomalyResponse, FailedResponse, PredictionResponse, prediction_json
from astrodetect.service.services import AnomalyDetectionDep, BatchDetectionDep, DetectionDep

NDJSON = "application/x-ndjson"
NDJSON_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {NDJSON: {"schema": {"type": "string"}}},
        "description": "a line for each image, in order: its prediction, or its name and an error",
    }
}
FILES_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }
    }
}
URLS_JSON: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["image_paths"],
            "properties": {"image_paths": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
        }
    }
}
ERRORS_OF_AN_IMAGE = declared(400, 404, 408, 409, 413, 415, 422, 503)
ERRORS_OF_A_BATCH = declared(400, 404, 408, 413, 422, 503)
QUERY_OF_AN_IMAGE = allow_query("model", "ra", "dec", "object_id")

router = APIRouter()


@router.post(
    "/detect",
    response_model=PredictionResponse,
    responses=ERRORS_OF_AN_IMAGE,
    dependencies=[QUERY_OF_AN_IMAGE],
)
async def detect(
    request: Request,
    file: UploadFile,
    *,
    detection: DetectionDep,
    sky_object: SkyObjectParam,
    model: ModelName = None,
    key: IdempotencyKey = None,
) -> Any:
    """Whether an image has an anomaly: `curl -F file=@galaxy.jpg http://127.0.0.1:8000/detect`."""
    name, data = await read_single_file(request, file)
    prediction = await detection.detect(
        request, name, data, model=model, key=key, require_binary=True, sky_object=sky_object
    )
    return as_json(prediction)


@router.post(
    "/classify",
    response_model=PredictionResponse,
    responses=ERRORS_OF_AN_IMAGE,
    dependencies=[QUERY_OF_AN_IMAGE],
)
async def classify(
    request: Request,
    file: UploadFile,
    *,
    detection: DetectionDep,
    sky_object: SkyObjectParam,
    model: ModelName = None,
    key: IdempotencyKey = None,
) -> Any:
    """Class of an image, by any model: `curl -F file=@galaxy.jpg "http://127.0.0.1:8000/classify?model=galaxies"`."""
    name, data = await read_single_file(request, file)
    return as_json(await detection.detect(request, name, data, model=model, key=key, sky_object=sky_object))


@router.post(
    "/detect/batch",
    response_class=StreamingResponse,
    responses=ERRORS_OF_A_BATCH | NDJSON_RESPONSE,
    dependencies=[allow_query("model")],
    openapi_extra={"requestBody": {"required": True, "content": FILES_FORM}},
)
async def detect_batch(
    request: Request, batch_detection: BatchDetectionDep, model: ModelName = None, key: IdempotencyKey = None
) -> Any:
    """Classifies many images, or zips of them; the response has a line of JSON for each, in order."""
    lines = batch_detection.lines(request, model, key)
    first = await anext(lines)  # before the response starts, so that an error of the whole request has its status

    async def all_lines() -> AsyncIterator[bytes]:
        yield first
        async for line in lines:
            yield line

    return StreamingResponse(all_lines(), media_type=NDJSON)


@router.post(
    "/detect-anomalies",
    response_model=list[AnomalyResponse | FailedResponse],
    responses=ERRORS_OF_A_BATCH,
    dependencies=[allow_query("model")],
    openapi_extra={"requestBody": {"required": True, "content": URLS_JSON | FILES_FORM}},
)
async def detect_anomalies(request: Request, anomaly_detection: AnomalyDetectionDep, model: ModelName = None) -> Any:
    """Novelty of many images: JSON `{"image_paths": [url, …]}`, or a form with many files."""
    return await anomaly_detection.detect(request, model)


def as_json(prediction: Prediction | QueuedPrediction) -> Response:
    """The response, serialised once: FastAPI would validate it again."""
    return Response(prediction_json(prediction), media_type="application/json")
