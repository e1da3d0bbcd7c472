"""Review as a grid: many images at once, whose labels are stored together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from astrodetect.labels import LabelValue
from astrodetect.records import BIGINT_MAX, Prediction
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import ChosenLabel, PostedTag
from astrodetect.service.review_queue import ReviewCandidate
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.review_actions import FreeCandidates, describe_labels, page_values, undo_last_step
from astrodetect.service.web.review_session import (
    GRID_PATH,
    MAX_GRID,
    PostedChoice,
    ReviewChoice,
    ReviewSession,
    ReviewStep,
    queried_grid,
    reviewer_name,
)

PredictionIds: TypeAlias = Annotated[list[Annotated[int, Form(ge=1, le=BIGINT_MAX)]], Form(max_length=MAX_GRID)]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False, prefix=GRID_PATH)


@dataclass(frozen=True, slots=True)
class GridTile:
    """An image of the grid."""

    row: Prediction
    reasons: Sequence[str]
    has_thumbnail: bool
    label: LabelValue | None  # of an image that is shown again


@dataclass(frozen=True, slots=True)
class GridView:
    """What the page shows."""

    note: str | None  # why the order is not the requested one
    tiles: list[GridTile]
    labels: Mapping[str, LabelValue]  # the current label by image
    skipped: int  # images
    leased_by_others: bool  # whether others are reviewing all images that are left
    has_predictions: bool
    compared: bool  # whether images were compared with catalogues, so that known objects can be hidden

    @classmethod
    def load(cls, services: Services, session: ReviewSession, choice: ReviewChoice, again: Sequence[int]) -> "GridView":
        """The next images for this reviewer; first those of the predictions `again`, as far as they exist."""
        database = services.database
        rows = database.by_ids(again) if again else {}
        repeated = {rows[id_].image_key: ReviewCandidate(rows[id_], []) for id_ in again if id_ in rows}
        free = FreeCandidates.find(services, session, choice, wanted=choice.count)
        others = [entry for entry in free.candidates if entry.prediction.image_key not in repeated]
        candidates = [*repeated.values(), *others][: choice.count]
        if session.has_cookie and candidates:
            leased = services.review_queue.leases.lease(
                session.id, [entry.prediction.image_key for entry in candidates]
            )
            candidates = [entry for entry in candidates if entry.prediction.image_key in leased]
        labels = database.labels_by_image([entry.prediction for entry in candidates])
        hashes = [sha for entry in candidates if (sha := entry.prediction.image_sha256)]
        with_thumbnail = database.images_with_thumbnails(hashes)
        tiles = [
            GridTile(row, entry.why[1:], row.image_sha256 in with_thumbnail, labels.get(row.image_key))
            for entry in candidates
            if (row := entry.prediction).image_key in repeated or row.image_key not in labels
        ]
        return cls(
            note=free.batch.note,
            tiles=tiles,
            labels=free.batch.labels,
            skipped=free.skipped,
            leased_by_others=free.any_unskipped and not tiles,
            has_predictions=free.any_unskipped or database.newest_id() > 0,
            compared=free.compared or choice.unknown,
        )


@router.get("")
def show_grid(
    request: Request,
    services: ServicesDep,
    choice: Annotated[ReviewChoice, Depends(queried_grid)],
    again: Annotated[list[Annotated[int, Query(ge=1, le=BIGINT_MAX)]], Query(max_length=MAX_GRID)] = [],  # noqa: B006
) -> Response:
    """The next images to label, after those of the predictions `again`; for the page's script only their part."""
    session = ReviewSession.read(request)
    fragment = wants_fragment(request)
    values = {
        "review": GridView.load(services, session, choice, again),
        "choice": choice,
        "can_undo": bool(session.steps),
        **describe_labels(services.database),
        **({} if fragment else page_values(request, session)),
    }
    return session.save(render(request, "_review_grid.html" if fragment else "review_grid.html", **values))


@router.post("/label")
def label_images(
    request: Request,
    services: ServicesDep,
    choice: PostedChoice,
    *,
    label: ChosenLabel,
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Labels the chosen images, all in one transaction."""
    return _label(request, services, choice, chosen, label)


@router.post("/rest/label")
def label_rest(
    request: Request,
    services: ServicesDep,
    choice: PostedChoice,
    *,
    label: ChosenLabel,
    shown: PredictionIds = [],  # noqa: B006
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Labels the images shown that are neither chosen nor labelled yet, all in one transaction."""
    rows = services.database.by_ids([id_ for id_ in shown if id_ not in set(chosen)])
    labels = services.database.labels_by_image(list(rows.values()))
    ids = [id_ for id_ in shown if id_ in rows and rows[id_].image_key not in labels]
    return _label(request, services, choice, ids, label)


@router.post("/skip")
def skip_images(
    request: Request,
    choice: PostedChoice,
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Skips the chosen images: they do not come again in this session."""
    session = ReviewSession.read(request).skip(chosen)
    return _answer(request, session, choice, f"{_images(len(chosen))} skipped", chosen)


@router.post("/tag")
def tag_images(
    request: Request,
    services: ServicesDep,
    choice: PostedChoice,
    *,
    tag: PostedTag,
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Tags the chosen images."""
    if chosen:
        services.database.tags.add(chosen, tag, who=reviewer_name(request))
    return _answer_tags(request, services, choice, f"{_images(len(chosen))} tagged {tag}", chosen)


@router.post("/untag")
def untag_images(
    request: Request,
    services: ServicesDep,
    choice: PostedChoice,
    *,
    tag: PostedTag,
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Removes a tag from the chosen images."""
    count = services.database.tags.remove(chosen, tag)
    return _answer_tags(request, services, choice, f"tag {tag} removed from {_images(count)}", chosen)


@router.post("/undo")
def undo_step_of_grid(request: Request, services: ServicesDep, choice: PostedChoice) -> Response:
    """Undoes the last step of the session: all labels of a batch."""
    undone = undo_last_step(services.database, ReviewSession.read(request))
    return _answer(request, undone.session, choice, undone.message, undone.ids, again=undone.ids)


@router.post("/turn")
def lease_images(request: Request, services: ServicesDep, shown: PredictionIds = []) -> Response:  # noqa: B006
    """Leases the images shown, or renews their leases, for the page's script; the ids of those that others have."""
    session, rows = ReviewSession.read(request), services.database.by_ids(shown)
    images = sorted({row.image_key for row in rows.values()})
    leased = services.review_queue.leases.lease(session.id, images) if session.has_cookie else images
    return JSONResponse([id_ for id_, row in rows.items() if row.image_key not in leased])


def _label(
    request: Request, services: Services, choice: ReviewChoice, ids: Sequence[int], label: LabelValue
) -> Response:
    session = ReviewSession.read(request)
    if not ids:
        return _answer(request, session, choice, "no image was chosen", [])
    stored = services.database.label_batches.add(ids, label, who=reviewer_name(request), note=None)
    session = session.add(ReviewStep.of_labels(stored))
    return _answer(request, session, choice, f"{_images(len(stored))} labelled {label}", ids)


def _answer_tags(
    request: Request, services: Services, choice: ReviewChoice, message: str, ids: Sequence[int]
) -> Response:
    """As `_answer`, with the tags of each image; without scripts the images are shown again."""
    rows = services.database.by_ids(ids)
    tags = {id_: row.tags for id_, row in rows.items()}
    return _answer(request, ReviewSession.read(request), choice, message, ids, again=ids, tags=tags)


def _answer(
    request: Request,
    session: ReviewSession,
    choice: ReviewChoice,
    message: str,
    ids: Sequence[int],
    *,
    again: Sequence[int] = (),
    **values: Any,
) -> Response:
    """For the page's script what was done to which predictions; else the next images."""
    if wants_fragment(request):
        answer: dict[str, Any] = {"message": message[0].upper() + message[1:], "ids": ids, **values}
        return session.save(JSONResponse(answer))
    url = choice.url + "".join(f"&again={id_}" for id_ in again[:MAX_GRID])
    return session.save(RedirectResponse(url, 303))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
