"""Live: the newest predictions, and the stream that brings the next ones."""

import datetime as dt
import json
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Header, Query, Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.responses import HTMLResponse, Response

from astrodetect.records import ANOMALY, Prediction, PredictionFilters
from astrodetect.service.event_cursor import LONGEST, SHAPE, EventCursor
from astrodetect.service.feed import NewRows, StreamEvent
from astrodetect.service.row_follower import MOST_SHOWN, UNUSUAL, stands_out
from astrodetect.service.web.rendering import TEMPLATE, render

SHOWN = 24  # rows at first: whole lines of 2, 3, 4, 6 or 8
RETRY_MS = 3000  # until a browser comes back that lost the stream
YOUNG = dt.timedelta(seconds=10)  # in which a picture may still be on its way
AWAY = "The log does not answer: trying again."
STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx passes on each word as it comes
Only: TypeAlias = Annotated[Literal["", "unusual"], Query()]
router = APIRouter(include_in_schema=False)


@router.get("/live")
def live(request: Request, only: Only = "") -> HTMLResponse:
    """The newest rows, and how to go on from them."""
    database = request.app.state.database
    after = database.newest_id()  # before the rows: one that comes between is shown twice sooner than never
    rows = _newest(database, only=bool(only))
    young = dt.datetime.now(dt.UTC) - YOUNG
    pictured = database.pictured([row.image_sha256 for row in rows if row.image_sha256])
    cards = [(row, row.timestamp > young or row.image_sha256 in pictured) for row in rows]
    base = request.base_url
    return render(request, "live.html", cards=cards, after=after, only=only, stands_out=stands_out, base=base)


@router.get("/live/events")
async def events(
    request: Request,
    only: Only = "",
    after: Annotated[str | None, Query(pattern=SHAPE, max_length=LONGEST)] = None,
    last: Annotated[str | None, Header(alias="Last-Event-ID", pattern=SHAPE, max_length=LONGEST)] = None,
) -> Response:
    """New rows as server-sent events, without a gap after the one that was heard of last."""
    known = last or after
    words = request.app.state.feed.watch(EventCursor.read(known) if known else None, only=bool(only))
    await anext(words)  # where too many watch, the answer has its status

    async def stream() -> AsyncIterator[bytes]:
        yield format_sse_event(retry=RETRY_MS)
        async for word in words:
            yield _event(word)

    return EventSourceResponse(stream(), headers=STREAM)


def _newest(database: Any, *, only: bool) -> list[Prediction]:
    if not only:
        return list(database.predictions(PredictionFilters(), limit=SHOWN).predictions)
    asked = (PredictionFilters(result=ANOMALY), PredictionFilters(min_novelty=UNUSUAL))
    found = {row.id: row for one in asked for row in database.predictions(one, limit=SHOWN).predictions}
    return sorted(found.values(), key=lambda row: row.id, reverse=True)[:SHOWN]


def _event(word: NewRows | StreamEvent) -> bytes:
    if word is StreamEvent.AWAY:
        return format_sse_event(event="away", data_str=json.dumps(AWAY))
    if isinstance(word, StreamEvent):
        return format_sse_event(comment=word.value)
    told = {
        "images": word.images,
        "out": word.standing_out,
        "whole": word.whole,
        "cards": "".join(map(_card, word.rows)),
    }
    return format_sse_event(event="news", id=str(word.position), data_str=json.dumps(told))


@lru_cache(maxsize=4 * MOST_SHOWN)
def _card(row: Prediction) -> str:
    """Made once for all who watch."""
    return TEMPLATE.get_template("_live.html").render(row=row, kept=True, out=stands_out(row))
