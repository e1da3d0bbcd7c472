"""The page of one prediction: everything known of it, and the labels of its image."""

from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.errors import NotFound
from astrodetect.labels import MAX_LABEL_LENGTH, MAX_NOTE_LENGTH, assign_keys
from astrodetect.records import BIGINT_MAX, Prediction
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.middleware.security import SAMP_POLICY, SKY_VIEW_POLICY
from astrodetect.service.query_params import ChosenLabel, LabelId, PostedTag, PredictionId
from astrodetect.service.services import DatabaseDep, ServiceDatabase, ServicesDep
from astrodetect.service.web.history import HistoryFilters
from astrodetect.service.web.image_view import ImageView
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.review_actions import announce, change_tags
from astrodetect.service.web.review_session import (
    MAX_REVIEWER_LENGTH,
    REVIEW_PATH,
    remember_reviewer,
    reviewer_name,
)

MAX_LENGTHS = {"note": MAX_NOTE_LENGTH, "who": MAX_REVIEWER_LENGTH, "label": MAX_LABEL_LENGTH}  # characters
MAX_OTHERS = 12  # other predictions of the same image
MAX_LABELS_SHOWN = 20
Back: TypeAlias = Annotated[str, Form(pattern=r"^(/(history|review)[\w/]*(\?[\w=&%.+-]*)?)?$", max_length=500)]
Compact: TypeAlias = Annotated[bool, Form()]  # whether the labels are on an upload card
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get("/history/{id}")
def show_prediction(
    request: Request,
    database: DatabaseDep,
    services: ServicesDep,
    id: PredictionId,  # noqa: A002
) -> Response:
    """The page of a prediction; its links to the previous and next one keep the filters of the query string."""
    filters = HistoryFilters.parse(request.query_params)
    row = database.prediction(id)
    others = database.by_image(row.image_sha256, limit=MAX_OTHERS + 1) if row.image_sha256 else []
    newer = database.predictions(filters.validated, limit=1, after=id).predictions
    older = database.predictions(filters.validated, limit=1, before=id).predictions
    return render(
        request,
        "prediction.html",
        policy=SAMP_POLICY if services.settings.aladin is None else SKY_VIEW_POLICY,
        row=row,
        filters=filters,
        view=ImageView.load(row, services),
        sky_view=services.settings.aladin is not None and row.ra is not None,
        others=[other for other in others if other.id != id][:MAX_OTHERS],
        newer=newer[0].id if newer else None,
        older=older[0].id if older else None,
        **_tag_values(database, row, f"/history/{id}") | _label_values(request, database, row, compact=False),
    )


@router.get("/history/{id}/beside/{other}")
def show_two_images(
    request: Request,
    services: ServicesDep,
    id: PredictionId,  # noqa: A002
    other: PredictionId,
) -> Response:
    """The images of two predictions side by side."""
    rows = [services.database.prediction(id_) for id_ in (id, other)]
    return render(request, "beside.html", sides=[(row, ImageView.load(row, services)) for row in rows])


@router.post("/history/{id}/label")
def add_label(
    request: Request,
    database: DatabaseDep,
    id: PredictionId,  # noqa: A002
    *,
    label: ChosenLabel,
    note: Annotated[str, Form(max_length=MAX_NOTE_LENGTH)] = "",
    who: Annotated[str | None, Form(max_length=MAX_REVIEWER_LENGTH)] = None,
    compact: Compact = False,
) -> Response:
    """Labels the image of a prediction; a name sent along is remembered in a cookie."""
    reviewer = reviewer_name(request) if who is None else who.strip()
    stored = database.add_label(id, label, who=reviewer, note=note.strip())
    response = _show_labels(request, database, id, f"Labelled {stored.label}", compact=compact, reviewer=reviewer)
    if who is not None:
        remember_reviewer(response, who)
    return response


@router.post("/history/{id}/tag")
@router.post("/history/{id}/untag")
@router.post(REVIEW_PATH + "/{id:int}/tag")
@router.post(REVIEW_PATH + "/{id:int}/untag")
def change_tag(
    request: Request,
    database: DatabaseDep,
    id: PredictionId,  # noqa: A002
    *,
    tag: PostedTag,
    back: Back = "",
) -> Response:
    """Tags the image of a prediction, or removes a tag; one that the image does not have is no error.

    In Review it is a step of the session, which Undo takes back.
    """
    session, changed = change_tags(request, database, [id], tag)
    path, _, action = request.url.path.rpartition("/")
    reviews = path.startswith(f"{REVIEW_PATH}/")
    if wants_fragment(request):
        values = _tag_values(database, database.prediction(id), path, back)
        values |= {"undo_enabled": reviews and bool(session.steps)}
        values |= {"removed": tag if action == "untag" and changed and not reviews else None}
        response: Response = render(request, "_tags.html", **values)
        response.headers.update(announce(f"tagged {tag}" if action == "tag" else f"tag {tag} removed"))
    else:
        response = RedirectResponse(back or f"/history/{id}#tags-{id}", 303)
    return session.save(response) if reviews else response


@router.post("/labels/{label_id}/undo")
def remove_label(
    request: Request,
    database: DatabaseDep,
    label_id: LabelId,
    *,
    prediction: Annotated[int, Form(ge=1, le=BIGINT_MAX)],
    note: Annotated[str, Form(max_length=MAX_NOTE_LENGTH)] = "",
    compact: Compact = False,
) -> Response:
    """Deletes a label; one that is already deleted is no error. A `note` that is being written stays."""
    try:
        message = f"Label {database.delete_label(label_id).label} removed"
    except NotFound:
        message = "That label was already removed"
    reviewer = reviewer_name(request)
    return _show_labels(request, database, prediction, message, compact=compact, reviewer=reviewer, note=note)


def _label_values(request: Request, database: ServiceDatabase, row: Prediction, *, compact: bool) -> dict[str, Any]:
    """What `_labels.html` needs."""
    names = database.label_names.list()
    return {
        "id": row.id,
        "labels": database.labels_of_image(row),
        "roles": {name.name: name.role for name in names},
        "own_names": assign_keys(names),
        "max_labels": MAX_LABELS_SHOWN,
        "reviewer": reviewer_name(request),
        "note": "",
        "max_lengths": MAX_LENGTHS,
        "compact": compact,
    }


def _tag_values(database: ServiceDatabase, row: Prediction, path: str, back: str = "") -> dict[str, Any]:
    """What `_tags.html` needs; `path` begins the addresses of its forms."""
    return {
        "id": row.id,
        "tags": row.tags,
        "tags_path": path,
        "known_tags": database.tags.suggested(),
        "back": back or f"/history/{row.id}",
        "max_label_length": MAX_LABEL_LENGTH,
    }


def _show_labels(
    request: Request,
    database: ServiceDatabase,
    id: int,  # noqa: A002
    message: str,
    *,
    compact: bool,
    reviewer: str | None,
    note: str = "",
) -> Response:
    if not wants_fragment(request):
        return RedirectResponse(f"/history/{id}#labels-{id}", 303)
    row = database.prediction(id)
    values = _label_values(request, database, row, compact=compact) | {"reviewer": reviewer, "note": note}
    response = render(request, "_labels.html", **values)
    response.headers.update(announce(message))
    return response
