"""The log as a file: row by row as it is read, so that a million of them take no more memory than a thousand."""

import csv
import datetime as dt
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import chain
from typing import Any, Literal, Protocol, TypeAlias

from starlette.responses import StreamingResponse

from astrodetect.records import Prediction, PredictionFilters, PredictionPage
from astrodetect.service import error_handlers, schemas

AT_A_TIME = 1000  # rows
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a cell begins that a spreadsheet computes
ExportFormat: TypeAlias = Literal["csv", "json"]


class PredictionSource(Protocol):
    """Where the rows are: `database.Database`."""

    def predictions(self, filters: PredictionFilters, *, limit: int, before: int | None = None) -> PredictionPage: ...


def download(log: PredictionSource, filters: PredictionFilters, kind: ExportFormat) -> StreamingResponse:
    """A file of all predictions that pass the filters, newest first."""
    written, media_type = KINDS[kind]
    pages = _pages(log, filters)
    first = next(pages)  # what PostgreSQL refuses has its status
    name = f"predictions-{dt.datetime.now(dt.UTC):%Y-%m-%d}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(written(chain([first], pages)), media_type=media_type, headers=headers)


def _pages(log: PredictionSource, filters: PredictionFilters) -> Iterator[list[Prediction]]:
    """By key, not by offset: the last page comes as soon as the first one; at least one page."""
    before = None
    while True:
        page = log.predictions(filters, limit=AT_A_TIME, before=before)
        yield page.predictions
        if (before := page.next_before) is None:
            return


def _csv(pages: Iterable[list[Prediction]]) -> Iterator[str]:
    """For spreadsheets: what they would compute gets a ' before it, which the JSON file does not have."""
    columns = [field.name for field in fields(Prediction)]
    rows = [columns]
    for page in pages:
        rows += [[_cell(getattr(one, column)) for column in columns] for one in page]
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
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text


def _json(pages: Iterable[list[Prediction]]) -> Iterator[str]:
    """One list of what GET /predictions/{id} answers for each, a line each."""
    yield "["
    between = "\n"
    for page in filter(None, pages):
        yield between + ",\n".join(schemas.PredictionResponse.of(one).model_dump_json() for one in page)
        between = ",\n"
    yield "\n]\n"


KINDS: dict[ExportFormat, tuple[Callable[[Iterable[list[Prediction]]], Iterator[str]], str]] = {
    "csv": (_csv, schemas.CSV),
    "json": (_json, "application/json"),
}
FILES: dict[int | str, dict[str, Any]] = error_handlers.declared(422, 503) | {
    200: {
        "content": {kind: {"schema": {"type": "string"}} for _, kind in KINDS.values()},
        "description": "id, image_name, score, result, timestamp, …",
    }
}
