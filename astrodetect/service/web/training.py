"""Training: the live view of every training on this machine, and the form that starts one."""

import datetime as dt
import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.datasets.labelled import labels_by_sha256, write_labelled_folders
from astrodetect.datasets.splits import SplitPlan
from astrodetect.errors import AstrodetectError, DataError
from astrodetect.evaluation.curves import training_history
from astrodetect.model_store.manifest import MODEL_NAME_PATTERN, list_manifests
from astrodetect.model_store.publication import RESERVED_SUFFIXES
from astrodetect.model_store.training_progress import TrainingProgress
from astrodetect.recipes import AUTO_CROP, DEFAULT_RECIPE, RECIPES
from astrodetect.reports.evaluation_report import CaptionedChart, training_charts
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import MAX_MODEL_NAME_CHARS, ModelPath
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.training_jobs import check_images
from astrodetect.service.web.rendering import MAX_MODEL_LENGTH, render, shorten
from astrodetect.service.web.review_actions import announce

MODELS_PATH = "/models-page"  # /models is the API's
TRAIN_PATH = f"{MODELS_PATH}/train"
STEPS_SHOWN = 8
LABELLED, TEST_SHARE = "labelled", 0.2  # the folder of training sets made of labels, and what of them tests
MAX_PATH_CHARS, MAX_CLASS_CHARS = 4096, 255
STRETCHES = ("none", "asinh", "zscale", "linear")
FIELDS = ("images", "name", "recipe", "positive", "negative", "epochs", "size", "crop", "stretch")
EMPTY_FORM = {**dict.fromkeys(FIELDS, ""), "recipe": DEFAULT_RECIPE, "stretch": "none"}

Place: TypeAlias = Literal["start", "models"]  # the page that shows the trainings
PathField: TypeAlias = Annotated[str, Form(max_length=MAX_PATH_CHARS)]
ClassField: TypeAlias = Annotated[str, Form(max_length=MAX_CLASS_CHARS)]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class TrainingView:
    """A training as the page shows it."""

    training: TrainingProgress
    epochs: list[dict[str, float]]  # their metrics so far; a linear probe has none
    charts: list[CaptionedChart]
    running_s: float

    @property
    def title(self) -> str:
        """What is being done, or how the training ended."""
        name = shorten(self.training.name, MAX_MODEL_LENGTH)
        if self.training.state != "running":
            return f"The training of {name} {self.training.ending.partition(':')[0]}"
        return f"Training {name}" if self.training.recipe else f"Simulating images for {name}"


@router.get("/training")
def show_trainings(
    request: Request, services: ServicesDep, at: Place = "models", shown: Annotated[str, Query(max_length=64)] = ""
) -> Response:
    """The figures of all trainings, polled; the whole part where `shown` says that trainings came, ended or changed."""
    if at == "start" and any(list_manifests(services.models.folder)):
        return Response(headers={"HX-Refresh": "true"})
    values = training_values(request, services, at)
    changed = values["trainings_digest"] != shown
    page = render(request, "_trainings.html", **values | {"swap": True, "whole": changed})
    if changed:
        page.headers.update(announce("; ".join(view.title for view in values["views"]) or "no training is going on"))
    return page


@router.get(TRAIN_PATH)
def show_form(
    request: Request, services: ServicesDep, images: Annotated[str, Query(max_length=MAX_PATH_CHARS)] = ""
) -> HTMLResponse:
    """The form that starts a training, on the images of a folder if one is given."""
    name = "" if _has_default(services) else services.models.default_name
    return _form(request, services, {**EMPTY_FORM, "name": name, "images": images})


@router.post(f"{TRAIN_PATH}/labels")
def write_training_set(request: Request, services: ServicesDep) -> Response:
    """Writes the labelled images as class folders, and shows the form with them."""
    output = services.settings.data_dir.absolute() / LABELLED / f"{dt.datetime.now(dt.UTC):%Y-%m-%d-%H%M%S-%f}"
    plan = SplitPlan(validation=0.0, test=TEST_SHARE)
    try:
        services.training_jobs.require_allowed(request)
        output.parent.mkdir(parents=True, exist_ok=True)
        labels = labels_by_sha256(services.database.current_labels())
        write_labelled_folders(labels, services.thumbnails.thumbnail, output, folder=None, plan=plan)
    except AstrodetectError as error:
        return _form(request, services, EMPTY_FORM, error=str(error), status=error.status)
    return RedirectResponse(f"{TRAIN_PATH}?{urlencode({'images': str(output)})}", 303)


@router.post(TRAIN_PATH)
def start_training(
    request: Request,
    services: ServicesDep,
    *,
    images: PathField = "",
    name: Annotated[str, Form(max_length=MAX_MODEL_NAME_CHARS)] = "",
    recipe: Annotated[str, Form(max_length=MAX_MODEL_NAME_CHARS)] = DEFAULT_RECIPE,
    positive: ClassField = "",
    negative: ClassField = "",
    epochs: Annotated[str, Form(max_length=10)] = "",
    size: Annotated[str, Form(max_length=10)] = "",
    crop: Annotated[str, Form(max_length=10)] = "",
    stretch: Annotated[str, Form(max_length=10)] = "none",
) -> Response:
    """Starts a training and shows it on the Models page."""
    values = (images, name, recipe, positive, negative, epochs, size, crop, stretch)
    fields = {field: value.strip() for field, value in zip(FIELDS, values, strict=True)}
    try:
        services.training_jobs.require_allowed(request)
        command = train_arguments(fields, services.models.folder)
        services.training_jobs.start(fields["name"], recipe, command, Path.cwd())
    except AstrodetectError as error:
        return _form(request, services, fields, error=str(error), status=error.status)
    return RedirectResponse(MODELS_PATH, 303)


@router.post(f"{MODELS_PATH}/{{name}}/training/{{action}}")
def change_training(
    request: Request,
    services: ServicesDep,
    name: ModelPath,
    action: Literal["cancel", "resume", "discard"],
    at: Annotated[Place, Form()] = "models",
) -> Response:
    """Cancels, resumes or discards a training, and shows the page `at` which its button was."""
    services.training_jobs.require_allowed(request)
    getattr(services.training_jobs, action)(name)
    return RedirectResponse("/" if at == "start" else MODELS_PATH, 303)


def train_arguments(fields: dict[str, str], models_dir: Path) -> list[str]:
    """The arguments of train_model.py for the fields of the form; DataError says which one is wrong."""
    name = fields["name"]
    if not fields["images"]:
        raise DataError("name the folder of the images")
    if fields["recipe"] not in RECIPES or fields["stretch"] not in STRETCHES:
        raise DataError("choose a recipe and a stretch from the lists")
    check_name(name)
    command = ["--recipe", fields["recipe"], "--output", str(models_dir.absolute() / f"{name}.h5")]
    for option, low, high, type_ in (("epochs", 1, 10_000, int), ("size", 32, 4096, int), ("crop", 0.1, 1, float)):
        if option == "crop" and fields[option] == AUTO_CROP:
            command += ["--crop", AUTO_CROP]
        elif text := fields[option]:
            try:
                value = type_(text)
            except ValueError:
                value = low - 1
            if not low <= value <= high:
                raise DataError(f"{option}: from {low:g} to {high:g}, not {text}")
            command += [f"--{option}", str(value)]
    if fields["stretch"] != "none":
        command += ["--stretch", fields["stretch"]]
    path = absolute_folder(fields["images"])
    check_images(path, fields["positive"], fields["negative"])
    command += ["--data", str(path)]
    if fields["positive"]:
        return [*command, f"--positive={fields['positive']}", f"--negative={fields['negative']}"]
    return [*command, "--classes", "all"]


def check_name(name: str) -> None:
    """DataError unless a model may have this name."""
    if not re.fullmatch(MODEL_NAME_PATTERN, name) or name.endswith(RESERVED_SUFFIXES):
        raise DataError("give the model a name of letters, digits, underscores, hyphens and dots")


def absolute_folder(text: str) -> Path:
    """The absolute path of a folder that a form names."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise DataError(f"no folder {text}") from error


def training_values(request: Request, services: Services, at: Place) -> dict[str, Any]:
    """What `_trainings.html` needs."""
    trainings = services.training_jobs.all()
    refusal = services.training_jobs.refusal(request)
    structure = [(training.name, training.state, training.recipe, training.started) for training in trainings]
    return {
        "views": [_view(training) for training in trainings],
        "at": at,
        "swap": False,
        "whole": True,
        "refusal": refusal,
        "steps_shown": STEPS_SHOWN,
        "trainings_digest": hashlib.sha256(repr((structure, refusal)).encode()).hexdigest()[:16],
        "models_path": MODELS_PATH,
        "train_path": TRAIN_PATH,
    }


def _view(training: TrainingProgress) -> TrainingView:
    epochs = [epoch for epoch in training.epochs if "train_loss" in epoch]
    end = time.time() if training.state == "running" else training.updated
    charts = training_charts(training_history(epochs), running=True)
    return TrainingView(training, epochs, charts, max(0.0, end - training.started))


def _has_default(services: Services) -> bool:
    return any(manifest.name == services.models.default_name for manifest in list_manifests(services.models.folder))


def _form(
    request: Request, services: Services, fields: dict[str, str], *, error: str = "", status: int = 200
) -> HTMLResponse:
    return render(
        request,
        "train.html",
        status=status,
        fields=fields,
        error=error,
        refusal=services.training_jobs.refusal(request),
        recipes=RECIPES.values(),
        stretches=STRETCHES,
        default_name=services.models.default_name,
        has_default=_has_default(services),
        models_path=MODELS_PATH,
        train_path=TRAIN_PATH,
    )
