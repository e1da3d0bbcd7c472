"""Try: uploaded or sample images are scored and shown as cards; one by a plain form, many by the page's script."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Header, Request, UploadFile
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from astrodetect import images
from astrodetect.errors import AstrodetectError, DatabaseError, ImageEmpty, NotFound
from astrodetect.model_store.manifest import Manifest, list_manifests
from astrodetect.records import UNUSUAL_NOVELTY, Prediction, QueuedPrediction
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.error_handlers import accepts_html
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.query_params import MAX_MODEL_NAME_CHARS, OPTIONAL_MODEL_NAME_PATTERN
from astrodetect.service.services import DatabaseDep, ModelsDep, Services, ServicesDep, SettingsDep
from astrodetect.service.web.image_view import ImageView
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.training import training_values

MAX_KEY_LENGTH = 100  # characters of an Idempotency-Key
MAX_COUNTED = 100  # unlabelled unusual images
SAMPLE_CLASSES, SAMPLES_PER_CLASS = 2, 3
VIEW_UNAVAILABLE = "The database does not answer; the thumbnail will be on the image's page."
log = logging.getLogger("uvicorn.error")
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model that the form offers, and what it accepts."""

    model: str
    titles: str  # "JPEG, PNG or FITS"
    accept: str  # of the file input: media types, and suffixes, since systems know no type of some

    @classmethod
    def of(cls, manifest: Manifest) -> "ModelChoice":
        """From the model's manifest."""
        formats = images.accepted_formats(manifest.image)
        accept = [part for each in formats for part in (each.media_type, *each.suffixes)]
        return cls(manifest.name, images.accepted_text(manifest.image), ",".join(accept))


@router.get("/")
def show_upload(request: Request, services: ServicesDep) -> Response:
    """The start page: the upload form."""
    return _upload_page(request, services)


@router.post("/try")
async def upload_image(
    request: Request,
    services: ServicesDep,
    *,
    file: UploadFile | None = None,
    model: Annotated[str, Form(pattern=OPTIONAL_MODEL_NAME_PATTERN, max_length=MAX_MODEL_NAME_CHARS)] = "",
    sample: Annotated[str | None, Form()] = None,
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=MAX_KEY_LENGTH)] = None,
) -> Response:
    """Scores one image, logs it, and answers with its card, or with the page that shows the card."""
    fragment = wants_fragment(request) or not accepts_html(request)
    try:
        name, data = await _read_image(services.settings.data_dir, file, sample)
        prediction = await services.detection.detect(request, name, data, model=model or None, key=key)
    except AstrodetectError as error:
        if fragment:
            raise
        log.warning("%s %s: %s", request.method, request.url.path, error)
        message = error.public or str(error)
        return await asyncio.to_thread(_upload_page, request, services, model, status=error.status, error=message)
    card = await asyncio.to_thread(_card_values, request, services, prediction)
    if fragment:
        return render(request, "_card.html", card=card)
    return await asyncio.to_thread(_upload_page, request, services, model, card=card)


@router.get("/try")
def redirect_to_upload(_: Request) -> Response:
    """The address of a form's response, reloaded."""
    return RedirectResponse("/", 303)


@router.get("/try/waiting")
def count_unusual(request: Request, database: DatabaseDep, models: ModelsDep) -> Response:
    """The number of unlabelled images with a high novelty."""
    rows = database.most_novel(models.space, limit=MAX_COUNTED)
    count = sum((row.novelty or 0.0) >= UNUSUAL_NOVELTY for row in rows)
    return render(request, "_unusual_count.html", count=count, max_counted=MAX_COUNTED)


@router.get("/samples/{name:path}")
def send_sample(settings: SettingsDep, name: str) -> FileResponse:
    """A sample image."""
    return FileResponse(find_sample(settings.data_dir, name), media_type="image/jpeg")


def list_samples(data_dir: Path) -> dict[str, Path]:
    """A few images of the simulated sample's test set, by `class/file name`; none if it was not made."""
    test_set = data_dir / "sample" / "test"
    samples = {}
    for folder in nsmallest(SAMPLE_CLASSES, (path for path in test_set.glob("*") if path.is_dir())):
        for path in nsmallest(SAMPLES_PER_CLASS, folder.glob("*.jpg")):
            samples[f"{folder.name}/{path.name}"] = path
    return samples


def find_sample(data_dir: Path, name: str) -> Path:
    """The path of a listed sample, or NotFound; no other file can be named."""
    path = list_samples(data_dir).get(name)
    if path is None:
        raise NotFound("there is no such sample image")
    return path


async def _read_image(data_dir: Path, file: UploadFile | None, sample: str | None) -> tuple[str, bytes]:
    """The name and bytes of the sample or the upload."""
    if sample:
        path = await asyncio.to_thread(find_sample, data_dir, sample)
        return sample, await asyncio.to_thread(path.read_bytes)
    if file is None or not (file.filename or file.size):
        raise ImageEmpty("choose an image first")
    return file.filename or "", await file.read()


def _upload_page(
    request: Request,
    services: Services,
    model: str = "",
    *,
    status: int = 200,
    error: str | None = None,
    card: dict[str, Any] | None = None,
) -> HTMLResponse:
    default = services.models.default_name
    manifests = sorted(list_manifests(services.models.folder), key=lambda each: (each.name != default, each.name))
    models = [ModelChoice.of(manifest) for manifest in manifests]
    selected = next((each for each in models if each.model == (model or default)), models[0] if models else None)
    return render(
        request,
        "upload.html",
        status=status,
        error=error,
        card=card,
        models=models,
        selected=selected,
        samples=list(list_samples(services.settings.data_dir)),
        max_bytes=services.settings.max_body_bytes,
        **({} if models else training_values(request, services, "start")),
    )


def _card_values(request: Request, services: Services, prediction: Prediction | QueuedPrediction) -> dict[str, Any]:
    """What `_card.html` needs; without the database there are neither image nor labels."""
    stages_s = RequestContext.of(request.scope).stages_s
    row = prediction.scored if isinstance(prediction, QueuedPrediction) else prediction
    view, labels, roles = ImageView.without_image(VIEW_UNAVAILABLE), None, dict[str, str]()
    with suppress(DatabaseError):
        view = ImageView.load(row, services)
        labels = services.database.labels_of_image(prediction) if isinstance(prediction, Prediction) else None
        roles = services.database.label_names.roles() if labels else {}
    return {
        "row": row,
        "queued": isinstance(prediction, QueuedPrediction),
        "view": view,
        "labels": labels,
        "roles": roles,
        "unusual": UNUSUAL_NOVELTY,
        "took_ms": 1000 * sum(seconds for stage, seconds in stages_s.items() if stage != "read"),
    }
