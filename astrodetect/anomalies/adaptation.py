"""Adapting a model to other ordinary images: its detectors are fitted on them, and its network stays as it is."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from astrodetect.anomalies import domain
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.tables import ListedImage
from astrodetect.features.extraction import ExtractedFeatures, extract_features, measured_extractor
from astrodetect.records import BatchRunner, Floats, ImageContract
from astrodetect.settings import settings


def measure_files(
    items: Sequence[ListedImage], contract: ImageContract, run_batches: BatchRunner, title: str
) -> ExtractedFeatures:
    """The measured features of all images, prepared as the model prepares them; cached."""
    return extract_features(
        items,
        measured_extractor(contract),
        settings().descriptions_dir,
        run_batches=run_batches,
        title=title,
        max_pixels=settings().max_image_pixels,
    )


def fit_ordinary(features: Floats) -> Novelty:
    """The default detectors and their domain, of these images."""
    return domain.calibrate_domain(Novelty.fit(features, feature_kind="shapes"))


def describe_source(source: str, images: int) -> dict[str, Any]:
    """What the manifest says of the ordinary images."""
    return {"source": source, "images": images, "fitted": dt.datetime.now(dt.UTC).isoformat(timespec="seconds")}
