"""From class probabilities to a decision by the model's threshold."""

import base64
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.features.extraction import measurement_key
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import ScoredImage, SkyObject

if TYPE_CHECKING:
    from astrodetect.inference.pipeline import ScoredFile

UNKNOWN_OBJECT = SkyObject()


def decide(
    manifest: Manifest,
    probabilities: Sequence[float],
    *,
    image_name: str,
    image_sha256: str,
    request_id: uuid.UUID,
    novelty: NoveltyResult | None = None,
    sky_object: SkyObject | None = None,
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
    sky_object = sky_object or UNKNOWN_OBJECT
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
        novelty_view=None if novelty is None else novelty.views[0],
        description=None if features is None else base64.b64encode(features[0].astype("<f4").tobytes()).decode(),
        description_kind=None if features is None else measurement_key(manifest.image),
        ra=sky_object.ra,
        dec=sky_object.dec,
        object_id=sky_object.object_id,
    )


def decide_file(manifest: Manifest, file: "ScoredFile", request_id: uuid.UUID) -> ScoredImage:
    """The decision for a file that could be read."""
    return decide(
        manifest,
        file.probabilities,
        image_name=file.path,
        image_sha256=file.sha256,
        request_id=request_id,
        novelty=file.novelty,
        sky_object=file.position,
    )
