"""Map: the two-dimensional projection of the logged images, coloured by class, label or novelty."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from numpy.typing import NDArray
from starlette.background import BackgroundTask
from starlette.responses import RedirectResponse, Response

from astrodetect import images
from astrodetect.anomalies.projection import MIN_IMAGES
from astrodetect.errors import NotFound
from astrodetect.labels import LABELS, LabelValue, own_names
from astrodetect.records import BIGINT_MAX
from astrodetect.reports.svg_charts import MARKER_COLOURS, MARKER_SHAPES, MAX_MARKED_CLASSES, OTHER_CLASSES
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.projection_jobs import MAX_PROJECTED, ProjectionState
from astrodetect.service.projection_store import StoredProjection
from astrodetect.service.projection_tiles import MAX_LEVEL, density, encode_tile, grid, tile_index
from astrodetect.service.query_params import PredictionId
from astrodetect.service.services import DatabaseDep, Services, ServicesDep
from astrodetect.service.web.rendering import render, wants_fragment

IMAGE_MAX_AGE_S = 60
UNLABELLED = "not labelled"
NOVELTY_STEPS = np.array([0.5, 0.9, 0.99, 1.0], np.float32)  # boundaries of the novelty groups
MAX_PICTURED = 400  # points that are shown as images
MAX_POINTS = 20_000  # of more images, the most unusual are points everywhere, the others cells until the map is zoomed
MOST_UNUSUAL = 2_000
LEGENDS_CACHED = 2  # projections: the current one and its successor
TILE_MAX_AGE_S = 60
Grouping: TypeAlias = Literal["class", "label", "novelty"]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class LegendGroup:
    """Images with the same marker."""

    name: str
    count: int
    colour: str  # a class of page.css
    shape: str  # an SVG path around the origin, about 8 units wide


@dataclass(frozen=True, slots=True, eq=False)
class Legend:
    """A grouping of the images on the map."""

    by: str
    groups: list[LegendGroup]
    group_of: NDArray[np.uint8]  # the index of each image's group


@router.get("/map")
def show_map(request: Request, services: ServicesDep, by: Grouping = "class") -> Response:
    """The page; the first request for it starts the computation of the first projection."""
    projection = _projection_state(services)
    legends = _legends(services, projection.stored) if projection and projection.stored else []
    response = render(request, "map.html", by=by, legends=legends, **_map_values(services, projection))
    return _start_if_due(services, projection, response)


@router.post("/map")
def recompute_map(request: Request, services: ServicesDep) -> Response:
    """Starts a new projection."""
    if space := _space(services):
        services.projections.start(space)
    if wants_fragment(request):
        return render(request, "_map.html", **_map_values(services, _projection_state(services)))
    return RedirectResponse("/map", 303)


@router.get("/map/progress")
def show_map_progress(request: Request, services: ServicesDep, shown: str | None = None) -> Response:
    """The state of the computation, polled until it is done; a page that shows no map is reloaded once there is one."""
    projection = _projection_state(services)
    response = render(request, "_map.html", **_map_values(services, projection))
    if shown == "" and projection and projection.stored:
        response.headers["HX-Refresh"] = "true"
    return _start_if_due(services, projection, response)


@router.get("/map/points")
def send_points(request: Request, services: ServicesDep) -> Response:
    """Points by descending novelty: ids (float64), coordinates (2 × uint16), the group in each legend (uint8).

    All, or the MOST_UNUSUAL of more than MAX_POINTS.
    """
    stored = _shown(services)
    points = slice(None if len(stored.ids) <= MAX_POINTS else MOST_UNUSUAL)
    parts = [
        stored.ids[points].astype("<f8"),
        grid(stored, points),
        *(legend.group_of[points] for legend in _legends(services, stored)),
    ]
    return _send_binary(request, b"".join(part.tobytes() for part in parts), "no-cache")


@router.get("/map/tiles/{level}/{x}/{y}")
def send_tile(
    request: Request,
    services: ServicesDep,
    *,
    level: Annotated[int, Path(ge=0, le=MAX_LEVEL)],
    x: Annotated[int, Path(ge=0, lt=1 << MAX_LEVEL)],
    y: Annotated[int, Path(ge=0, lt=1 << MAX_LEVEL)],
    by: Grouping = "class",
) -> Response:
    """A tile of the map, of 2**level along each side: see `encode_tile`."""
    stored = _shown(services)
    if max(x, y) >> level:
        raise NotFound(f"level {level} has {1 << level} tiles along each side")
    groups = [legend.group_of for legend in _legends(services, stored)]
    body = encode_tile(stored, groups, get_args(Grouping).index(by), (level, x, y))
    return _send_binary(request, body, f"private, max-age={TILE_MAX_AGE_S}")


@router.get("/map/density.png")
def send_density(services: ServicesDep) -> Response:
    """The density of the whole map, for pages without scripts."""
    png = images.encode_png(density(_shown(services)))
    return Response(png, media_type="image/png", headers={"Cache-Control": f"private, max-age={TILE_MAX_AGE_S}"})


@router.get("/map/pictures")
def list_pictures(services: ServicesDep) -> list[str | None]:
    """The SHA-256 of each point's image, in the order of the points; null without a thumbnail, none of many points."""
    space = _space(services)
    stored = services.projections.shown(space) if space else None
    if space is None or stored is None or len(stored.ids) > MAX_PICTURED:
        return []
    embedded = services.database.embeddings.images(space, stored.ids.tolist())
    image_of = dict(zip(embedded.ids, embedded.images, strict=True))
    with_thumbnail = services.database.images_with_thumbnails(embedded.images)
    return [image if (image := image_of.get(id_)) in with_thumbnail else None for id_ in stored.ids.tolist()]


@router.get("/map/image/{id}")
def show_map_image(
    request: Request,
    database: DatabaseDep,
    id: PredictionId,  # noqa: A002
    rank: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
    total: Annotated[int, Query(ge=0, le=BIGINT_MAX)] = 0,
) -> Response:
    """The tooltip of a point: its image, which has this rank by novelty among all points."""
    row = database.prediction(id)
    labels = database.labels_of_image(row)
    label = labels[0].label if labels else None
    role = database.label_names.roles().get(label, label) if label else None
    response = render(request, "_map_image.html", row=row, label=label, role=role, rank=rank, total=total)
    response.headers["Cache-Control"] = f"private, max-age={IMAGE_MAX_AGE_S}"
    return response


@lru_cache(maxsize=LEGENDS_CACHED)
def legend_by_class(stored: StoredProjection) -> Legend:
    """The largest classes first; those beyond the number of markers share the last one."""
    counts = np.bincount(stored.class_of, minlength=len(stored.class_names))
    order = sorted(range(len(counts)), key=lambda code: (-counts[code], stored.class_names[code]))
    names = [stored.class_names[code] for code in order]
    group_of_class = np.empty(len(order), np.uint8)
    group_of_class[order] = np.minimum(np.arange(len(order)), MAX_MARKED_CLASSES - 1)
    shown = names if len(names) <= MAX_MARKED_CLASSES else [*names[: MAX_MARKED_CLASSES - 1], OTHER_CLASSES]
    markers = [
        (name, f"mark-{index % MARKER_COLOURS}", MARKER_SHAPES[index % len(MARKER_SHAPES)])
        for index, name in enumerate(shown)
    ]
    return _legend("class", markers, group_of_class[stored.class_of])


def legend_by_label(
    labels: Sequence[tuple[int, LabelValue]], count: int, roles: Mapping[LabelValue, LabelValue]
) -> Legend:
    """By the current label, given the index of each labelled image; names are shown as the role that they have."""
    _, square, triangle, diamond, cross, _ = MARKER_SHAPES
    markers = [
        (UNLABELLED, "step-0", _disc(2.2)),
        *zip(LABELS, ("mark-1", "mark-0", "mark-3"), (triangle, square, cross), strict=True),
    ]
    index_of: dict[LabelValue, int] = {label: index for index, label in enumerate(LABELS, start=1)}
    index_of |= {name: index_of[role] for name, role in roles.items()}
    if names := own_names(label for _, label in labels if label not in roles):
        markers.append((", ".join(names), "mark-2", diamond))
        index_of |= dict.fromkeys(names, len(markers) - 1)
    group_of = np.zeros(count, np.uint8)
    group_of[[index for index, _ in labels]] = [index_of[label] for _, label in labels]
    return _legend("label", markers, group_of)


@lru_cache(maxsize=LEGENDS_CACHED)
def legend_by_novelty(stored: StoredProjection) -> Legend:
    """In steps, larger with novelty, as most images of a survey have a low one."""
    markers = [
        ("below 50 %", "step-0", _disc(1.8)),
        ("50 to 90 %", "step-1", _disc(2.2)),
        ("90 to 99 %", "step-2", _disc(2.8)),
        ("99 % and more", "step-3", _disc(3.5)),
        ("100 %", "step-4", MARKER_SHAPES[2]),
    ]
    return _legend("novelty", markers, np.searchsorted(NOVELTY_STEPS, stored.novelty, side="right"))


def _legend(by: str, markers: Sequence[tuple[str, str, str]], indices: NDArray[Any]) -> Legend:
    group_of = indices.astype(np.uint8)
    counts = np.bincount(group_of, minlength=len(markers)).tolist()
    groups = [
        LegendGroup(name, count, colour, shape) for (name, colour, shape), count in zip(markers, counts, strict=True)
    ]
    return Legend(by, groups, group_of)


def _disc(radius: float) -> str:
    return f"m-{radius} 0a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0-{2 * radius} 0"


def _legends(services: Services, stored: StoredProjection) -> list[Legend]:
    labels = services.projections.labels(_space(services) or "", stored)
    return [
        legend_by_class(stored),
        legend_by_label(labels, len(stored.ids), services.database.label_names.roles()),
        legend_by_novelty(stored),
    ]


def _shown(services: Services) -> StoredProjection:
    space = _space(services)
    stored = services.projections.shown(space) if space else None
    if stored is None:
        raise NotFound("there is no map yet")
    return stored


def _send_binary(request: Request, body: bytes, cache_control: str) -> Response:
    headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"', "Cache-Control": cache_control}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/octet-stream", headers=headers)


def _space(services: Services) -> str | None:
    """The space of the serving model; None if it has no detectors, or the database stores no vectors."""
    return services.models.space if services.database.stores_vectors else None


def _projection_state(services: Services) -> ProjectionState | None:
    space = _space(services)
    return services.projections.state(space) if space else None


def _start_if_due(services: Services, projection: ProjectionState | None, response: Response) -> Response:
    """Starts the first projection, if it is due, once this response is sent; it waits until the log is described."""
    if projection and projection.due:
        update = services.database.description_log.update(services.models.default_name)
        if update and update.running and update.space == projection.space:
            return response
        response.background = BackgroundTask(services.projections.start, projection.space)
    return response


def _map_values(services: Services, projection: ProjectionState | None) -> dict[str, Any]:
    """What `_map.html` needs."""
    stored = projection.stored if projection else None
    return {
        "projection": projection,
        "model": services.models.default,
        "has_vectors": services.database.stores_vectors,
        "min_images": MIN_IMAGES,
        "max_counted": MAX_PROJECTED,
        "most_unusual": MOST_UNUSUAL,
        "fullest_cell": tile_index(stored).fullest if stored and len(stored.ids) > MAX_POINTS else 0,
    }
