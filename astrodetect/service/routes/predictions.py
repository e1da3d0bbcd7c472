"""The recorded predictions: pages, one row, similar images, and exports streamed row by row."""

import asyncio
import csv
import datetime as dt
import io
import json
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import chain
from typing import IO, Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request, UploadFile
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from astrodetect.csv_cells import literal_text
from astrodetect.errors import DatabaseUnavailable, Overloaded
from astrodetect.labels import TAG_SEPARATOR
from astrodetect.parquet_table import ColumnType
from astrodetect.records import Prediction, PredictionFilters, QueuedPrediction
from astrodetect.service.authentication import LINK_PARAMETER
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.disconnection import DISCONNECTION, Disconnection
from astrodetect.service.error_handlers import declared
from astrodetect.service.query_params import (
    FILTER_NAMES,
    FiltersParam,
    IdempotencyKey,
    ModelName,
    PageEdgeParam,
    PredictionId,
    SkyObjectParam,
    allow_query,
    read_single_file,
)
from astrodetect.service.rows_response import RowsResponse
from astrodetect.service.schemas import (
    CSV,
    PredictionResponse,
    PredictionsResponse,
    SimilarResponse,
    csv_response,
)
from astrodetect.service.services import DatabaseDep, DetectionDep, ServiceDatabase
from astrodetect.sky.fits_table import MEDIA_TYPE as FITS
from astrodetect.sky.table_writers import WRITERS
from astrodetect.sky.votable import MEDIA_TYPE as VOTABLE

MAX_PAGE_ROWS = 1000
MAX_NEIGHBOURS = 100
EXPORT_PAGE_ROWS = 1000
BLOCK_BYTES = 1 << 16
TABLES_AT_ONCE = 2  # that are made: each holds a thread, and 20 MB of rows

ExportFormat: TypeAlias = Literal["csv", "json", "parquet", "vot", "fits"]
NeighbourCount: TypeAlias = Annotated[int, Query(ge=1, le=MAX_NEIGHBOURS)]
router = APIRouter(route_class=DatabaseRoute)

_table_slots = threading.BoundedSemaphore(TABLES_AT_ONCE)

TABLE_TYPES = {"parquet": "application/vnd.apache.parquet", "vot": VOTABLE, "fits": FITS}
EXPORT_RESPONSES = csv_response("id, image_name, score, result, timestamp, …", json_rows=PredictionResponse)
EXPORT_RESPONSES[200]["content"] |= {
    media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in TABLE_TYPES.values()
}
COLUMN_TYPES: dict[str, ColumnType] = {"float": "number", "int": "integer", "bool": "boolean"}


@router.get(
    "/predictions",
    response_model=PredictionsResponse,
    responses=declared(400, 422, 503),
    dependencies=[allow_query(*FILTER_NAMES, "limit", "before", "after")],
)
def predictions(
    request: Request,
    database: DatabaseDep,
    filters: FiltersParam,
    edge: PageEdgeParam,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_ROWS)] = 50,
) -> Any:
    """Predictions, newest first; follow `next` for older ones, `previous` for newer ones."""
    page = database.predictions(filters, limit=limit, before=edge.before, after=edge.after)
    return PredictionsResponse.of(page, request.url.replace(path=request.scope["root_path"] + request.url.path))


@router.get(
    "/predictions.{kind}",
    response_class=StreamingResponse,
    responses=declared(400, 422, 503) | EXPORT_RESPONSES,
    dependencies=[allow_query(*FILTER_NAMES, LINK_PARAMETER)],
)
def predictions_file(request: Request, database: DatabaseDep, filters: FiltersParam, kind: ExportFormat) -> Any:
    """All matching predictions in one file, newest first; CSV cells that a spreadsheet would evaluate begin with '.

    `vot` is a VOTable and `fits` a FITS table; these two and `parquet` are made as a whole before they are sent, of
    which a process makes two at a time.
    """
    pages = _pages(database, filters)
    name = f"predictions-{dt.datetime.now(dt.UTC):%Y-%m-%d}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if kind in TABLE_TYPES:
        with _table_slot():
            table = _make_table(kind, _until_disconnect(request, pages))
        return StreamingResponse(_blocks(table), media_type=TABLE_TYPES[kind], headers=headers)
    write, media_type = TEXT_EXPORTS[kind]
    first = next(pages)  # before the response starts, so that a database error has its status
    return RowsResponse(write(chain([first], pages)), media_type=media_type, headers=headers)


@router.get("/predictions/{id}", response_model=PredictionResponse, responses=declared(404, 422, 503))
def prediction(database: DatabaseDep, id: PredictionId) -> Any:  # noqa: A002
    """One prediction."""
    return database.prediction(id)


@router.get(
    "/predictions/{id}/similar",
    response_model=SimilarResponse,
    responses=declared(400, 404, 409, 422, 503),
    dependencies=[allow_query("limit")],
)
def similar(database: DatabaseDep, id: PredictionId, limit: NeighbourCount = 10) -> Any:  # noqa: A002
    """The most similar recorded images, by distance in the embedding space of the model's detectors."""
    prediction = database.prediction(id)
    return SimilarResponse.of(prediction, database.similar(prediction, limit=limit))


@router.post(
    "/similar",
    response_model=SimilarResponse,
    responses=declared(400, 404, 408, 409, 413, 415, 422, 503),
    dependencies=[allow_query("model", "ra", "dec", "object_id", "limit")],
)
async def similar_to(
    request: Request,
    file: UploadFile,
    *,
    database: DatabaseDep,
    detection: DetectionDep,
    sky_object: SkyObjectParam,
    model: ModelName = None,
    key: IdempotencyKey = None,
    limit: NeighbourCount = 10,
) -> Any:
    """Classifies and records an image like /classify, and finds the most similar recorded images."""
    name, data = await read_single_file(request, file)
    prediction = await detection.detect(request, name, data, model=model, key=key, sky_object=sky_object)
    if isinstance(prediction, QueuedPrediction):
        raise DatabaseUnavailable("the prediction is queued on disk: similar images are known to PostgreSQL alone")
    neighbours = await asyncio.to_thread(database.similar, prediction, limit=limit)
    return SimilarResponse.of(prediction, neighbours)


def _pages(database: ServiceDatabase, filters: PredictionFilters) -> Iterator[list[Prediction]]:
    """All pages, at least one; each begins below the last id of the one before, so that none is slower than another."""
    before = None
    while True:
        page = database.predictions(filters, limit=EXPORT_PAGE_ROWS, before=before)
        yield page.predictions
        if (before := page.next_before) is None:
            return


def _write_csv(pages: Iterable[list[Prediction]]) -> Iterator[str]:
    """Cells that a spreadsheet would evaluate are prefixed by a '; the JSON export has them as they are."""
    columns = [field.name for field in fields(Prediction)]
    rows = [columns]
    for page in pages:
        rows += [[_cell(getattr(row, column)) for column in columns] for row in page]
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        yield text.getvalue()
        rows = []


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return TAG_SEPARATOR.join(value)
    return literal_text(value) if isinstance(value, str) else str(value)


@contextmanager
def _table_slot() -> Iterator[None]:
    """The right to make a table; Overloaded while TABLES_AT_ONCE are made."""
    if not _table_slots.acquire(blocking=False):
        raise Overloaded("other tables are being made: try again soon, or take /predictions.csv")
    try:
        yield
    finally:
        _table_slots.release()


def _until_disconnect(request: Request, pages: Iterable[list[Prediction]]) -> Iterator[list[Prediction]]:
    """The pages, until the client disconnects: nothing else would end the thread that makes a table of them."""
    disconnection = request.scope.get(DISCONNECTION) or Disconnection()
    for page in pages:
        if disconnection.happened:
            raise ClientDisconnect
        yield page


def _make_table(kind: str, pages: Iterable[list[Prediction]]) -> IO[bytes]:
    """A temporary file with a table of typed columns."""
    columns = {
        column.name: COLUMN_TYPES.get(str(getattr(column.type, "__name__", column.type)).partition(" |")[0], "text")
        for column in fields(Prediction)
    }
    rows = ([_table_value(getattr(row, column)) for column in columns] for page in pages for row in page)
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        WRITERS[f".{kind}"](file, columns, rows, "Predictions")
        file.seek(0)
        stack.pop_all()  # `_blocks` closes it
    return file


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _table_value(value: object) -> object:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return TAG_SEPARATOR.join(value) or None
    return str(value) if isinstance(value, uuid.UUID) else value


def _write_json(pages: Iterable[list[Prediction]]) -> Iterator[str]:
    """A list of what GET /predictions/{id} answers for each row, a line each."""
    yield "["
    separator = "\n"
    for page in filter(None, pages):
        yield separator + ",\n".join(PredictionResponse.of(row).model_dump_json() for row in page)
        separator = ",\n"
    yield "\n]\n"


TEXT_EXPORTS: dict[ExportFormat, tuple[Callable[[Iterable[list[Prediction]]], Iterator[str]], str]] = {
    "csv": (_write_csv, CSV),
    "json": (_write_json, "application/json"),
}
