"""Models: what answers here, how good it was measured to be, and going back to an earlier version."""

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.errors import ModelMissing, ModelUnknown, NotFound
from astrodetect.evaluation.summary import METRIC_SPECS
from astrodetect.model_store import archive, store
from astrodetect.model_store.manifest import Manifest, Precision, invalid_manifests, list_manifests, read_manifest
from astrodetect.records import ImageContract
from astrodetect.reports.evaluation_report import as_table_rows
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.model_schemas import LONGEST_NAME, NAME_OR_NONE, VERSION, ModelPath
from astrodetect.service.web.rendering import TEMPLATE, render, wants_part

FIGURES = [kind for kind in METRIC_SPECS if kind.name in ("accuracy", "balanced_accuracy", "auc", "ece")]
# A report is a page that needs nothing else: its script may draw on it, and can do nothing here.
REPORT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "sandbox allow-scripts",
    )
)
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version of a model, in its place or an earlier one."""

    manifest: Manifest
    reported: bool  # whether an evaluation of it left a page


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as the page shows it."""

    name: str
    default: bool  # it answers where no model is named
    version: VersionEntry | None  # None where it cannot be read
    running: Manifest | None  # what answers now; of another version for a moment, or where the new one is broken
    precision: Precision | None  # that it computes in
    problem: str | None
    earlier: list[VersionEntry]

    @property
    def up_to_date(self) -> bool:
        """Whether what answers is what is in place."""
        return bool(self.running and self.version and self.running.files == self.version.manifest.files)


@router.get("/trained")
async def trained(
    request: Request,
    seen: str = "",
    running: str = "",
    done: Annotated[str, Query(pattern=NAME_OR_NONE, max_length=LONGEST_NAME)] = "",
) -> Response:
    """The page; its part is sent only where it is not as it was `seen`."""
    models: ModelRegistry = request.app.state.models
    models.look()  # a page that is left open sees a new model come, even where nobody asks for a verdict
    found = await asyncio.to_thread(_found, models)
    if not wants_part(request):
        return _answer(request, found, _in_place(found, done))
    if _body(found)[1] == seen:
        return Response(status_code=204)
    now = _running(found)
    return _answer(request, found, f"{now} answers now." if running and now not in {"", running} else "")


@router.post("/trained/{name}/rollback")
async def rollback(
    request: Request, name: ModelPath, version: Annotated[str | None, Form(pattern=VERSION)] = None
) -> Response:
    """Puts an earlier version back, and says so on the page."""
    models: ModelRegistry = request.app.state.models
    await models.rollback(name, version)
    if not wants_part(request):
        return RedirectResponse(f"/trained?done={name}", 303)
    found = await asyncio.to_thread(_found, models)
    return _answer(request, found, _in_place(found, name), focus=True)  # the button that had it is gone


@router.get("/trained/{name}/report")
def report(
    request: Request, name: ModelPath, version: Annotated[str | None, Query(pattern=VERSION)] = None
) -> HTMLResponse:
    """The evaluation of a model, or of an earlier version of it."""
    folder = request.app.state.models.folder
    place = archive.find_version(folder, name, version) if version else folder
    try:
        page = store.report_page(place, read_manifest(place / f"{name}.json"))
        text = page.read_text(encoding="utf-8") if page else None
    except (ModelMissing, FileNotFoundError) as missing:  # a version may be let go meanwhile
        raise ModelUnknown(f"no model {name} here") from missing
    if text is None:
        raise NotFound(f"this version of {name} was not evaluated: python -m astrodetect evaluate {name} DATA does it")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})


def _found(models: ModelRegistry) -> list[ModelEntry]:
    """Every model, the one that answers where none is named first."""
    folder, loaded, failed = models.folder, models.loaded, models.failed
    in_place, broken = {one.name: one for one in list_manifests(folder)}, invalid_manifests(folder)
    names = sorted({*in_place, *broken, *loaded}, key=lambda name: (name != models.default_name, name))
    return [
        ModelEntry(
            name,
            name == models.default_name,
            _version(folder, in_place[name]) if name in in_place else None,
            loaded[name].manifest if name in loaded else None,
            loaded[name].precision if name in loaded else None,
            broken.get(name) or failed.get(name),
            [_version(place, one) for place, one in archive.earlier_versions(folder, name).items()],
        )
        for name in names
    ]


def _version(place: Path, manifest: Manifest) -> VersionEntry:
    return VersionEntry(manifest, store.report_page(place, manifest) is not None)


def _answer(request: Request, found: list[ModelEntry], said: str, *, focus: bool = False) -> HTMLResponse:
    """The page, or its part for htmx, with what has just happened."""
    part, (body, seen) = wants_part(request), _body(found)
    template = "_trained.html" if part else "trained.html"
    return render(request, template, body=body, seen=seen, running=_running(found), said=said, part=part, focus=focus)


def _body(found: list[ModelEntry]) -> tuple[Markup, str]:
    """What is said of the models, and a sum that tells it from what was said before."""
    text = TEMPLATE.get_template("_models.html").render(
        models=found, kinds=FIGURES, looks=_looks, serves=_serves, rows=_rows, counts=_counts
    )
    return Markup(text), hashlib.sha256(text.encode()).hexdigest()[:16]  # noqa: S704 - a template's, escaped


def _running(found: list[ModelEntry]) -> str:
    """The version that answers where no model is named."""
    return next((one.running.version for one in found if one.default and one.running), "")


def _in_place(found: list[ModelEntry], name: str) -> str:
    """What a rollback came to."""
    model = next((one for one in found if one.name == name), None)
    if model is None or model.version is None:
        return ""
    return f"Version {model.version.manifest.version} of {name} is in place."


def _looks(contract: ImageContract) -> str:
    """What becomes of an image, in words."""
    part = "the largest square in its middle" if contract.crop == 1 else f"its middle {contract.crop:.0%}, as a square"
    colours = {contract.RGB: "in colour", "0": "in grey"}.get(contract.bands, f"planes {contract.bands} of FITS")
    fits = "FITS is refused" if contract.stretch == "none" else f"FITS is shown in a {contract.stretch} stretch"
    return f"{part}, scaled to {contract.size} × {contract.size} pixels, {colours}; {fits}"


def _serves(manifest: Manifest, precision: Precision) -> str:
    """The arithmetic, and how close it comes to what was trained."""
    tried = manifest.fidelity.get(precision)
    if tried is None:
        return f"{precision}, as it was trained"
    return f"{precision}: decides {tried.same_decisions:.1%} of {tried.images:,} images as in training"


def _counts(data: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part of the data, its images, and the sum that tells it from others."""
    parts = [(title, part) for title, part in data.items() if isinstance(part, dict)]
    return [
        (title, ", ".join(f"{count} {name}" for name, count in images.items()), str(part.get("fingerprint", ""))[:12])
        for title, part in parts
        if isinstance(images := part.get("images"), dict)
    ]


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    """How it was made, and with what."""
    said = {name: value for name, value in manifest.settings.items() if name != "history" and value not in (None, [])}
    return [*as_table_rows(said), *as_table_rows(manifest.versions)]
