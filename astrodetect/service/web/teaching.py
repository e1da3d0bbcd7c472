"""Teaching a network by the labels of the Review page: the form, and the training that it starts."""

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from astrodetect.anomalies.teaching import MIN_WANTED, TAUGHT
from astrodetect.errors import AstrodetectError, DataError
from astrodetect.labels import is_wanted, to_csv
from astrodetect.model_store import training_progress
from astrodetect.recipes import TEACHING_RECIPE
from astrodetect.service.query_params import MAX_MODEL_NAME_CHARS
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.training_jobs import TEACH
from astrodetect.service.web.rendering import render
from astrodetect.service.web.review_session import REVIEW_PATH
from astrodetect.service.web.training import MODELS_PATH, PathField, absolute_folder, check_name

TEACH_PATH = f"{REVIEW_PATH}/teach"
router = APIRouter(include_in_schema=False)


@router.get(TEACH_PATH)
def show_teaching_form(request: Request, services: ServicesDep) -> HTMLResponse:
    """The form that starts the training."""
    return _form(request, services, "", TAUGHT)


@router.post(TEACH_PATH)
def start_teaching(
    request: Request,
    services: ServicesDep,
    images: PathField = "",
    name: Annotated[str, Form(max_length=MAX_MODEL_NAME_CHARS)] = TAUGHT,
) -> Response:
    """Starts `teach` with all labels of the log, and shows it on the Models page."""
    images, name = images.strip(), name.strip()
    try:
        services.training_jobs.require_allowed(request)
        command = _teach_arguments(services, images, name)
        labels = to_csv(services.database.label_pages())
        services.training_jobs.start(name, TEACHING_RECIPE, command, Path.cwd(), labels=labels)
    except AstrodetectError as error:
        return _form(request, services, images, name, error=str(error), status=error.status)
    return RedirectResponse(MODELS_PATH, 303)


def _teach_arguments(services: Services, images: str, name: str) -> list[str]:
    """The arguments of the command; DataError says what is wrong."""
    check_name(name)
    folder = absolute_folder(images) if images else None
    if folder is None or not os.path.exists(folder):  # noqa: PTH110 - Path.exists raises where the name is too long
        raise DataError(f"no folder {images}" if images else "name the folder of the images")
    if (wanted := _count_wanted(services)) < MIN_WANTED:
        raise DataError(f"{wanted} images are labelled interesting: a network learns from {MIN_WANTED} or more")
    labels = training_progress.labels_path(services.models.folder, name).absolute()
    return [TEACH, str(folder), "--labels", str(labels), "--name", name]


def _count_wanted(services: Services) -> int:
    roles = services.database.label_names.roles()
    return sum(is_wanted(roles.get(label, label)) for label in services.database.current_labels().values())


def _form(
    request: Request, services: Services, images: str, name: str, *, error: str = "", status: int = 200
) -> HTMLResponse:
    return render(
        request,
        "teach.html",
        status=status,
        images=images,
        name=name,
        error=error,
        refusal=services.training_jobs.refusal(request),
        wanted=_count_wanted(services),
        min_wanted=MIN_WANTED,
        default_name=services.models.default_name,
        review_path=REVIEW_PATH,
        teach_path=TEACH_PATH,
        models_path=MODELS_PATH,
    )
