"""One image that came by itself to its logged verdict, whatever the route."""

import time

from starlette.requests import Request

from astrodetect.records import Prediction, Queued
from astrodetect.service.detection import Detector
from astrodetect.service.disconnect import while_there
from astrodetect.service.middleware.request_log import TRAIL


async def verdict_on(
    request: Request, name: str, data: bytes, *, model: str | None, key: str | None = None, anomalies: bool = False
) -> Prediction | Queued:
    """From the model of that name, for as long as the caller is there; the request's line says how it went."""
    trail = request.scope[TRAIL]
    trail.stages_s["read"] = time.perf_counter() - trail.began
    detector: Detector = request.app.state.detector
    work = detector.one(name, data, trail, model=model, anomalies=anomalies, key=key)
    verdict = await while_there(request, work)
    logged = "queued" if isinstance(verdict, Queued) else "committed"
    trail.said |= {"request_id": verdict.request_id, "logged": logged}
    return verdict
