"""The HTTP service: `uvicorn main:app`. An image in, a verdict out, and its row in `predictions` before the answer."""

import datetime as dt
import hashlib
import http
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, Path, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles

from astrodetect import __version__, bundle, images
from astrodetect.errors import AstrodetectError, ModelMissing, NotReady
from astrodetect.records import Filters, Scored
from astrodetect.service import answers
from astrodetect.service.intake import Intake
from astrodetect.service.slot import Slot
from astrodetect.settings import Settings, settings
from database import BIGINT_MAX, Database, server

log = logging.getLogger("uvicorn.error")
MOST_ROWS_A_PAGE = 1000
DECODERS = 1  # threads: the largest image takes a hundred megabytes, which each thread would keep; others a millisecond


def create_app(chosen: Settings) -> FastAPI:
    """The service with these settings; nothing is opened until it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with server(chosen) as url:
            app.state.settings = chosen
            app.state.decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
            app.state.slot = Slot(chosen.models_dir, chosen.model)
            app.state.database = Database(
                url, connections=chosen.database_connections, timeout_s=chosen.database_timeout_s
            )
            try:
                app.state.slot.engine()
            except ModelMissing as missing:  # it may come while the service runs; a model that is broken stops it here
                log.warning("%s", missing)
            try:
                yield
            finally:
                app.state.decoders.shutdown()
                app.state.database.close()

    app = FastAPI(
        title="astrodetect",
        version=__version__,
        summary="What is in these images, and which of them are strange?",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages ask another host for their scripts
        redoc_url=None,
    )
    app.add_middleware(Intake, max_body_bytes=chosen.max_body_bytes)
    app.add_exception_handler(AstrodetectError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_arguments)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(Exception, fail)
    add_routes(app)
    add_docs(app)
    return app


def add_routes(app: FastAPI) -> None:
    """Every route, a few lines each; FastAPI runs them in threads, so they may wait."""

    @app.post("/detect", response_model=answers.PredictionAnswer, responses=errors(400, 413, 415, 422, 503))
    def detect(request: Request, file: UploadFile) -> Any:
        """Scores one image: `curl -F file=@galaxy.jpg http://127.0.0.1:8000/detect`."""
        engine = request.app.state.slot.engine()
        data = file.file.read()
        limit = request.app.state.settings.max_image_pixels
        pixels = request.app.state.decoders.submit(images.read, data, engine.manifest.image, max_pixels=limit).result()
        outputs = engine.run(pixels[np.newaxis])
        scored = Scored(
            image_name=file.filename or "",
            image_sha256=hashlib.sha256(data).hexdigest(),
            score=float(outputs.scores[0]),
            threshold=engine.manifest.threshold,
            model=engine.manifest.name,
            model_version=engine.manifest.version,
        )
        return request.app.state.database.record(scored)

    @app.get("/predictions", response_model=answers.PredictionsAnswer, responses=errors(422, 503))
    def predictions(
        request: Request,
        filters: Annotated[Filters, Depends(asked_filters)],
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS_A_PAGE)] = 50,
        before: Annotated[int | None, Query(ge=1, le=BIGINT_MAX, description="only ids below this one")] = None,
    ) -> Any:
        """The log, newest first; follow `next` for more."""
        page = request.app.state.database.predictions(filters, limit=limit, before=before)
        next_url = None
        if page.next_before is not None:
            next_url = str(request.url.include_query_params(before=page.next_before).replace(scheme="", netloc=""))
        return answers.PredictionsAnswer.of(page, next_url)

    @app.get("/predictions/{id}", response_model=answers.PredictionAnswer, responses=errors(404, 422, 503))
    def prediction(request: Request, id: Annotated[int, Path(ge=1, le=BIGINT_MAX)]) -> Any:  # noqa: A002
        """One row of the log."""
        return request.app.state.database.prediction(id)

    @app.get("/models", response_model=list[answers.ModelAnswer])
    def models(request: Request) -> Any:
        """Every trained model here, and which of them serves."""
        loaded = request.app.state.slot.loaded
        serving = loaded and loaded.manifest
        found = bundle.manifests(request.app.state.settings.models_dir)
        return [answers.ModelAnswer.of(manifest, serving=manifest == serving) for manifest in found]

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live", response_model=answers.Health)
    def live() -> Any:
        """The process answers."""
        return {"status": "live"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", response_model=answers.Health, responses=errors(503))
    def ready(request: Request) -> Any:
        """A prediction would be answered: the model is loaded and PostgreSQL keeps rows."""
        missing = []
        for check in (request.app.state.slot.engine, request.app.state.database.check):
            try:
                check()
            except AstrodetectError as error:
                missing.append(error.public or str(error))
                log.error("not ready: %s", error)
        if missing:
            raise NotReady("; ".join(missing))
        return {"status": "ready"}


def add_docs(app: FastAPI) -> None:
    """The documented API as a page, from this host alone."""
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get("/", include_in_schema=False)
    def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/swagger/swagger-ui-bundle.js",
            swagger_css_url="/swagger/swagger-ui.css",
            swagger_favicon_url="/swagger/favicon-32x32.png",
        )


def asked_filters(
    *,
    result: Annotated[Literal["Anomaly Detected", "No Anomaly"] | None, Query()] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    max_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    name: Annotated[str | None, Query(max_length=255, description="part of the image's name")] = None,
    since: Annotated[dt.datetime | None, Query(description="from this time on; UTC where it names no zone")] = None,
    until: Annotated[dt.datetime | None, Query(description="before this time")] = None,
) -> Filters:
    """The filters in the query string."""
    return Filters(result, min_score, max_score, name, since, until)


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides, for the OpenAPI document."""
    return {
        status: {"model": answers.ErrorAnswer, "description": http.HTTPStatus(status).phrase} for status in statuses
    }


async def refuse(request: Request, error: Exception) -> JSONResponse:
    """One of our errors, in the one shape."""
    assert isinstance(error, AstrodetectError)  # noqa: S101 - Starlette's handlers are typed for any exception
    if error.public:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return answers.error_response(error)


async def refuse_arguments(_: Request, error: Exception) -> JSONResponse:
    """Arguments that are missing or out of bounds."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    said = "; ".join(f"{'.'.join(str(part) for part in found['loc'][1:])}: {found['msg']}" for found in error.errors())
    if any(found["loc"] == ("body", "file") for found in error.errors()):
        return answers.plain_error(422, "file_missing", "send the image as the form field `file`: curl -F file=@x.jpg")
    return answers.plain_error(422, "bad_arguments", said)


async def refuse_http(_: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: no such path, another method, a form that cannot be parsed."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = http.HTTPStatus(error.status_code).name.lower()
    return answers.plain_error(error.status_code, code, str(error.detail), dict(error.headers or {}))


async def fail(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has it (Starlette raises it again), the caller learns no more."""
    log.error("%s %s: %s", request.method, request.url.path, type(error).__name__)
    return answers.plain_error(500, "internal_error", "a fault of the service; its log says more")


app = create_app(settings())
