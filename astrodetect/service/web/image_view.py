"""What pages show of a scored image besides its row: thumbnail, heat map and nearest neighbours."""

import asyncio
import datetime as dt
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from astrodetect import images
from astrodetect.errors import AstrodetectError, NotFound, RequestError, VectorMissing, VectorsOff
from astrodetect.fits_values import ValueStretch, stretch_bands
from astrodetect.inference.heat_maps import has_detail
from astrodetect.records import Neighbour, Prediction, ScoredImage, Thumbnail
from astrodetect.reports.html import HeatLegend, heat_map_overlay
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import PredictionId
from astrodetect.service.services import DatabaseDep, HeatMapsDep, ServiceDatabase, Services, ServicesDep
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.settings import SETUP_DB_COMMAND, Settings

THUMBNAIL_MAX_AGE_S = 86_400
LATE = dt.timedelta(seconds=2)  # a thumbnail is written so long after its row, on a busy machine
LATE_LOOKS, LATE_LOOK_S = 8, 0.25
NEIGHBOURS_SHOWN = 6
NO_HEAT_MAP = "No heat map: the version of the model that made this prediction is not here any more."
NO_NEIGHBOURS: dict[type[AstrodetectError], str] = {
    VectorMissing: "No neighbours: the model had no detectors when it scored this image, so no vector was stored.",
    VectorsOff: f"No neighbours: the database lacks pgvector. {SETUP_DB_COMMAND} says how to install it.",
}
BANDS, MAX_BANDS_LENGTH = "^[0-9]+(,[0-9]+,[0-9]+)?$", 9
ImageSha256: TypeAlias = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Percentile: TypeAlias = Annotated[float, Query(ge=0, le=100)]
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class ImageView:
    """The thumbnail of an image with its heat map; `missing` says why one of them is not available."""

    thumbnail: Thumbnail | None
    overlay: str | None  # the heat map's URL: a data URI, or of `send_heat_map`
    legend: HeatLegend | None  # of the heat map
    crop: float  # share of the frame's shorter side that the heat map covers
    missing: str | None

    @classmethod
    def load(cls, row: Prediction | ScoredImage, services: Services) -> "ImageView":
        """What is stored of the image of this prediction; its activation map, or the URL of a map by occlusion."""
        thumbnail = services.thumbnails.thumbnail(row.image_sha256) if row.image_sha256 else None
        if thumbnail is None or row.image_sha256 is None:
            return cls.without_image(_why_no_thumbnail(row, services.settings))
        version = row.model_version
        activation_map = services.thumbnails.heat_map(row.image_sha256, version) if version else None
        if activation_map is None or not has_detail(activation_map.places):
            manifest = services.heat_maps.find_model(row) if isinstance(row, Prediction) else None
            if manifest is None or isinstance(row, ScoredImage):  # the second is queued and has no page yet
                return cls(thumbnail, None, None, 1.0, NO_HEAT_MAP)
            return cls(thumbnail, f"/history/{row.id}/heat-map", "odds", manifest.image.crop, None)
        if not activation_map.places.any():
            return cls(thumbnail, None, None, 1.0, "The heat map is empty: no region supports the predicted class.")
        overlay = heat_map_overlay(np.asarray(activation_map.places / 255, np.float32))
        return cls(thumbnail, overlay, "activation", activation_map.crop, None)

    @classmethod
    def without_image(cls, reason: str) -> "ImageView":
        """Neither image nor heat map."""
        return cls(None, None, None, 1.0, reason)


@router.get("/pictures/{image_sha256}")
def send_thumbnail(request: Request, services: ServicesDep, image_sha256: ImageSha256) -> Response:
    """The thumbnail of an image by its SHA-256, as JPEG, or NotFound."""
    headers = {
        "Cache-Control": f"private, max-age={THUMBNAIL_MAX_AGE_S}, immutable",
        "ETag": f'"{image_sha256}"',
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    thumbnail = _find_thumbnail(services, image_sha256)
    if thumbnail is None:
        raise NotFound("no thumbnail of this image is stored: none was made, or it was deleted")
    return Response(thumbnail.jpeg, media_type="image/jpeg", headers=headers)


@router.get("/pictures/{image_sha256}/values")
def send_values(
    request: Request,
    services: ServicesDep,
    image_sha256: ImageSha256,
    *,
    bands: Annotated[str, Query(pattern=BANDS, max_length=MAX_BANDS_LENGTH)] = "0",
    stretch: ValueStretch = "asinh",
    low: Percentile = 0.5,
    high: Percentile = 99.5,
) -> Response:
    """A band of a FITS image, or three as red, green and blue, black and white at these percentiles: a PNG."""
    numbers = [int(number) for number in bands.split(",")]
    if low >= high:
        raise RequestError("low must be less than high")
    headers = {
        "Cache-Control": f"private, max-age={THUMBNAIL_MAX_AGE_S}, immutable",
        "ETag": f'"{image_sha256}-{bands}-{stretch}-{low}-{high}"',
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    values = services.thumbnails.fits_values(image_sha256)
    if values is None or max(numbers) >= len(values.zeros):
        raise NotFound("no such values of this image are stored: it is no FITS, has fewer bands, or they were deleted")
    png = images.encode_png(stretch_bands(values, numbers, stretch, low, high))
    return Response(png, media_type="image/png", headers=headers)


@router.get("/history/{id}/heat-map")
async def send_heat_map(database: DatabaseDep, heat_maps: HeatMapsDep, id: PredictionId) -> Response:  # noqa: A002
    """The heat map of a prediction by occlusion, over the network's input: a transparent PNG."""
    png = await heat_maps.png(await asyncio.to_thread(database.prediction, id))
    return Response(png, media_type="image/png", headers={"Cache-Control": f"private, max-age={THUMBNAIL_MAX_AGE_S}"})


@router.get("/history/{id}/alike")
def show_neighbours(request: Request, database: DatabaseDep, id: PredictionId) -> Response:  # noqa: A002
    """The nearest neighbours of an image among the logged ones; for htmx only the list."""
    row = database.prediction(id)
    neighbours, with_thumbnail, problem = find_neighbours(database, row)
    return render(
        request,
        "_neighbours.html" if wants_fragment(request) else "neighbours.html",
        row=row,
        neighbours=neighbours,
        problem=problem,
        with_thumbnail=with_thumbnail,
        labels=database.labels_by_image([neighbour.prediction for neighbour in neighbours]),
        roles=database.label_names.roles(),
    )


def find_neighbours(database: ServiceDatabase, row: Prediction) -> tuple[list[Neighbour], AbstractSet[str], str | None]:
    """The nearest neighbours of an image, the hashes of those that have a thumbnail, and why there are none."""
    try:
        neighbours = database.similar(row, limit=NEIGHBOURS_SHOWN)
    except (VectorMissing, VectorsOff) as error:
        return [], set(), NO_NEIGHBOURS[type(error)]
    hashes = [sha for neighbour in neighbours if (sha := neighbour.prediction.image_sha256)]
    return neighbours, database.images_with_thumbnails(hashes), None


def _find_thumbnail(services: Services, image_sha256: str) -> Thumbnail | None:
    """The thumbnail of an image; waits for one of a new row, which another process may be about to store."""
    for _ in range(LATE_LOOKS):
        if thumbnail := services.thumbnails.thumbnail(image_sha256):
            return thumbnail
        rows = services.database.by_image(image_sha256, limit=1) if services.settings.thumbnail_max_bytes else []
        if not rows or dt.datetime.now(dt.UTC) - rows[0].timestamp > LATE:
            return None
        time.sleep(LATE_LOOK_S)
    return None


def _why_no_thumbnail(row: Prediction | ScoredImage, settings: Settings) -> str:
    if not settings.thumbnail_max_bytes:
        return "This service stores no thumbnails: ASTRODETECT_THUMBNAIL_MAX_BYTES is 0."
    if row.image_sha256 is None:
        return "The row has no SHA-256 of the image, so its thumbnail cannot be looked up."
    if dt.datetime.now(dt.UTC) - row.timestamp > dt.timedelta(days=settings.thumbnail_days):
        return f"Thumbnails of unlabelled images are deleted after {settings.thumbnail_days} days."
    return "No thumbnail: the program that logged it stores none, or it was deleted to free space."
