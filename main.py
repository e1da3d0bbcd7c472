"""The HTTP service: `uvicorn main:app`. An image in, a prediction out, its row in `predictions` before the response."""

import gc
import sys

SWITCH_INTERVAL_S = sys.getswitchinterval()
sys.setswitchinterval(SWITCH_INTERVAL_S / 10)  # the model is opened beside the imports: it waits for them often
gc.disable()  # what is imported stays: looking for garbage in it takes a seventh of the start

from concurrent.futures import Future

from astrodetect.service.malloc import return_free_memory, return_large_blocks
from astrodetect.service.opened_model import OpenedModel, start_opening
from astrodetect.service.uvicorn_workers import end_with_parent, is_served
from astrodetect.settings import Settings, settings

opening: Future[OpenedModel] | None = None
end_with_parent()
if is_served():  # the rest is imported meanwhile, which takes as long
    return_large_blocks()
    opening = start_opening(settings())

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from pydantic import BaseModel

# FastAPI defines the models of OpenAPI documents when it is imported, a quarter of which is building their validators.
# They inherit this setting, and are built when a document is asked for; ours, imported later, do not.
BaseModel.model_config["defer_build"] = True
try:
    from fastapi import FastAPI
finally:
    del BaseModel.model_config["defer_build"]

from starlette.requests import HTTPConnection
from starlette.types import Scope

from astrodetect import __version__
from astrodetect.db.embedded.lifetime import restart_server
from astrodetect.service import error_handlers
from astrodetect.service.authentication import SIGN_IN_PATH, ApiKeys
from astrodetect.service.cookie_unquoting import patch_http_cookies
from astrodetect.service.deferred_routes import DeferredRoutes
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.audit import AuditMiddleware
from astrodetect.service.middleware.body_limits import BodyLimit, BodyLimitMiddleware
from astrodetect.service.middleware.head_requests import HeadMiddleware
from astrodetect.service.middleware.request_log import RequestLog, RequestLogMiddleware, configure_logging
from astrodetect.service.middleware.security import (
    SIGN_IN_BYTES,
    AuthMiddleware,
    RootPathMiddleware,
    SecurityHeadersMiddleware,
)
from astrodetect.service.middleware.single_image import SingleImageMiddleware
from astrodetect.service.routes import detection, health
from astrodetect.service.served_hosts import ServedHosts
from astrodetect.service.services import (
    Services,
    attach,
    open_services,
    services_of,
)
from database import Database, database_url

BATCH_TIMEOUT_S = 600.0  # for the body of a request with many images to arrive
FIELDS_BYTES = 131_072  # of a request without images: a note, percent-encoded; JSON is parsed on the event loop


def create_app(settings: Settings, opening: Future[OpenedModel] | None = None) -> FastAPI:
    """The service with these settings; nothing but the model of `opening` is opened before it starts."""
    metrics, api_keys = Metrics(), ApiKeys(settings.api_key, private=settings.private)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging()
        return_large_blocks()
        with database_url(settings) as url:
            connect = partial(
                Database, url, connections=settings.database_connections, timeout_s=settings.database_timeout_s
            )
            restart = None if settings.database_url else partial(restart_server, settings.postgres_dir)
            async with open_services(settings, metrics, api_keys, connect, restart, opening=opening) as services:
                attach(app, services)
                return_free_memory()
                gc.freeze()  # what the start made lives as long as the service: no collection need traverse it
                try:
                    async with deferred.load_soon():
                        yield
                finally:
                    gc.unfreeze()

    app = FastAPI(
        title="astrodetect",
        version=__version__,
        summary="Classifies sky images and finds the unusual ones.",
        lifespan=lifespan,
        openapi_url=None,  # added with the documentation's routes
        docs_url=None,  # FastAPI's own pages load their scripts from another host
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it looks into the environment at each request
    )
    patch_http_cookies()
    default, by_path = body_limits(settings)
    hosts = ServedHosts(settings.allowed_hosts)
    log = RequestLog(metrics, is_draining=lambda scope: services_of(HTTPConnection(scope)).shutdown.draining)
    app.add_middleware(HeadMiddleware)  # the last one added is the outermost
    app.add_middleware(BodyLimitMiddleware, limits=by_path, default=default)
    app.add_middleware(AuditMiddleware)
    app.add_middleware(AuthMiddleware, keys=api_keys, hosts=hosts, respond=error_handlers.error_response_for)
    app.add_middleware(RequestLogMiddleware, log=log)
    error_handlers.add(app)
    for routes in detection, health:
        app.include_router(routes.router)
    deferred = DeferredRoutes(app, api_keys)
    if opening is None:  # nobody waits for a first answer
        deferred.load()
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(SingleImageMiddleware, log=log, keys=api_keys, hosts=hosts, limit=by_path["/detect"])
    app.add_middleware(RootPathMiddleware)
    return app


def body_limits(settings: Settings) -> tuple[BodyLimit, dict[str, BodyLimit]]:
    """The limits of request bodies: the default, and those of single paths."""

    def full(select: Callable[[Services], bool]) -> Callable[[Scope], bool]:
        return lambda scope: select(services_of(HTTPConnection(scope)))

    image_bytes, image_timeout_s, batch_bytes = (
        settings.max_body_bytes,
        settings.request_timeout_s,
        settings.max_batch_bytes,
    )
    image = BodyLimit(image_bytes, image_timeout_s, full(lambda services: services.detection.full()))
    batch = BodyLimit(batch_bytes, BATCH_TIMEOUT_S, full(lambda services: services.batch_detection.full()))
    anomalies = BodyLimit(batch_bytes, BATCH_TIMEOUT_S, full(lambda services: services.anomaly_detection.full()))
    return BodyLimit(min(FIELDS_BYTES, image_bytes), image_timeout_s), {
        "/detect": image,
        "/classify": image,
        "/similar": image,
        "/try": image,
        "/detect/batch": batch,
        "/detect-anomalies": anomalies,
        SIGN_IN_PATH: BodyLimit(SIGN_IN_BYTES, image_timeout_s),
    }


app = create_app(settings(), opening)
sys.setswitchinterval(SWITCH_INTERVAL_S)
gc.enable()
