"""What pages show of a scored image besides its row: thumbnail, heat map and nearest neighbours."""

import datetime as dt
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from astrodetect.errors import AstrodetectError, NotFound, VectorMissing, VectorsOff
from astrodetect.records import Neighbour, Prediction, ScoredImage, Thumbnail
from astrodetect.reports.html import heat_map_overlay
from astrodetect.service.query_params import PredictionId
from astrodetect.service.services import DatabaseDep, ServiceDatabase, ThumbnailsDep
from astrodetect.service.thumbnails import ThumbnailStore
from astrodetect.service.web.rendering import render, wants_fragment
from astrodetect.settings import SETUP_DB_COMMAND, Settings

THUMBNAIL_MAX_AGE_S = 86_400
NEIGHBOURS_SHOWN = 6
NO_NEIGHBOURS: dict[type[AstrodetectError], str] = {
    VectorMissing: "No neighbours: the model had no detectors when it scored this image, so no vector was stored.",
    VectorsOff: f"No neighbours: the database lacks pgvector. {SETUP_DB_COMMAND} says how to install it.",
}
router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class ImageView:
    """The thumbnail of an image with its heat map; `missing` says why one of them is not available."""

    thumbnail: Thumbnail | None
    overlay: str | None  # a data URI
    crop: float  # share of the frame's shorter side that the heat map covers
    missing: str | None

    @classmethod
    def load(cls, row: Prediction | ScoredImage, thumbnails: ThumbnailStore, settings: Settings) -> "ImageView":
        """What is stored of the image of this prediction, and of this model's heat map."""
        thumbnail = thumbnails.thumbnail(row.image_sha256) if row.image_sha256 else None
        if thumbnail is None or row.image_sha256 is None:
            return cls(None, None, 1.0, _why_no_thumbnail(row, settings))
        heat_map = thumbnails.heat_map(row.image_sha256, row.model_version) if row.model_version else None
        if heat_map is None:
            return cls(thumbnail, None, 1.0, "No heat map of this model version is stored for this image.")
        if not heat_map.places.any():
            return cls(thumbnail, None, heat_map.crop, "The heat map is empty: no region supports the predicted class.")
        return cls(thumbnail, heat_map_overlay(heat_map.places), heat_map.crop, None)


@router.get("/pictures/{image_sha256}")
def send_thumbnail(
    request: Request, thumbnails: ThumbnailsDep, image_sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> Response:
    """The thumbnail of an image by its SHA-256, as JPEG, or NotFound."""
    headers = {
        "Cache-Control": f"private, max-age={THUMBNAIL_MAX_AGE_S}, immutable",
        "ETag": f'"{image_sha256}"',
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    thumbnail = thumbnails.thumbnail(image_sha256)
    if thumbnail is None:
        raise NotFound("no thumbnail of this image is stored: none was made, or it was deleted")
    return Response(thumbnail.jpeg, media_type="image/jpeg", headers=headers)


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
    )


def find_neighbours(database: ServiceDatabase, row: Prediction) -> tuple[list[Neighbour], AbstractSet[str], str | None]:
    """The nearest neighbours of an image, the hashes of those that have a thumbnail, and why there are none."""
    try:
        neighbours = database.similar(row, limit=NEIGHBOURS_SHOWN)
    except (VectorMissing, VectorsOff) as error:
        return [], set(), NO_NEIGHBOURS[type(error)]
    hashes = [sha for neighbour in neighbours if (sha := neighbour.prediction.image_sha256)]
    return neighbours, database.images_with_thumbnails(hashes), None


def _why_no_thumbnail(row: Prediction | ScoredImage, settings: Settings) -> str:
    if not settings.thumbnail_max_bytes:
        return "This service stores no thumbnails: ASTRODETECT_THUMBNAIL_MAX_BYTES is 0."
    if row.image_sha256 is None:
        return "The row has no SHA-256 of the image, so its thumbnail cannot be looked up."
    if dt.datetime.now(dt.UTC) - row.timestamp > dt.timedelta(days=settings.thumbnail_days):
        return f"Thumbnails of unlabelled images are deleted after {settings.thumbnail_days} days."
    return "No thumbnail: the program that logged it stores none, or it was deleted to free space."
