"""The page of one prediction: all that is known of it, and what people call its image."""

import json
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.anomalies.active_learning import LabelValue
from astrodetect.db.values import BIGINT_MAX
from astrodetect.errors import NotFound
from astrodetect.labels import LONGEST_NOTE
from astrodetect.records import Prediction
from astrodetect.service.query_params import LabelId, PredictionId
from astrodetect.service.web import reviewer
from astrodetect.service.web.history_filters import HistoryFilters
from astrodetect.service.web.image_view import ImageView
from astrodetect.service.web.rendering import render, wants_part

LONGEST = {"note": LONGEST_NOTE, "who": reviewer.LONGEST}
MOST_OTHERS = 12  # other predictions of the same image
MOST_LABELS = 20  # that are shown of one image
Small: TypeAlias = Annotated[bool, Form()]  # whether the labels stand on a card among others
router = APIRouter(include_in_schema=False)


@router.get("/history/{id}")
def prediction(request: Request, id: PredictionId) -> Response:  # noqa: A002
    """Everything about one; the way to its neighbours in the log keeps to the filters that led here."""
    database, wanted = request.app.state.database, HistoryFilters.of(request.query_params)
    row = database.prediction(id)
    others = database.of_image(row.image_sha256, limit=MOST_OTHERS + 1) if row.image_sha256 else []
    newer = database.predictions(wanted.filters, limit=1, after=id).predictions
    older = database.predictions(wanted.filters, limit=1, before=id).predictions
    return render(
        request,
        "prediction.html",
        row=row,
        wanted=wanted,
        sight=ImageView.of(request.app.state, row),
        others=[other for other in others if other.id != id][:MOST_OTHERS],
        newer=newer[0].id if newer else None,
        older=older[0].id if older else None,
        **labelled(request, row, small=False),
    )


@router.post("/history/{id}/label")
def label(
    request: Request,
    id: PredictionId,  # noqa: A002
    *,
    label: Annotated[LabelValue, Form()],
    note: Annotated[str, Form(max_length=LONGEST_NOTE)] = "",
    said_who: Annotated[str | None, Form(alias="who", max_length=reviewer.LONGEST)] = None,
    small: Small = False,
) -> Response:
    """Keeps what somebody says of the image; a name that is given is remembered."""
    name = reviewer.name(request) if said_who is None else said_who.strip()
    given = request.app.state.database.label(id, label, who=name, note=note.strip())
    answer = _labels(request, id, f"Labelled {given.label}", small=small, name=name)
    if said_who is not None:
        reviewer.remember(answer, said_who)
    return answer


@router.post("/labels/{label_id}/undo")
def undo(
    request: Request,
    label_id: LabelId,
    prediction: Annotated[int, Form(ge=1, le=BIGINT_MAX)],
    small: Small = False,
) -> Response:
    """Takes a labelling back; one that somebody else took back meanwhile has gone as it should."""
    try:
        said = f"No longer labelled {request.app.state.database.unlabel(label_id).label}"
    except NotFound:
        said = "That label had gone already"
    return _labels(request, prediction, said, small=small, name=reviewer.name(request))


def labelled(request: Request, row: Prediction, *, small: bool) -> dict[str, Any]:
    """What `_labels.html` shows of the image of a prediction."""
    return {
        "id": row.id,
        "labels": request.app.state.database.labels_of(row),
        "most": MOST_LABELS,
        "who": reviewer.name(request),
        "longest": LONGEST,
        "small": small,
    }


def _labels(request: Request, id: int, said: str, *, small: bool, name: str | None) -> Response:  # noqa: A002
    if not wants_part(request):
        return RedirectResponse(f"/history/{id}#labels-{id}", 303)
    row = request.app.state.database.prediction(id)
    answer = render(request, "_labels.html", **labelled(request, row, small=small) | {"who": name})
    answer.headers["HX-Trigger"] = json.dumps({"say": said})
    return answer
