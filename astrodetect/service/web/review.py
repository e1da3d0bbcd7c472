"""Review: unlabelled images one after the other, to be labelled, and what the labels found so far."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.labels import MAX_NOTE_LENGTH
from astrodetect.records import BIGINT_MAX, Neighbour, Prediction
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.middleware.security import SAMP_POLICY
from astrodetect.service.query_params import ChosenLabel
from astrodetect.service.review_queue import ReviewCandidate
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.web.image_view import ImageView, find_neighbours
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.review_actions import (
    ReviewView,
    announce,
    describe_labels,
    name_replaced,
    page_values,
    undo_last_step,
)
from astrodetect.service.web.review_session import (
    MAX_REVIEWER_LENGTH,
    REVIEW_PATH,
    PostedChoice,
    PredictionIdField,
    ReviewChoice,
    ReviewSession,
    ReviewStep,
    queried_choice,
    remember_reviewer,
    reviewer_name,
)

router = APIRouter(route_class=DatabaseRoute, include_in_schema=False, prefix=REVIEW_PATH)


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """The image under review, with its neighbours."""

    row: Prediction
    reasons: list[str]
    view: ImageView
    neighbours: list[Neighbour]
    with_thumbnail: AbstractSet[str]  # hashes of the neighbours that have a thumbnail


@router.get("")
def show_review(
    request: Request,
    services: ServicesDep,
    choice: Annotated[ReviewChoice, Depends(queried_choice)],
    id: Annotated[int | None, Query(ge=1, le=BIGINT_MAX)] = None,  # noqa: A002
) -> Response:
    """The next image to label, or that of prediction `id`."""
    session = ReviewSession.read(request)
    values = _review_values(services, session, choice, id)
    values |= page_values(request, session)
    return session.save(render(request, "review.html", policy=SAMP_POLICY, **values))


@router.post("/label")
def label_image(
    request: Request,
    services: ServicesDep,
    *,
    id: PredictionIdField,  # noqa: A002
    label: ChosenLabel,
    choice: PostedChoice,
    note: Annotated[str, Form(max_length=MAX_NOTE_LENGTH)] = "",
) -> Response:
    """Stores a label and shows the next image."""
    message = f"labelled {label}{name_replaced(services.database, [id], label)}"
    stored = services.database.add_label(id, label, who=reviewer_name(request), note=note.strip())
    session = ReviewSession.read(request).add(ReviewStep.of_labels([stored]))
    return _show_next(request, services, session, choice, message)


@router.post("/skip")
def skip_image(
    request: Request,
    services: ServicesDep,
    id: PredictionIdField,  # noqa: A002
    choice: PostedChoice,
) -> Response:
    """Shows the next image; this one does not come again in this session."""
    return _show_next(request, services, ReviewSession.read(request).add_each("s", [id]), choice, "skipped")


@router.post("/undo")
def undo_step(request: Request, services: ServicesDep, choice: PostedChoice) -> Response:
    """Undoes the last step of the session and shows its image again."""
    undone = undo_last_step(services, ReviewSession.read(request), who=reviewer_name(request))
    return _show_next(
        request,
        services,
        undone.session,
        choice,
        undone.message,
        id=undone.ids[0] if undone.ids else None,
        note=undone.note,
    )


@router.post("/turn")
def lease_image(request: Request, services: ServicesDep, id: PredictionIdField) -> Response:  # noqa: A002
    """Leases the image of a session's first page; only browsers that run its scripts ask for this.

    The page is reloaded where another reviewer has the image by now.
    """
    session = ReviewSession.read(request)
    if session.has_cookie:
        image = services.database.prediction(id).image_key
        if not services.review_queue.leases.lease(session.id, [image]):
            return Response(status_code=204, headers={"HX-Refresh": "true"})
    return Response(status_code=204)


@router.post("/again")
def restore_skipped(request: Request, services: ServicesDep, choice: PostedChoice) -> Response:
    """Returns the skipped images to the queue."""
    session = ReviewSession.read(request).restore_skipped()
    return _show_next(request, services, session, choice, "skipped images are in the queue again")


@router.post("/name")
def set_reviewer(
    request: Request,
    choice: PostedChoice,
    who: Annotated[str, Form(max_length=MAX_REVIEWER_LENGTH)] = "",
) -> Response:
    """Remembers the reviewer's name."""
    message = "your name is stored with your labels" if who.strip() else "no name is stored with your labels"
    response = Response(headers=announce(message)) if wants_fragment(request) else RedirectResponse(choice.url, 303)
    remember_reviewer(response, who)
    return response


def _load_item(services: Services, candidate: ReviewCandidate) -> ReviewItem:
    row = candidate.prediction
    neighbours, with_thumbnail, _ = find_neighbours(services.database, row)
    view = ImageView.load(row, services)
    return ReviewItem(row, candidate.why, view, neighbours, with_thumbnail)


def _show_next(
    request: Request,
    services: Services,
    session: ReviewSession,
    choice: ReviewChoice,
    message: str,
    *,
    id: int | None = None,  # noqa: A002
    note: str = "",
) -> Response:
    """The next image, or that of prediction `id`: for htmx in the response, otherwise after a redirect."""
    url = choice.url + (f"&id={id}" if id else "")
    if not wants_fragment(request):
        return session.save(RedirectResponse(url, 303))
    values = _review_values(services, session, choice, id, note)
    response = render(request, "_review.html", **values)
    response.headers["HX-Replace-Url"] = url
    response.headers.update(announce(f"{message}; {len(values['review'].labels)} labelled"))
    return session.save(response)


def _review_values(
    services: Services,
    session: ReviewSession,
    choice: ReviewChoice,
    id: int | None,  # noqa: A002
    note: str = "",
) -> dict[str, Any]:
    """What the templates need; NotFound if there is no prediction `id`."""
    review = ReviewView.load(services, session, choice, [services.database.prediction(id)] if id else [])
    return describe_labels(services.database) | {
        "review": review,
        "item": _load_item(services, review.candidates[0]) if review.candidates else None,
        "choice": choice,
        "note": note,
        "max_note_length": MAX_NOTE_LENGTH,
        "can_undo": bool(session.steps),
    }
