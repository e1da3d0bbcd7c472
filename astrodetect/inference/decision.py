"""From class probabilities to a decision by the model's threshold, and to the heat map of the decided class."""

import base64
import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.features.extraction import measurement_key
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import Floats, HeatMap, ScoredImage


def decide(
    manifest: Manifest,
    probabilities: Sequence[float],
    *,
    image_name: str,
    image_sha256: str,
    request_id: uuid.UUID,
    novelty: NoveltyResult | None = None,
) -> ScoredImage:
    """Binary models: the second class above the threshold. Others: the most probable class.

    `novelty` is the result of the model's anomaly detectors for this image, if it has any.
    """
    threshold = manifest.threshold if manifest.task == "binary" else None
    if threshold is None:
        predicted = max(range(len(probabilities)), key=probabilities.__getitem__)
        score = probabilities[predicted]
    else:
        score = probabilities[1]
        predicted = int(score > threshold)
    features = novelty.features if novelty else None
    return ScoredImage(
        image_name=image_name,
        image_sha256=image_sha256,
        score=score,
        threshold=threshold,
        model=manifest.name,
        model_version=manifest.version,
        request_id=request_id,
        label=manifest.classes[predicted],
        probabilities=dict(zip(manifest.classes, probabilities, strict=True)),
        novelty=None if novelty is None else float(novelty.novelty[0]),
        vector=None if novelty is None else tuple(novelty.vectors[0].tolist()),
        space=None if novelty is None else manifest.space,
        in_domain=None if novelty is None or novelty.in_domain is None else bool(novelty.in_domain[0]),
        description=None if features is None else base64.b64encode(features[0].astype("<f4").tobytes()).decode(),
        description_kind=None if features is None else measurement_key(manifest.image),
    )


def heat_map(manifest: Manifest, probabilities: Floats, activation_map: Floats, image_sha256: str) -> HeatMap:
    """The heat map of the predicted class."""
    [predicted] = manifest.predict(probabilities[np.newaxis])
    evidence = class_evidence(activation_map, predicted, binary=manifest.task == "binary")
    return HeatMap(image_sha256, manifest.version, to_intensity(evidence), manifest.image.crop)


def class_evidence(activation_map: Floats, predicted: int, *, binary: bool) -> Floats:
    """The activation map of the predicted class: binary networks map the second class, whose negative is the first."""
    return -activation_map if binary and predicted == 0 else activation_map


def to_intensity(evidence: Floats | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Positive evidence scaled to 0 … 255."""
    positive = np.maximum(np.nan_to_num(evidence), 0)
    return np.asarray(255 * (positive / max(float(positive.max()), 1e-12)), np.uint8)
