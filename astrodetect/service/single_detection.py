"""One image that came by itself to its logged verdict, whatever the route."""

import time

from starlette.requests import Request

from astrodetect.records import Prediction, QueuedPrediction
from astrodetect.service.detection import DetectionService
from astrodetect.service.disconnect import cancel_on_disconnect
from astrodetect.service.middleware.request_log import REQUEST_CONTEXT


async def detect_one(
    request: Request, name: str, data: bytes, *, model: str | None, key: str | None = None, anomalies: bool = False
) -> Prediction | QueuedPrediction:
    """From the model of that name, for as long as the caller is there; the request's line says how it went."""
    trail = request.scope[REQUEST_CONTEXT]
    trail.stages_s["read"] = time.perf_counter() - trail.began
    detector: DetectionService = request.app.state.detector
    work = detector.one(name, data, trail, model=model, anomalies=anomalies, key=key)
    verdict = await cancel_on_disconnect(request, work)
    logged = "queued" if isinstance(verdict, QueuedPrediction) else "committed"
    trail.said |= {"request_id": verdict.request_id, "logged": logged}
    return verdict
