"""A service with something to look at: two models, detectors, an earlier version, and a log of real uploads."""

from collections.abc import Mapping
from pathlib import Path

import colour_models
import numpy as np
from programs import Service, query

from astrodetect import images

MODEL, OTHER = "resnet50_model", "colours"
USUAL, ROWS = 40, 60
TIMES = 16  # wider and higher than the network's own images: as large as a cutout of a survey
LONG = "galaxy " * 1_450 + ".png"  # 10 KB: more than a form may have, not more than other programs may log
HOSTILE = ("<script>alert(1)</script>.png", "a\u202egpj.png", "\u2066<b>\u2069&amp;'.png")


def models(folder: Path) -> Path:
    """Fills a folder: a model that knows nebulae, and one of three classes, which replaced one that was less sure."""
    usual = np.stack([colour_models.image("nebula", seed) for seed in range(USUAL)])
    colour_models.publish(folder, MODEL, colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, MODEL, usual)
    for sure in (0.01, 0.02):
        colour_models.publish(folder, OTHER, scale=sure)
    return folder


def environment(database_url: str, place: Path) -> Mapping[str, str]:
    """What such a service is started with."""
    return {
        "DATABASE_URL": database_url,
        "ASTRODETECT_DATA_DIR": str(place / "data"),
        "ASTRODETECT_MODELS_DIR": str(models(place / "models")),
    }


def picture(seed: int) -> bytes:
    """A PNG: every third is a lawn, which the model takes for an anomaly; every fifth has a streak."""
    pixels = colour_models.image("nebula" if seed % 3 else "lawn", seed)
    if seed % 5 == 0:
        pixels[colour_models.SIZE // 2] = 255
    return images.encode_png(pixels.repeat(TIMES, axis=0).repeat(TIMES, axis=1))


def fill(service: Service, database_url: str) -> None:
    """Uploads: usual and unusual images, and some whose names are out for mischief."""
    for number, name in enumerate(
        [*HOSTILE, LONG[:100], *(f"sky {number:02}.png" for number in range(len(HOSTILE) + 1, ROWS))]
    ):
        service.detect(picture(number), name).raise_for_status()
    query(database_url, "UPDATE predictions SET image_name = %s WHERE image_name = %s", LONG, LONG[:100])
