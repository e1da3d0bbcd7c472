"""What there is to see of an image that was scored: its picture, and where in it the model looked."""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from astrodetect.records import Prediction, ScoredImage, Thumbnail
from astrodetect.reports import html
from astrodetect.settings import Settings


@dataclass(frozen=True, slots=True)
class ImageView:
    """The picture with its heat map; `missing` says in words why there is none of the one or the other."""

    picture: Thumbnail | None
    overlay: str | None  # a data URI
    crop: float  # share of the frame's shorter side that the heat map covers
    missing: str | None

    @classmethod
    def of(cls, state: Any, row: Prediction | ScoredImage) -> "ImageView":
        """What is kept of the image of this prediction."""
        picture = state.album.picture(row.image_sha256) if row.image_sha256 else None
        if picture is None:
            return cls(None, None, 1.0, _why_not(row, state.settings))
        kept = state.album.heat(row.image_sha256, row.model_version) if row.model_version else None
        if kept is None:
            return cls(picture, None, 1.0, "No heat map is kept of what this model saw in it.")
        if not kept.places.any():
            return cls(picture, None, kept.crop, "The heat map is empty: no place by itself speaks for the verdict.")
        return cls(picture, html.heat_map_overlay(kept.places), kept.crop, None)


def _why_not(row: Prediction | ScoredImage, settings: Settings) -> str:
    if not settings.thumbnail_max_bytes:
        return "This service keeps no pictures: ASTRODETECT_THUMBNAIL_MAX_BYTES is 0."
    if row.image_sha256 is None:
        return "It was logged by a program that kept no sum of the image, so nobody can tell which picture is its."
    if dt.datetime.now(dt.UTC) - row.timestamp > dt.timedelta(days=settings.thumbnail_days):
        return f"Pictures go after {settings.thumbnail_days} days, those of labelled images excepted."
    return "It was logged by a program that keeps none, or has gone to make room for newer ones."
