"""Probabilities to a verdict, as the manifest of their model has it, and what spoke for it."""

import uuid
from collections.abc import Sequence

import numpy as np

from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.evaluation.heatmap import speaking, strengths
from astrodetect.model_store.store import Manifest
from astrodetect.records import Floats, HeatMap, ScoredImage


def decide(
    manifest: Manifest,
    probabilities: Sequence[float],
    *,
    image_name: str,
    image_sha256: str,
    request_id: uuid.UUID,
    looked: NoveltyResult | None = None,
) -> ScoredImage:
    """An anomaly where the second of two classes is above the threshold; of several classes the most probable one.

    Where the model carries detectors, `looked` is what they say of the image.
    """
    threshold = manifest.threshold if manifest.task == "binary" else None
    if threshold is None:
        winner = max(range(len(probabilities)), key=probabilities.__getitem__)
        score = probabilities[winner]
    else:
        score = probabilities[1]
        winner = int(score > threshold)
    return ScoredImage(
        image_name=image_name,
        image_sha256=image_sha256,
        score=score,
        threshold=threshold,
        model=manifest.name,
        model_version=manifest.version,
        request_id=request_id,
        label=manifest.classes[winner],
        probabilities=dict(zip(manifest.classes, probabilities, strict=True)),
        novelty=None if looked is None else float(looked.novelty[0]),
        vector=None if looked is None else tuple(looked.vectors[0].tolist()),
        space=None if looked is None else manifest.space,
    )


def heat_map(manifest: Manifest, probabilities: Floats, places: Floats, image_sha256: str) -> HeatMap:
    """Where in an image the model saw what it says, of its activation map."""
    [said] = manifest.decides(probabilities[np.newaxis])
    spoke = strengths(speaking(places, said, of_two=manifest.task == "binary"))
    return HeatMap(image_sha256, manifest.version, spoke, manifest.image.crop)
