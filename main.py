"""The HTTP service: `uvicorn main:app`. An image in, a verdict out, and its row in `predictions` before the answer."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import Annotated, Any, TypeAlias

from fastapi import FastAPI, Header, Query, Request, UploadFile
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from astrodetect import __version__, labels
from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.errors import AstrodetectError, DatabaseUnavailable, NotReady
from astrodetect.records import QueuedPrediction
from astrodetect.service import error_handlers, exports, model_schemas, schemas
from astrodetect.service.dependencies import attach
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware import request_log
from astrodetect.service.middleware.auth import SIGN_IN, SIGN_IN_BYTES, ApiKeys, AuthMiddleware, document
from astrodetect.service.middleware.body_limits import BodyLimit, BodyLimitMiddleware
from astrodetect.service.middleware.request_log import RequestLogMiddleware
from astrodetect.service.middleware.security_headers import SecurityHeadersMiddleware
from astrodetect.service.model_schemas import ModelName, ModelPath
from astrodetect.service.query_params import FiltersParam, LabelId, PageEdgeParam, PredictionId
from astrodetect.service.review_queue import MOST
from astrodetect.service.services import Services, open_services, return_large_blocks
from astrodetect.service.single_detection import detect_one
from astrodetect.service.web import sections
from astrodetect.settings import Settings, settings
from database import Database, database_url

log = logging.getLogger("uvicorn.error")
MOST_ROWS_A_PAGE = 1000
BATCH_TIMEOUT_S = 600.0  # for the body of a request with many images to come in
MOST_NEIGHBOURS = 100
SWAGGER_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"  # its page starts by a script within it

Key: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key, image and model, the same answer",
    ),
]

Few: TypeAlias = Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS)]


def create_app(chosen: Settings) -> FastAPI:
    """The service with these settings; nothing is opened until it starts."""
    meters = Metrics()
    keys = ApiKeys(chosen.api_key, private=chosen.private)

    app = FastAPI(
        title="astrodetect",
        version=__version__,
        summary="What is in these images, and which of them are strange?",
        lifespan=lambda app: running(app, chosen, meters, keys),
        docs_url=None,  # FastAPI's own pages ask another host for their scripts
        redoc_url=None,
    )
    timeout_s = chosen.request_timeout_s
    one_image = BodyLimit(chosen.max_body_bytes, timeout_s, lambda scope: scope["app"].state.detector.full())
    doors = {
        "/detect": one_image,
        "/classify": one_image,
        "/similar": one_image,
        "/try": one_image,
        SIGN_IN: BodyLimit(SIGN_IN_BYTES, timeout_s),
        "/detect/batch": BodyLimit(
            chosen.max_batch_bytes, BATCH_TIMEOUT_S, lambda scope: scope["app"].state.batches.full()
        ),
        "/detect-anomalies": BodyLimit(
            chosen.max_batch_bytes, BATCH_TIMEOUT_S, lambda scope: scope["app"].state.strange.full()
        ),
    }
    app.add_middleware(BodyLimitMiddleware, doors=doors, other=BodyLimit(chosen.max_body_bytes, timeout_s))
    app.state.keys = keys
    app.add_middleware(AuthMiddleware, keys=keys)
    app.add_middleware(RequestLogMiddleware, meters=meters)
    error_handlers.add(app)
    add_detection(app)
    add_anomalies(app)
    add_history(app)
    add_review(app)
    add_care(app, meters)
    add_docs(app)
    for router in sections.ROUTERS:
        app.include_router(router)
    app.add_middleware(SecurityHeadersMiddleware)
    document(app, keys)
    return app


@asynccontextmanager
async def running(app: FastAPI, chosen: Settings, meters: Metrics, keys: ApiKeys) -> AsyncIterator[None]:
    """All that the service holds open, from its start to its end."""
    request_log.open_log()
    return_large_blocks()
    with database_url(chosen) as url:
        connect = partial(Database, url, connections=chosen.database_connections, timeout_s=chosen.database_timeout_s)
        async with open_services(chosen, meters, keys, connect) as services:
            attach(app, services)
            fill_state(app, services)
            yield


def fill_state(app: FastAPI, services: Services) -> None:
    """For the pages, until they ask for the parts of `Services` themselves."""
    state = app.state
    state.settings, state.drain, state.models = services.settings, services.shutdown, services.models
    state.database, state.review, state.outbox = services.database, services.review_queue, services.outbox
    state.recorder, state.atlas, state.album = services.recorder, services.projections, services.thumbnails
    state.detector, state.indexer, state.feed = services.detection, services.vector_indexer, services.live_feed
    state.batches, state.strange = services.batch_detection, services.anomaly_detection


def add_detection(app: FastAPI) -> None:
    """Images in, verdicts out."""

    refused = error_handlers.declared(400, 404, 408, 409, 413, 415, 422, 503)

    @app.post("/detect", response_model=schemas.PredictionResponse, responses=refused)
    async def detect(request: Request, file: UploadFile, model: ModelName = None, key: Key = None) -> Any:
        """Is there an anomaly? `curl -F file=@galaxy.jpg http://127.0.0.1:8000/detect`."""
        return await judge(request, file, model, key, anomalies=True)

    @app.post("/classify", response_model=schemas.PredictionResponse, responses=refused)
    async def classify(request: Request, file: UploadFile, model: ModelName = None, key: Key = None) -> Any:
        """What is it? `curl -F file=@galaxy.jpg "http://127.0.0.1:8000/classify?model=galaxies"`; any model will do."""
        return await judge(request, file, model, key, anomalies=False)

    @app.post(
        "/detect/batch",
        response_class=StreamingResponse,
        responses=error_handlers.declared(400, 404, 408, 413, 422, 503) | schemas.LINES,
        openapi_extra=schemas.FORM_OF_MANY,
    )
    async def detect_batch(request: Request, model: ModelName = None) -> Any:
        """Scores many images, or zips of them, and answers with a line of JSON for each, in order."""
        lines = request.app.state.batches.lines(request, model)
        first = await anext(lines)  # what is wrong with the whole request is known by then, and has its status

        async def all_lines() -> AsyncIterator[bytes]:
            yield first
            async for line in lines:
                yield line

        return StreamingResponse(all_lines(), media_type=schemas.NDJSON)


def add_anomalies(app: FastAPI) -> None:
    """Images in, how unusual they are out."""

    @app.post(
        "/detect-anomalies",
        response_model=list[schemas.AnomalyResponse | schemas.FailedResponse],
        responses=error_handlers.declared(400, 404, 408, 413, 422, 503),
        openapi_extra=schemas.URLS_OR_FORM,
    )
    async def detect_anomalies(request: Request, model: ModelName = None) -> Any:
        """How unusual is each image? JSON `{"image_paths": [url, …]}`, or a form with many files."""
        return await request.app.state.strange.answers(request, model)


async def judge(request: Request, file: UploadFile, model: str | None, key: str | None, *, anomalies: bool) -> Response:
    """The answer to one image, once its row is kept."""
    name, data = file.filename or "", await file.read()
    verdict = await detect_one(request, name, data, model=model, key=key, anomalies=anomalies)
    answer = schemas.PredictionResponse.of(verdict)
    return Response(answer.model_dump_json(), media_type="application/json")


def add_history(app: FastAPI) -> None:
    """The log of predictions."""

    @app.get("/predictions", response_model=schemas.PredictionsResponse, responses=error_handlers.declared(422, 503))
    def predictions(
        request: Request,
        filters: FiltersParam,
        edge: PageEdgeParam,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS_A_PAGE)] = 50,
    ) -> Any:
        """The log, newest first; follow `next` for older ones, `previous` for newer ones."""
        page = request.app.state.database.predictions(filters, limit=limit, before=edge.before, after=edge.after)
        return schemas.PredictionsResponse.of(page, request.url)

    @app.get("/predictions.{kind}", response_class=StreamingResponse, responses=exports.FILES)
    def predictions_file(request: Request, filters: FiltersParam, kind: exports.ExportFormat) -> Any:
        """The log as one file, newest first, however long it is; CSV marks what a spreadsheet would compute by a '."""
        return exports.download(request.app.state.database, filters, kind)

    @app.get(
        "/predictions/{id}", response_model=schemas.PredictionResponse, responses=error_handlers.declared(404, 422, 503)
    )
    def prediction(request: Request, id: PredictionId) -> Any:  # noqa: A002
        """One row of the log."""
        return request.app.state.database.prediction(id)


def add_review(app: FastAPI) -> None:
    """Images that are like each other, and what people call them."""

    @app.get(
        "/predictions/{id}/similar",
        response_model=schemas.SimilarResponse,
        responses=error_handlers.declared(404, 409, 422, 503),
    )
    def similar(request: Request, id: PredictionId, limit: Few = 10) -> Any:  # noqa: A002
        """The logged images that are most like this one."""
        database = request.app.state.database
        prediction = database.prediction(id)
        return schemas.SimilarResponse.of(prediction, database.similar(prediction, limit=limit))

    @app.post(
        "/similar",
        response_model=schemas.SimilarResponse,
        responses=error_handlers.declared(400, 404, 408, 409, 413, 415, 422, 503),
    )
    async def similar_to(request: Request, file: UploadFile, model: ModelName = None, limit: Few = 10) -> Any:
        """Logs an image as /classify does, and answers with the logged images that are most like it."""
        verdict = await detect_one(request, file.filename or "", await file.read(), model=model)
        if isinstance(verdict, QueuedPrediction):
            raise DatabaseUnavailable("the image waits on disk for PostgreSQL, which alone knows what it is like")
        found = await asyncio.to_thread(request.app.state.database.similar, verdict, limit=limit)
        return schemas.SimilarResponse.of(verdict, found)

    @app.post(
        "/predictions/{id}/label",
        response_model=schemas.LabelResponse,
        status_code=201,
        responses=error_handlers.declared(404, 422, 503),
    )
    def label(request: Request, id: PredictionId, said: schemas.LabelRequest) -> Any:  # noqa: A002
        """Says what the image of a prediction is; of several labels the newest counts."""
        return request.app.state.database.label(id, said.label, who=said.who, note=said.note)

    @app.delete("/labels/{id}", response_model=schemas.LabelResponse, responses=error_handlers.declared(404, 422, 503))
    def unlabel(request: Request, id: LabelId) -> Any:  # noqa: A002
        """Takes one labelling back, and answers with it."""
        return request.app.state.database.unlabel(id)

    @app.get("/labels.csv", response_class=StreamingResponse, responses=error_handlers.declared(503) | schemas.CSV_FILE)
    def labels_csv(request: Request) -> Any:
        """Every labelling, oldest first, as `python -m astrodetect labels import` reads it."""
        parts = labels.written(request.app.state.database.labels())
        first = next(parts)  # what PostgreSQL refuses has its status
        return StreamingResponse(chain([first], parts), media_type=schemas.CSV)

    @app.get("/review/next", response_model=schemas.ReviewResponse, responses=error_handlers.declared(422, 503))
    def next_up(request: Request, by: ReviewOrder = "interest", limit: Annotated[int, Query(ge=1, le=MOST)] = 1) -> Any:
        """The images to look at next, none that is labelled, each once and with why."""
        return schemas.ReviewResponse.of(
            request.app.state.review.next(by, limit=limit, space=request.app.state.models.space)
        )


def add_care(app: FastAPI, meters: Metrics) -> None:
    """What whoever runs the service asks of it."""

    @app.get("/models", response_model=list[model_schemas.ModelResponse])
    def models(request: Request) -> Any:
        """Every trained model here, which of them serves, and the earlier versions of each."""
        return model_schemas.listed(request.app.state.models)

    @app.post(
        "/models/{name}/rollback",
        response_model=model_schemas.ModelResponse,
        responses=error_handlers.declared(400, 404, 422, 503),
    )
    async def rollback(request: Request, name: ModelPath, said: model_schemas.RollbackRequest | None = None) -> Any:
        """Puts an earlier version of a model back in its place, whole and without a break."""
        return await model_schemas.rolled_back(request.app.state.models, name, said)

    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live", response_model=schemas.LivenessResponse)
    async def live() -> Any:
        """The process answers."""
        return {"status": "live"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", response_model=schemas.ReadinessResponse, responses=error_handlers.declared(503))
    async def ready(request: Request) -> Any:
        """A prediction would be answered: the model is loaded, and its row is kept by PostgreSQL or on disk."""
        state = request.app.state
        missing, found = [], {}
        for name, check in (
            ("drain", lambda: asyncio.to_thread(state.drain.check)),
            ("model", state.models.check),
            ("log", lambda: asyncio.to_thread(state.recorder.check)),
        ):
            try:
                found[name] = await check()
            except AstrodetectError as error:
                missing.append(error.public or str(error))
                log.error("not ready: %s", error)
        if missing:
            raise NotReady("; ".join(missing))
        return {"status": "ready", "logged": found["log"], "outbox": len(state.outbox)}

    @app.get("/metrics", response_class=Response, responses=schemas.METRICS)
    def metrics() -> Any:
        """Figures for Prometheus."""
        return Response(meters.shown(), media_type=schemas.PROMETHEUS)


def add_docs(app: FastAPI) -> None:
    """The documented API as a page, from this host alone."""
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        answer = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/swagger/swagger-ui-bundle.js",
            swagger_css_url="/swagger/swagger-ui.css",
            swagger_favicon_url="/swagger/favicon-32x32.png",
        )
        answer.headers["Content-Security-Policy"] = SWAGGER_POLICY
        return answer


app = create_app(settings())
