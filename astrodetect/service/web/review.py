"""Review: unlabelled images one after the other, to be labelled, and what the labels found so far."""

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Depends, Form, Query, Request
from markupsafe import Markup
from starlette.responses import RedirectResponse, Response

from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.errors import NotFound
from astrodetect.labels import LABELS, MAX_LABEL_LENGTH, MAX_NOTE_LENGTH, LabelValue, is_wanted, own_names
from astrodetect.records import BIGINT_MAX, Neighbour, Prediction
from astrodetect.reports.svg_charts import ChartAxes, ChartLine, line_chart
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import ChosenLabel
from astrodetect.service.review_queue import ORDER_LENGTH, ReviewCandidate, space_blocks
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.web.image_view import ImageView, find_neighbours
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.review_session import (
    MAX_REVIEWER_LENGTH,
    REVIEW_PATH,
    ReviewChoice,
    ReviewSession,
    ReviewStep,
    posted_choice,
    queried_choice,
    remember_reviewer,
    reviewer_name,
)

LOOKAHEADS = (20, ORDER_LENGTH)  # candidates, of which those with a thumbnail come first; more if others have them
RECENT_LABELS = 100
CHART_HEIGHT = 220.0
CHART_AXES = "labelled", "interesting"
ORDER_DESCRIPTIONS: dict[ReviewOrder, tuple[str, str]] = {
    "interest": (
        "Interest",
        "Probably interesting, by your labels so far and by novelty.",
    ),
    "novelty": ("Novelty", "By novelty, the highest first, whatever the labels."),
    "uncertainty": (
        "Uncertainty",
        "Between what you labelled interesting and the rest: the least certain.",
    ),
    "random": ("Random", "A random sample: it estimates how common interesting images are."),
}

PostedChoice: TypeAlias = Annotated[ReviewChoice, Depends(posted_choice)]
PredictionIdField: TypeAlias = Annotated[int, Form(ge=1, le=BIGINT_MAX)]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False, prefix=REVIEW_PATH)


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """The image under review, with its neighbours."""

    row: Prediction
    reasons: list[str]
    view: ImageView
    neighbours: list[Neighbour]
    with_thumbnail: AbstractSet[str]  # hashes of the neighbours that have a thumbnail


@dataclass(frozen=True, slots=True)
class ReviewView:
    """What the page shows; where no image is left, `has_predictions` says whether any was ever logged."""

    note: str | None  # why the order is not the requested one
    item: ReviewItem | None
    next_thumbnail: str | None  # the hash of the next image, for preloading
    labels: Mapping[str, LabelValue]  # the current label by image
    labels_in_order: list[LabelValue]  # the current labels, in the order in which their images were first labelled
    skipped: int  # images
    leased_by_others: bool  # whether others are reviewing all images that are left
    has_predictions: bool

    @classmethod
    def load(
        cls,
        services: Services,
        session: ReviewSession,
        choice: ReviewChoice,
        id: int | None,  # noqa: A002
    ) -> "ReviewView":
        """The next image for this reviewer, or that of prediction `id`; NotFound if there is no such prediction."""
        database, leases = services.database, services.review_queue.leases
        skipped = {row.image_key for row in database.by_ids(session.skipped).values()} if session.skipped else set()
        requested = ReviewCandidate(database.prediction(id), []) if id else None
        for lookahead in LOOKAHEADS:
            batch = services.review_queue.next(
                choice.by,
                limit=lookahead + len(skipped),
                space=services.models.space,
                blocks=space_blocks(services.models.detectors.values(), services.models.space),
                like=choice.like,
                taught=services.models.taught,
                at_once=True,
            )
            unskipped = [entry for entry in batch.candidates if entry.prediction.image_key not in skipped]
            free = leases.free(session.id, [entry.prediction.image_key for entry in unskipped])
            if free or requested:
                break
        candidates = [entry for entry in unskipped if entry.prediction.image_key in free]
        with_thumbnail = database.images_with_thumbnails(
            [sha for entry in candidates if (sha := entry.prediction.image_sha256)]
        )
        candidates.sort(key=lambda entry: entry.prediction.image_sha256 not in with_thumbnail)
        if requested:
            candidates = [
                requested,
                *(entry for entry in candidates if entry.prediction.image_key != requested.prediction.image_key),
            ]
        while candidates and session.has_cookie:
            row = candidates[0].prediction
            if (leases.lease(session.id, row.image_key) and not database.labels_by_image([row])) or requested:
                break
            del candidates[0]  # meanwhile another reviewer has it, or has labelled it
        following = (entry.prediction.image_sha256 for entry in candidates[1:])
        return cls(
            note=batch.note,
            item=_load_item(services, candidates[0]) if candidates else None,
            next_thumbnail=next((sha for sha in following if sha in with_thumbnail), None),
            labels=batch.labels,
            labels_in_order=database.labels_in_order(),
            skipped=len(skipped),
            leased_by_others=bool(unskipped) and not candidates,
            has_predictions=bool(unskipped) or database.newest_id() > 0,
        )


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
    values |= {
        "reviewer": reviewer_name(request) or "",
        "max_reviewer_length": MAX_REVIEWER_LENGTH,
        "has_lease": session.has_cookie,
    }
    return session.save(render(request, "review.html", **values))


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
    stored = services.database.add_label(id, label, who=reviewer_name(request), note=note.strip())
    session = ReviewSession.read(request).add(ReviewStep("l", stored.id))
    return _show_next(request, services, session, choice, f"labelled {label}")


@router.post("/skip")
def skip_image(
    request: Request,
    services: ServicesDep,
    id: PredictionIdField,  # noqa: A002
    choice: PostedChoice,
) -> Response:
    """Shows the next image; this one does not come again in this session."""
    return _show_next(request, services, ReviewSession.read(request).add(ReviewStep("s", id)), choice, "skipped")


@router.post("/undo")
def undo_step(request: Request, services: ServicesDep, choice: PostedChoice) -> Response:
    """Undoes the last step of the session and shows its image again."""
    session = ReviewSession.read(request)
    if not session.steps:
        return _show_next(request, services, session, choice, "nothing to undo")
    step, session, database = session.steps[-1], session.undo(), services.database
    try:
        if step.kind == "s":
            return _show_next(
                request, services, session, choice, "no longer skipped", id=database.prediction(step.id).id
            )
        removed = database.delete_label(step.id)
    except NotFound:
        return _show_next(request, services, session, choice, "that step was already undone")
    message = f"label {removed.label} removed"
    return _show_next(request, services, session, choice, message, id=removed.prediction_id, note=removed.note or "")


@router.post("/turn")
def lease_image(request: Request, services: ServicesDep, id: PredictionIdField) -> Response:  # noqa: A002
    """Leases the image of a session's first page; only browsers that run its scripts ask for this.

    The page is reloaded where another reviewer has the image by now.
    """
    session = ReviewSession.read(request)
    if session.has_cookie:
        image = services.database.prediction(id).image_key
        if not services.review_queue.leases.lease(session.id, image):
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
    response = Response(headers=_announce(message)) if wants_fragment(request) else RedirectResponse(choice.url, 303)
    remember_reviewer(response, who)
    return response


def plot_discoveries(labels: Sequence[LabelValue], description: str) -> Markup:
    """The number of interesting images against the number labelled, in the order of labelling."""
    interesting = list(accumulate(map(is_wanted, labels), initial=0))
    ends = (0, max(len(labels), 1)), (0, max(interesting[-1], 1))
    axes = ChartAxes(*ends, CHART_HEIGHT, whole_x=True, whole_y=True)
    constant_rate = ChartLine("", (0, len(labels)), (0, interesting[-1]), "chance")
    return line_chart(
        description, [constant_rate, ChartLine("", range(len(interesting)), interesting)], axes, CHART_AXES
    )


def summarise_discoveries(labels: Sequence[LabelValue]) -> str:
    """The same as a sentence."""
    count = sum(map(is_wanted, labels))
    text = f"{count:,} interesting of {len(labels):,} labelled: {100 * count / len(labels):.0f} per hundred."
    if len(labels) > RECENT_LABELS:
        text += f" Of the last hundred: {sum(map(is_wanted, labels[-RECENT_LABELS:]))}."
    return text


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
    response.headers.update(_announce(f"{message}; {len(values['review'].labels)} labelled"))
    return session.save(response)


def _announce(message: str) -> dict[str, str]:
    """The header with which the page shows a message and screen readers read it."""
    return {"HX-Trigger": json.dumps({"announce": message[0].upper() + message[1:]})}


def _review_values(
    services: Services,
    session: ReviewSession,
    choice: ReviewChoice,
    id: int | None,  # noqa: A002
    note: str = "",
) -> dict[str, Any]:
    """What the templates need."""
    review = ReviewView.load(services, session, choice, id)
    labels = review.labels_in_order
    names = own_names(labels)
    summary = summarise_discoveries(labels) if labels else None
    return {
        "review": review,
        "choice": choice,
        "orders": ORDER_DESCRIPTIONS,
        "note": note,
        "max_note_length": MAX_NOTE_LENGTH,
        "max_label_length": MAX_LABEL_LENGTH,
        "names": names,
        "can_undo": bool(session.steps),
        "counts": {label: labels.count(label) for label in [*LABELS, *names]},
        "chart": plot_discoveries(labels, summary) if summary else None,
        "summary": summary,
    }
