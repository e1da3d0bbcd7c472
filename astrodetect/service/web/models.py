"""Models: which models serve, how they were evaluated, and rolling back to an earlier version."""

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
from astrodetect.model_store import store, versions
from astrodetect.model_store.manifest import Manifest, Precision, invalid_manifests, list_manifests, read_manifest
from astrodetect.records import ImageContract
from astrodetect.reports.evaluation_report import as_table_rows
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.model_registry import ModelRegistry
from astrodetect.service.query_params import (
    MAX_MODEL_NAME_CHARS,
    OPTIONAL_MODEL_NAME_PATTERN,
    VERSION_PATTERN,
    ModelPath,
)
from astrodetect.service.services import ModelsDep, services_of
from astrodetect.service.web.rendering import TEMPLATE, render, wants_fragment
from astrodetect.service.web.training import MODELS_PATH, training_values

OLD_PATH = "/trained"  # of earlier releases
METRICS_SHOWN = [spec for spec in METRIC_SPECS if spec.name in ("accuracy", "balanced_accuracy", "auc", "ece")]
DELETED = "its files were deleted."
REPORT_POLICY = "; ".join(  # a report is self-contained: its script runs in a sandbox without access to the service
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
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """A version of a model, current or earlier."""

    manifest: Manifest
    has_report: bool


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as the page shows it."""

    name: str
    default: bool  # serves requests that name no model
    current: VersionEntry | None  # on disk; None if unreadable
    loaded: Manifest | None  # in memory; differs from the current one while that loads, or if it cannot be loaded
    precision: Precision | None  # of the loaded one
    problem: str | None
    earlier: list[VersionEntry]

    @property
    def up_to_date(self) -> bool:
        """Whether the current version is the loaded one."""
        return bool(self.loaded and self.current and self.loaded.files == self.current.manifest.files)


@router.get(MODELS_PATH)
async def show_models(
    request: Request,
    registry: ModelsDep,
    digest: str = "",
    serving: str = "",
    done: Annotated[str, Query(pattern=OPTIONAL_MODEL_NAME_PATTERN, max_length=MAX_MODEL_NAME_CHARS)] = "",
) -> Response:
    """The page; for htmx its part, unless it still has the `digest` of what is shown."""
    registry.refresh()  # an open page shows a newly published model even if no request comes in
    models = await asyncio.to_thread(_list_models, registry)
    if not wants_fragment(request):
        return _show(request, models, _rollback_message(models, done))
    if _render_models(models)[1] == digest:
        return Response(status_code=204)
    version = _serving_version(models)
    changed = serving and version not in {"", serving}
    return _show(request, models, f"Version {version} is serving now." if changed else "")


@router.post(f"{MODELS_PATH}/{{name}}/rollback")
async def roll_back(
    request: Request,
    registry: ModelsDep,
    name: ModelPath,
    version: Annotated[str | None, Form(pattern=VERSION_PATTERN)] = None,
) -> Response:
    """Rolls a model back to an earlier version."""
    await registry.rollback(name, version)
    if not wants_fragment(request):
        return RedirectResponse(f"{MODELS_PATH}?done={name}", 303)
    models = await asyncio.to_thread(_list_models, registry)
    return _show(request, models, _rollback_message(models, name), focus=True)  # the focused button is replaced


@router.get(f"{MODELS_PATH}/{{name}}/report")
def show_report(
    registry: ModelsDep, name: ModelPath, version: Annotated[str | None, Query(pattern=VERSION_PATTERN)] = None
) -> HTMLResponse:
    """The evaluation report of a model, or of an earlier version of it."""
    folder = versions.find_version(registry.folder, name, version) if version else registry.folder
    try:
        path = store.report_page(folder, read_manifest(folder / f"{name}.json"))
        text = path.read_text(encoding="utf-8") if path else None
    except (ModelMissing, FileNotFoundError) as missing:  # an archived version may be deleted meanwhile
        raise ModelUnknown(f"no model {name} here") from missing
    if text is None:
        raise NotFound(f"this version of {name} has no report: python -m astrodetect evaluate {name} DATA makes one")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get(OLD_PATH)
@router.get(f"{OLD_PATH}/{{rest:path}}")
def redirect_old_path(request: Request) -> RedirectResponse:
    """The same page under its present path."""
    path = MODELS_PATH + request.url.path.removeprefix(OLD_PATH)
    return RedirectResponse(request.url.replace(scheme="", netloc="", path=path), 308)


def _list_models(registry: ModelRegistry) -> list[ModelEntry]:
    """Every model, the default one first."""
    folder, loaded, failed = registry.folder, registry.loaded, registry.failed
    current = {manifest.name: manifest for manifest in list_manifests(folder)}
    unreadable = invalid_manifests(folder)
    names = sorted({*current, *unreadable, *loaded}, key=lambda name: (name != registry.default_name, name))
    return [
        ModelEntry(
            name,
            name == registry.default_name,
            _version_entry(folder, current[name]) if name in current else None,
            loaded[name].manifest if name in loaded else None,
            loaded[name].precision if name in loaded else None,
            unreadable.get(name) or failed.get(name) or (None if name in current else DELETED),
            [_version_entry(path, manifest) for path, manifest in versions.earlier_versions(folder, name).items()],
        )
        for name in names
    ]


def _version_entry(folder: Path, manifest: Manifest) -> VersionEntry:
    return VersionEntry(manifest, store.report_page(folder, manifest) is not None)


def _show(request: Request, models: list[ModelEntry], message: str, *, focus: bool = False) -> HTMLResponse:
    """The page, or its part for htmx, with the outcome of the last action."""
    fragment, (body, digest) = wants_fragment(request), _render_models(models)
    return render(
        request,
        "_models_poll.html" if fragment else "models.html",
        body=body,
        digest=digest,
        serving=_serving_version(models),
        message=message,
        fragment=fragment,
        focus=focus,
        **({"models_path": MODELS_PATH} if fragment else training_values(request, services_of(request), "models")),
    )


def _render_models(models: list[ModelEntry]) -> tuple[Markup, str]:
    """The list of models, and its digest."""
    text = TEMPLATE.get_template("_models.html").render(
        models=models,
        metrics=METRICS_SHOWN,
        describe_input=_describe_input,
        describe_precision=_describe_precision,
        describe_ranking=_describe_ranking,
        settings_of=_settings,
        data_of=_data,
        models_path=MODELS_PATH,
    )
    return Markup(text), hashlib.sha256(text.encode()).hexdigest()[:16]  # noqa: S704 - a template's, escaped


def _serving_version(models: list[ModelEntry]) -> str:
    """The loaded version of the default model."""
    return next((model.loaded.version for model in models if model.default and model.loaded), "")


def _rollback_message(models: list[ModelEntry], name: str) -> str:
    """The outcome of a rollback."""
    model = next((model for model in models if model.name == name), None)
    if model is None or model.current is None:
        return ""
    return f"{name} is rolled back to version {model.current.manifest.version}."


def _describe_input(contract: ImageContract) -> str:
    """The preprocessing of an image."""
    crop = "largest central square" if contract.crop == 1 else f"central square of {contract.crop:.0%}"
    bands = {contract.RGB: "RGB", "0": "greyscale"}.get(contract.bands, f"FITS planes {contract.bands}")
    fits = "FITS is refused" if contract.stretch == "none" else f"FITS with {contract.stretch} stretch"
    return f"{crop}, scaled to {contract.size} × {contract.size} pixels, {bands}; {fits}"


def _describe_precision(manifest: Manifest, precision: Precision) -> str:
    """The arithmetic, and how often its decisions agree with those of the trained model."""
    fidelity = manifest.fidelity.get(precision)
    if fidelity is None:
        return f"{precision}, as trained"
    agreement = f"{fidelity.same_decisions:.1%} of {fidelity.images:,} images"
    return f"{precision}: the same decision as the trained model for {agreement}"


def _describe_ranking(manifest: Manifest) -> str:
    """Whether a network that learnt from labels ranks images, and by which comparison; empty for other models."""
    if manifest.teaching is None:
        return ""
    part = "takes part in it as the default model" if manifest.ranks else "takes no part in it: label more images"
    match manifest.teaching.get("average_precision"):
        case {"ranking": float(ranking), "labels": float(labels), "together": float(together)}:
            return f"{part}; average precision {together:.3f} with it, {max(ranking, labels):.3f} without"
    return part


def _data(manifest: Manifest) -> list[tuple[str, str, str]]:
    """For each part of the data: its name, image counts and fingerprint."""
    parts = [(title, part) for title, part in manifest.data.items() if isinstance(part, dict)]
    return [
        (title, ", ".join(f"{count} {name}" for name, count in images.items()), str(part.get("fingerprint", ""))[:12])
        for title, part in parts
        if isinstance(images := part.get("images"), dict)
    ]


def _settings(manifest: Manifest) -> list[tuple[str, str]]:
    """Training settings and package versions."""
    settings: dict[str, Any] = {
        name: value for name, value in manifest.settings.items() if name != "history" and value not in (None, [])
    }
    return [*as_table_rows(settings), *as_table_rows(manifest.versions)]
