"""A demo service for the page tests: two models, detectors, an earlier version, and predictions of uploaded images."""

from collections.abc import Mapping
from pathlib import Path

import colour_models
import numpy as np
from programs import Service, query

from astrodetect import images
from astrodetect.sky.healpix import cell_index

BINARY_MODEL, MULTICLASS_MODEL = "resnet50_model", "colours"
TRAINING_IMAGES, PREDICTIONS = 100, 60
UPSCALING = 16  # to the size of a survey cutout
COARSE = 2  # places along each axis of the second model's activation map: heat maps are computed by occlusion
LONG_NAME = "galaxy " * 1_450 + ".png"  # 10 KB: beyond the limit of an upload's form, but other programs may log it
MATCHES = """
    INSERT INTO catalogue_matches (prediction_id, known, catalogue, name, type, arcsec, reference_count)
    SELECT id, id % 8 = 1, 'SIMBAD', 'SDSS J133000.55+471200.1 <b>', 'GiG', 0.4, 12
    FROM predictions WHERE healpix IS NOT NULL"""
HOSTILE_NAMES = ("<script>alert(1)</script>.png", "a\u202egpj.png", "\u2066<b>\u2069&amp;'.png")


def publish_models(folder: Path) -> Path:
    """Publish a binary model with detectors fitted on nebulae, and two versions of one of three classes."""
    training_images = np.stack([colour_models.image("nebula", seed) for seed in range(TRAINING_IMAGES)])
    colour_models.publish(folder, BINARY_MODEL, colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, BINARY_MODEL, training_images)
    for scale in (0.01, 0.02):
        colour_models.publish(folder, MULTICLASS_MODEL, scale=scale, places=COARSE)
    return folder


def environment(database_url: str, folder: Path) -> Mapping[str, str]:
    """The environment variables of the service."""
    return {
        "DATABASE_URL": database_url,
        "ASTRODETECT_DATA_DIR": str(folder / "data"),
        "ASTRODETECT_MODELS_DIR": str(publish_models(folder / "models")),
    }


def demo_image(seed: int) -> bytes:
    """A PNG file: every third is a lawn, which the model classifies as an anomaly; every fifth has a streak."""
    pixels = colour_models.image("nebula" if seed % 3 else "lawn", seed)
    if seed % 5 == 0:
        pixels[colour_models.SIZE // 2] = 255
    return images.encode_png(pixels.repeat(UPSCALING, axis=0).repeat(UPSCALING, axis=1))


def fill(service: Service, database_url: str) -> None:
    """Upload ordinary and unusual images, some with hostile names."""
    names = [*HOSTILE_NAMES, LONG_NAME[:100]]
    names += [f"sky {number:02}.png" for number in range(len(names), PREDICTIONS)]
    for number, name in enumerate(names):
        service.detect(demo_image(number), name).raise_for_status()
    query(database_url, "UPDATE predictions SET image_name = %s WHERE image_name = %s", LONG_NAME, LONG_NAME[:100])
    for id_ in range(1, PREDICTIONS, 4):  # half of them in one field
        ra, dec = (202.4 + id_ / 300, 47.2) if id_ % 8 == 1 else (id_ * 6.0, 80 - id_ * 2.5)
        cell = cell_index(ra, dec)
        query(database_url, "UPDATE predictions SET ra = %s, dec = %s, healpix = %s WHERE id = %s", ra, dec, cell, id_)
    query(database_url, MATCHES)
