"""Label names: the names of one's own, each with a key in Review and a role, and the forms that change them."""

from typing import Annotated, TypeAlias

from fastapi import APIRouter, Form, Path, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.errors import LabelNameConflict
from astrodetect.labels import INTERESTING, LABEL_KEYS, LABELS, MAX_LABEL_LENGTH, LabelValue, parse_label
from astrodetect.service.authentication import LABEL_NAMES_PATH
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import DatabaseDep, ServiceDatabase
from astrodetect.service.web.rendering import render

NameField: TypeAlias = Annotated[str, Form(max_length=255)]
KeyField: TypeAlias = Annotated[str, Form(pattern=f"^[{LABEL_KEYS}]?$")]  # empty: the next free digit
RoleField: TypeAlias = Annotated[str, Form(pattern=f"^({'|'.join(LABELS)})$")]
NamePath: TypeAlias = Annotated[str, Path(max_length=MAX_LABEL_LENGTH)]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False, prefix=LABEL_NAMES_PATH)


@router.get("")
def show_label_names(request: Request, database: DatabaseDep) -> Response:
    """The names, and the form to add one."""
    return _page(request, database)


@router.post("")
def add_label_name(
    request: Request, database: DatabaseDep, name: NameField = "", key: KeyField = "", role: RoleField = INTERESTING
) -> Response:
    """Adds a name, for all reviewers."""
    return _save(request, database, name, key, role)


@router.post("/{old}")
def change_label_name(
    request: Request, database: DatabaseDep, *, old: NamePath, name: NameField, role: RoleField, key: KeyField = ""
) -> Response:
    """Changes the key and the role of a name, and the name itself where no label has it."""
    return _save(request, database, name, key, role, instead_of=old)


@router.post("/{old}/remove")
def remove_label_name(request: Request, database: DatabaseDep, old: NamePath) -> Response:
    """Removes a name that no label has."""
    try:
        database.label_names.remove(old)
    except LabelNameConflict as error:
        return _page(request, database, error=str(error), status=error.status)
    return RedirectResponse(LABEL_NAMES_PATH, 303)


def _save(
    request: Request,
    database: ServiceDatabase,
    name: str,
    key: str,
    role: LabelValue,
    *,
    instead_of: LabelValue | None = None,
) -> Response:
    try:
        database.label_names.save(parse_label(name), key or None, role, instead_of=instead_of)
    except ValueError as error:
        return _page(request, database, error=str(error), status=422, entered=name)
    except LabelNameConflict as error:
        return _page(request, database, error=str(error), status=error.status, entered=name)
    return RedirectResponse(LABEL_NAMES_PATH, 303)


def _page(
    request: Request, database: ServiceDatabase, *, error: str = "", status: int = 200, entered: str = ""
) -> Response:
    return render(
        request,
        "label_names.html",
        status=status,
        error=error,
        entered=entered,
        names=database.label_names.list(),
        roles=LABELS,
        keys=LABEL_KEYS,
        max_length=MAX_LABEL_LENGTH,
        names_path=LABEL_NAMES_PATH,
    )
