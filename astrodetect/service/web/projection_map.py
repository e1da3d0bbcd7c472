"""The map: every image of the log as a point, those that look alike beside each other."""

import hashlib
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import RedirectResponse, Response

from astrodetect.anomalies.projection import MIN_IMAGES
from astrodetect.db.values import BIGINT_MAX
from astrodetect.errors import NotFound
from astrodetect.service.projection_jobs import NEWEST, ProjectionJobs, ProjectionState
from astrodetect.service.projection_store import StoredProjection
from astrodetect.service.query_params import PredictionId
from astrodetect.service.web.legend import Legend, legends
from astrodetect.service.web.rendering import render, wants_part

FINE = 65_535  # steps of a place across the map: at its closest the script shows a pixel for each two of them
KEPT_BY_BROWSERS_S = 60
router = APIRouter(include_in_schema=False)


@router.get("/map")
def show(request: Request, by: Literal["class", "label", "novelty"] = "class") -> Response:
    """The page; the first map is drawn when somebody asks to see it."""
    view = _view(request)
    found = _legends(request, view.map) if view and view.map else []
    return _drawn(request, view, render(request, "map.html", by=by, legends=found, **_state(request, view)))


@router.post("/map")
def draw(request: Request) -> Response:
    """Has the map drawn anew."""
    if space := _space(request):
        _atlas(request).draw(space)
    if wants_part(request):
        return render(request, "_map.html", **_state(request, _view(request)))
    return RedirectResponse("/map", 303)


@router.get("/map/progress")
def progress(request: Request, shown_: Annotated[str | None, Query(alias="shown")] = None) -> Response:
    """How far that is; the page asks until it is done, and comes anew where it had no map and there is one."""
    view = _view(request)
    answer = render(request, "_map.html", **_state(request, view))
    if shown_ == "" and view and view.map:
        answer.headers["HX-Refresh"] = "true"
    return _drawn(request, view, answer)


@router.get("/map/points")
def points(request: Request) -> Response:
    """All points, the most unusual first: ids (float64), places (2 × uint16), then the group by each legend (uint8)."""
    view = _view(request)
    if view is None or view.map is None:
        raise NotFound("no map is drawn yet")
    map_ = view.map
    parts = [
        np.array(map_.ids, "<f8"),
        np.rint(map_.xy * FINE).astype("<u2"),
        *(legend.of for legend in _legends(request, map_)),
    ]
    body = b"".join(part.tobytes() for part in parts)
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/octet-stream", headers=headers)


@router.get("/map/image/{id}")
def image(
    request: Request,
    id: PredictionId,  # noqa: A002
    place: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
    of: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
) -> Response:
    """What is shown of a point, which is the one at this place of so many."""
    database = request.app.state.database
    row = database.prediction(id)
    labels = database.labels_of(row)
    said = labels[0].label if labels else None
    answer = render(request, "_map_image.html", row=row, label=said, place=place, of=of)
    answer.headers["Cache-Control"] = f"private, max-age={KEPT_BY_BROWSERS_S}"
    return answer


def _atlas(request: Request) -> ProjectionJobs:
    atlas: ProjectionJobs = request.app.state.atlas
    return atlas


def _space(request: Request) -> str | None:
    """Of the model that serves now; None where it carries no detectors, or the database keeps no vectors."""
    return request.app.state.models.space if request.app.state.database.keeps_vectors else None


def _view(request: Request) -> ProjectionState | None:
    space = _space(request)
    return _atlas(request).view(space) if space else None


def _drawn(request: Request, view: ProjectionState | None, answer: Response) -> Response:
    """Has the first map drawn, where it is due, once this answer is sent."""
    if view and view.due:
        answer.background = BackgroundTask(_atlas(request).draw, view.space)
    return answer


def _legends(request: Request, map_: StoredProjection) -> list[Legend]:
    return legends(map_, _atlas(request).labels(map_))


def _state(request: Request, view: ProjectionState | None) -> dict[str, Any]:
    state = request.app.state
    serving, vectors = state.models.default, state.database.keeps_vectors
    return {"view": view, "serving": serving, "vectors": vectors, "fewest": MIN_IMAGES, "most": NEWEST}
