"""Review as a grid: many images at once, whose labels are stored together."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Depends, Form, Query, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from astrodetect.labels import LabelValue
from astrodetect.records import BIGINT_MAX
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import ChosenLabel, PostedTag
from astrodetect.service.services import Services, ServicesDep
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.service.web.review_actions import (
    ReviewView,
    change_tags,
    describe_labels,
    name_replaced,
    page_values,
    undo_last_step,
)
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
    rows = services.database.by_ids(again) if again else {}
    values = {
        "review": ReviewView.load(services, session, choice, [rows[id_] for id_ in again if id_ in rows]),
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
    session = ReviewSession.read(request).add_each("s", chosen)
    return _answer(request, session, choice, f"{_images(len(chosen))} skipped", chosen)


@router.post("/tag")
@router.post("/untag")
def tag_images(
    request: Request,
    services: ServicesDep,
    choice: PostedChoice,
    *,
    tag: PostedTag,
    chosen: PredictionIds = [],  # noqa: B006
) -> Response:
    """Tags the chosen images, or removes the tag from them."""
    session, changed = change_tags(request, services.database, chosen, tag)
    removes = request.url.path.endswith("/untag")
    message = f"tag {tag} removed from {_images(len(changed))}" if removes else f"{_images(len(chosen))} tagged {tag}"
    return _answer(request, session, choice, message, chosen, **_tags_shown(services, chosen))


@router.post("/undo")
def undo_step_of_grid(request: Request, services: ServicesDep, choice: PostedChoice) -> Response:
    """Undoes the last step of the session: all labels or tags of a batch."""
    undone = undo_last_step(services, ReviewSession.read(request), who=reviewer_name(request))
    shown = _tags_shown(services, undone.ids) if undone.of_tags else {"again": undone.ids}
    return _answer(request, undone.session, choice, undone.message, undone.ids, **shown)


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
    replaced = name_replaced(services.database, ids, label)
    stored = services.database.label_batches.add(ids, label, who=reviewer_name(request), note=None)
    session = session.add(ReviewStep.of_labels(stored))
    return _answer(request, session, choice, f"{_images(len(stored))} labelled {label}{replaced}", ids)


def _tags_shown(services: Services, ids: Sequence[int]) -> dict[str, Any]:
    """For `_answer`: the tags of these images, which are shown again without scripts."""
    return {"again": ids, "tags": {id_: row.tags for id_, row in services.database.by_ids(ids).items()}}


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
