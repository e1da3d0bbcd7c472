"""Live: the newest predictions, and the server-sent events with the next ones."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import HTMLResponse, Response

from astrodetect.records import ANOMALY, UNUSUAL_NOVELTY, Prediction, PredictionFilters
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.live_feed import NewRows, StreamEvent
from astrodetect.service.row_follower import (
    CURSOR_PATTERN,
    MAX_CURSOR_CHARS,
    MAX_NEWEST,
    EventCursor,
    is_highlighted,
)
from astrodetect.service.services import AuthenticatorDep, DatabaseDep, LiveFeedDep, ServiceDatabase
from astrodetect.service.web.rendering import TEMPLATE, render

ROWS_SHOWN = 24  # fills lines of 2, 3, 4, 6 or 8 cards
RETRY_MS = 3000  # of a browser whose stream broke
THUMBNAIL_DELAY = dt.timedelta(seconds=10)  # within which the thumbnail of a new row may still be written
DATABASE_DOWN = "The database does not answer; trying again."
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx must not buffer events
OnlyParam: TypeAlias = Annotated[Literal["", "unusual"], Query()]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get("/live")
def show_live(request: Request, database: DatabaseDep, only: OnlyParam = "") -> HTMLResponse:
    """The newest rows, and the position at which the stream continues."""
    after = database.newest_id()  # read before the rows: a row between the two is then shown by the stream
    rows = _newest_rows(database, only=bool(only))
    recent = dt.datetime.now(dt.UTC) - THUMBNAIL_DELAY
    with_thumbnail = database.images_with_thumbnails([row.image_sha256 for row in rows if row.image_sha256])
    cards = [(row, row.timestamp > recent or row.image_sha256 in with_thumbnail) for row in rows]
    base = request.base_url
    return render(request, "live.html", cards=cards, after=after, only=only, is_highlighted=is_highlighted, base=base)


@router.get("/live/events")
async def stream_events(
    request: Request,
    feed: LiveFeedDep,
    authenticator: AuthenticatorDep,
    *,
    only: OnlyParam = "",
    after: Annotated[str | None, Query(pattern=CURSOR_PATTERN, max_length=MAX_CURSOR_CHARS)] = None,
    last: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=CURSOR_PATTERN, max_length=MAX_CURSOR_CHARS)
    ] = None,
) -> Response:
    """New rows as server-sent events, continuing after the last event received."""
    position = last or after
    events = feed.watch(EventCursor.parse(position) if position else None, highlighted_only=bool(only))
    await anext(events)  # so that a refusal is the status of the response

    async def stream() -> AsyncIterator[bytes]:
        yield format_sse_event(retry=RETRY_MS)
        async for event in events:
            if not await authenticator.may_still_read(request.scope):
                return
            yield _format_event(event)

    return EventSourceResponse(stream(), headers=STREAM_HEADERS)


def _newest_rows(database: ServiceDatabase, *, only: bool) -> list[Prediction]:
    if not only:
        return database.predictions(PredictionFilters(), limit=ROWS_SHOWN).predictions
    filters = (PredictionFilters(result=ANOMALY), PredictionFilters(min_novelty=UNUSUAL_NOVELTY))
    rows = {row.id: row for each in filters for row in database.predictions(each, limit=ROWS_SHOWN).predictions}
    return sorted(rows.values(), key=lambda row: row.id, reverse=True)[:ROWS_SHOWN]


def _format_event(event: NewRows | StreamEvent) -> bytes:
    if event is StreamEvent.UNAVAILABLE:
        return format_sse_event(event="away", data_str=json.dumps(DATABASE_DOWN))
    if isinstance(event, StreamEvent):
        return format_sse_event(comment=event.value)
    data = {
        "images": event.images,
        "out": event.highlighted,
        "whole": event.complete,
        "cards": "".join(map(_render_card, event.rows)),
    }
    return format_sse_event(event="news", id=str(event.cursor), data_str=json.dumps(data))


@lru_cache(maxsize=4 * MAX_NEWEST)
def _render_card(row: Prediction) -> str:
    """Rendered once for all clients."""
    return TEMPLATE.get_template("_live.html").render(row=row, has_thumbnail=True, highlighted=is_highlighted(row))
