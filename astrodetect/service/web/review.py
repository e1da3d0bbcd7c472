"""Review: one image after the other, what people call it, and what that has found so far."""

import json
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.anomalies.active_learning import LABELS, LabelValue, ReviewOrder
from astrodetect.db.values import BIGINT_MAX
from astrodetect.errors import NotFound
from astrodetect.labels import LONGEST_NOTE
from astrodetect.service.web import review_curve, reviewer
from astrodetect.service.web.rendering import render, wants_part
from astrodetect.service.web.review_session import WHERE, ReviewSession, ReviewStep
from astrodetect.service.web.review_view import ReviewView

ORDERS: dict[ReviewOrder, tuple[str, str]] = {
    "interest": ("Interest", "What your labels make likely to be interesting, and what would teach most."),
    "novelty": ("Novelty", "The most unusual first, whatever the labels say."),
    "uncertainty": ("Uncertainty", "What the ranking is least sure of: here a label teaches most."),
    "random": ("Chance", "Drawn by chance: tells how rare interesting images are."),
}

AskedBy: TypeAlias = Annotated[ReviewOrder, Form()]
AskedId: TypeAlias = Annotated[int, Form(ge=1, le=BIGINT_MAX)]
router = APIRouter(include_in_schema=False, prefix=WHERE)


@router.get("")
def review(
    request: Request,
    by: ReviewOrder = "interest",
    id: Annotated[int | None, Query(ge=1, le=BIGINT_MAX)] = None,  # noqa: A002
) -> Response:
    """The image to look at, or the one that was asked for."""
    sitting = ReviewSession.of(request)
    values = _values(request, sitting, by, id)
    values |= {"who": reviewer.name(request) or "", "longest": reviewer.LONGEST, "begun": sitting.begun}
    return sitting.keep(render(request, "review.html", **values))


@router.post("/label")
def label(
    request: Request,
    id: AskedId,  # noqa: A002
    label: Annotated[LabelValue, Form()],
    by: AskedBy = "interest",
    note: Annotated[str, Form(max_length=LONGEST_NOTE)] = "",
) -> Response:
    """Keeps what was said of an image, and shows the next one."""
    given = request.app.state.database.label(id, label, who=reviewer.name(request), note=note.strip())
    done = f"labelled {label}"
    return _moved_on(request, ReviewSession.of(request).after(ReviewStep("l", given.id)), by, done)


@router.post("/skip")
def skip(request: Request, id: AskedId, by: AskedBy = "interest") -> Response:  # noqa: A002
    """Shows the next one; this one does not come again in this sitting."""
    return _moved_on(request, ReviewSession.of(request).after(ReviewStep("s", id)), by, "skipped")


@router.post("/undo")
def undo(request: Request, by: AskedBy = "interest") -> Response:
    """Takes the last step of this sitting back, and shows its image again."""
    sitting = ReviewSession.of(request)
    if not sitting.steps:
        return _moved_on(request, sitting, by, "nothing to undo")
    step, sitting, database = sitting.steps[-1], sitting.undone(), request.app.state.database
    try:
        if step.kind == "s":
            return _moved_on(request, sitting, by, "no longer skipped", id=database.prediction(step.id).id)
        gone = database.unlabel(step.id)
    except NotFound:
        return _moved_on(request, sitting, by, "what was to be undone had gone already")
    done = f"no longer labelled {gone.label}"
    return _moved_on(request, sitting, by, done, id=gone.prediction_id, note=gone.note or "")


@router.post("/turn")
def turn(request: Request, id: AskedId) -> Response:  # noqa: A002
    """Gives the image of a sitting's first page to it alone: a page is also asked for by programs, this is not."""
    sitting, state = ReviewSession.of(request), request.app.state
    if sitting.begun:
        state.review.turns.take(sitting.name, state.database.prediction(id).image)
    return Response(status_code=204)


@router.post("/again")
def again(request: Request, by: AskedBy = "interest") -> Response:
    """Lets those come again that were skipped."""
    return _moved_on(request, ReviewSession.of(request).again(), by, "those that were skipped come again")


@router.post("/name")
def name(
    request: Request,
    who_: Annotated[str, Form(alias="who", max_length=reviewer.LONGEST)] = "",
    by: AskedBy = "interest",
) -> Response:
    """Remembers who labels here."""
    said = "labels from here carry your name" if who_.strip() else "labels from here carry no name"
    answer = Response(headers=_saying(said)) if wants_part(request) else RedirectResponse(f"{WHERE}?by={by}", 303)
    reviewer.remember(answer, who_)
    return answer


def _moved_on(
    request: Request,
    sitting: ReviewSession,
    by: ReviewOrder,
    done: str,
    *,
    id: int | None = None,  # noqa: A002
    note: str = "",
) -> Response:
    """The next image, or this one: for htmx at once, elsewhere by a request that can be repeated."""
    where = f"{WHERE}?by={by}" + (f"&id={id}" if id else "")
    if not wants_part(request):
        return sitting.keep(RedirectResponse(where, 303))
    values = _values(request, sitting, by, id, note)
    answer = render(request, "_review.html", **values)
    answer.headers["HX-Replace-Url"] = where
    answer.headers.update(_saying(f"{done}; {len(values['desk'].labels)} done"))
    return sitting.keep(answer)


def _saying(words: str) -> dict[str, str]:
    """Has the page say it, where a screen reader hears it."""
    return {"HX-Trigger": json.dumps({"say": words[0].upper() + words[1:]})}


def _values(
    request: Request,
    sitting: ReviewSession,
    by: ReviewOrder,
    id: int | None,  # noqa: A002
    note: str = "",
) -> dict[str, Any]:
    """What the templates show."""
    desk = ReviewView.laid(request.app.state, sitting, by, id)
    said = review_curve.in_words(desk.in_order) if desk.in_order else None
    return {
        "desk": desk,
        "by": by,
        "orders": ORDERS,
        "note": note,
        "longest_note": LONGEST_NOTE,
        "can_undo": bool(sitting.steps),
        "counts": {kind: desk.in_order.count(kind) for kind in LABELS},
        "curve": review_curve.curve(desk.in_order, said) if said else None,
        "in_words": said,
    }
