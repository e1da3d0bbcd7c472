"""Liveness, readiness and metrics, for those who operate the service."""

import logging
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from astrodetect.errors import AstrodetectError, ModelMissing, NotReady
from astrodetect.service.error_handlers import declared
from astrodetect.service.schemas import with_example
from astrodetect.service.services import MetricsDep, ServicesDep, ended

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PROMETHEUS_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"content": {PROMETHEUS: {"schema": {"type": "string"}}}, "description": "Prometheus's text format"}
}

log = logging.getLogger("uvicorn.error")
router = APIRouter()


class LivenessResponse(BaseModel):
    """The process is running."""

    model_config = with_example(status="live")

    status: str


class ReadinessResponse(BaseModel):
    """Predictions are served; `queued`: PostgreSQL is down, and `outbox` rows wait for it on disk.

    `rejected` rows of the outbox were refused by PostgreSQL or cannot be read, and are kept there.
    """

    model_config = with_example(status="ready", logged="committed", outbox=0, rejected=0)

    status: str
    logged: Literal["committed", "queued"]
    outbox: int
    rejected: int


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=LivenessResponse)
async def live() -> Any:
    """Liveness: the process responds."""
    return {"status": "live"}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", response_model=ReadinessResponse, responses=declared(503))
async def ready(services: ServicesDep) -> Any:
    """Readiness: the default model is loaded, and predictions are recorded in PostgreSQL or on disk."""
    problems, results = [], {}
    if services.shutdown.draining:
        problems.append("the service is shutting down")
    for name, check in (
        ("model", services.models.check),
        ("recorder", services.storage.check),
    ):
        try:
            results[name] = await check()
        except AstrodetectError as error:
            problems.append(error.public or str(error))
            if not isinstance(error, ModelMissing):  # this is logged once
                log.error("not ready: %s", error)
    if names := ended(services.background_threads):
        problems.append(f"the background thread {', '.join(names)} has ended: restart the service")
    if problems:
        raise NotReady("; ".join(problems))
    outbox = services.outbox
    return {"status": "ready", "logged": results["recorder"], "outbox": len(outbox), "rejected": outbox.rejected}


@router.get("/metrics", response_class=Response, responses=PROMETHEUS_RESPONSE)
def metrics(metrics: MetricsDep) -> Any:
    """Metrics for Prometheus."""
    return Response(metrics.export(), media_type=PROMETHEUS)
