"""Try: images in, a card for each out; one at a time by a plain form, many with the page's own module."""

import asyncio
import logging
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Request, UploadFile
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.errors import AstrodetectError, DatabaseError, ImageEmpty
from astrodetect.model_store.manifest import list_manifests
from astrodetect.records import Prediction, QueuedPrediction
from astrodetect.service.middleware.request_log import REQUEST_CONTEXT
from astrodetect.service.model_schemas import LONGEST_NAME, NAME_OR_NONE
from astrodetect.service.row_follower import UNUSUAL
from astrodetect.service.single_detection import detect_one
from astrodetect.service.web import samples
from astrodetect.service.web.image_view import ImageView
from astrodetect.service.web.rendering import accepts_html, render, wants_part

LONGEST_KEY = 100  # characters
MOST_COUNTED = 100  # images that wait for a look: beyond it their number says nothing
NOT_NOW = "The log does not answer just now: the picture is on the image's own page later."
log = logging.getLogger("uvicorn.error")
router = APIRouter(include_in_schema=False)


@router.get("/")
def start(request: Request) -> Response:
    """Where images are dropped, pasted or chosen."""
    return _page(request)


@router.post("/try")
async def attempt(
    request: Request,
    file: UploadFile | None = None,
    model: Annotated[str, Form(pattern=NAME_OR_NONE, max_length=LONGEST_NAME)] = "",
    sample: Annotated[str | None, Form()] = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=LONGEST_KEY)] = None,
) -> Response:
    """One image to its card, or to the page with its card; its row is logged before."""
    part = wants_part(request) or not accepts_html(request)
    try:
        name, data = await _sent(request, file, sample)
        verdict = await detect_one(request, name, data, model=model or None, key=key)
    except AstrodetectError as error:
        if part:
            raise
        log.warning("%s %s: %s", request.method, request.url.path, error)
        said = error.public or str(error)
        return await asyncio.to_thread(_page, request, model, status=error.status, wrong=said)
    card = await asyncio.to_thread(_card, request, verdict)
    if part:
        return render(request, "_card.html", card=card)
    return await asyncio.to_thread(_page, request, model, card=card)


@router.get("/try")
def again(_: Request) -> Response:
    """Where the address of an answer is opened anew."""
    return RedirectResponse("/", 303)


@router.get("/try/waiting")
def waiting(request: Request) -> Response:
    """How many images wait in Review that are more unusual than nearly all training images."""
    rows = request.app.state.database.most_novel(request.app.state.models.space, limit=MOST_COUNTED)
    count = sum((row.novelty or 0.0) >= UNUSUAL for row in rows)
    return render(request, "_waiting.html", count=count, most=MOST_COUNTED)


async def _sent(request: Request, file: UploadFile | None, sample: str | None) -> tuple[str, bytes]:
    """The image's name and bytes: one of the samples, or an upload."""
    if sample:
        path = await asyncio.to_thread(samples.found, request.app.state.settings.data_dir, sample)
        return sample, await asyncio.to_thread(path.read_bytes)
    if file is None or not (file.filename or file.size):
        raise ImageEmpty("choose an image first")
    return file.filename or "", await file.read()


def _page(
    request: Request,
    model: str = "",
    *,
    status: int = 200,
    wrong: str | None = None,
    card: dict[str, Any] | None = None,
) -> HTMLResponse:
    state = request.app.state
    serving, models = state.models.default_name, [one.name for one in list_manifests(state.models.folder)]
    return render(
        request,
        "try.html",
        status=status,
        wrong=wrong,
        card=card,
        models=sorted(models, key=lambda name: (name != serving, name)),
        model=model or serving,
        serving=serving,
        samples=list(samples.named(state.settings.data_dir)),
        largest=state.settings.max_body_bytes,
    )


def _card(request: Request, verdict: Prediction | QueuedPrediction) -> dict[str, Any]:
    """What `_card.html` shows; what only the log knows is left out while it does not answer."""
    state, stages = request.app.state, request.scope[REQUEST_CONTEXT].stages_s
    row = verdict.scored if isinstance(verdict, QueuedPrediction) else verdict
    sight, labels = ImageView(None, None, 1.0, NOT_NOW), None
    with suppress(DatabaseError):
        sight = ImageView.of(state, row)
        labels = state.database.labels_of(verdict) if isinstance(verdict, Prediction) else None
    return {
        "row": row,
        "queued": isinstance(verdict, QueuedPrediction),
        "sight": sight,
        "labels": labels,
        "unusual": UNUSUAL,
        "took_ms": 1000 * sum(seconds for stage, seconds in stages.items() if stage != "read"),
    }
