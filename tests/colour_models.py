"""Untrained test models of two or three classes that classify an image by its mean colour."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from astrodetect.anomalies import domain
from astrodetect.anomalies.novelty import Novelty
from astrodetect.features.central_object import feature_matrix
from astrodetect.inference.engine import FEATURES, MAP, SCORE, Engine, openvino
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest
from astrodetect.model_store.publication import NETWORK
from astrodetect.model_store.store import VerifiedModel
from astrodetect.records import ImageContract, Pixels

CLASSES = ["nebula", "lawn", "ocean"]  # red, green and blue ones
TWO_CLASSES = CLASSES[:2]
SIZE = 24
op = openvino.opset13


def publish(
    folder: Path,
    name: str,
    classes: Sequence[str] = CLASSES,
    *,
    scale: float = 0.02,
    places: int = SIZE,
    stretch: str = "none",
) -> Manifest:
    """Publish a colour model in `folder`; `scale` multiplies its logits, its map has so many `places` along an axis."""
    manifest = Manifest(
        name=name,
        classes=list(classes),
        image=ImageContract(size=SIZE, stretch=stretch),
        metrics={},
        data={},
        settings={},
        versions={},
        task="binary" if len(classes) == len(TWO_CLASSES) else "classes",
        recipe="colour",
    )
    with store.staging(folder, name) as staged:
        openvino.save_model(_network(len(classes), scale, places), staged / f"{name}.xml", compress_to_fp16=False)
        xml, weights = ((staged / f"{name}{suffix}").read_bytes() for suffix in NETWORK)
        canary = Engine(VerifiedModel(manifest, xml, weights), check=False).canary()
        return store.publish(staged, folder, replace(manifest, canary_score=canary))


def publish_with_detectors(folder: Path, name: str, images: Pixels, classes: Sequence[str] = TWO_CLASSES) -> Manifest:
    """Publish a colour model with novelty detectors fitted on these images."""
    manifest = publish(folder, name, classes)
    attach_novelty(folder, name, images)
    return manifest


def attach_novelty(folder: Path, name: str, images: Pixels) -> None:
    """Fit novelty detectors on these images and attach them to the model."""
    features = feature_matrix("shapes", images, 1.0)
    novelty = domain.calibrate_domain(Novelty.fit(features, feature_kind="shapes"))
    store.attach_detectors(folder, name, novelty.save)


def image(name: str, seed: int = 0) -> Pixels:
    """A random image of this class's colour."""
    pixels = np.random.default_rng(seed).integers(40, 120, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[..., CLASSES.index(name)] += 100
    return pixels


def _network(classes: int, scale: float, map_places: int) -> openvino.Model:
    """The mean of each colour band is a feature and the logit of a class."""
    pixels = op.parameter([-1, SIZE, SIZE, 3], np.uint8)
    values = op.convert(pixels, np.float32)
    features = op.reduce_mean(values, np.array([1, 2]), keep_dims=False)
    logits = op.slice(features, [0], [classes], [1], [1])
    score = op.softmax(op.multiply(logits, np.float32(scale)), axis=1)
    red, green = (op.gather(values, np.int64(colour), np.int64(3)) for colour in range(len(TWO_CLASSES)))
    places = (
        op.subtract(green, red)
        if classes == len(TWO_CLASSES)
        else op.reduce_mean(values, np.array([3]), keep_dims=False)
    )
    if map_places < SIZE:
        step = [SIZE // map_places] * 2
        pooled = op.avg_pool(op.unsqueeze(places, np.int64(1)), step, [0, 0], [0, 0], step, exclude_pad=False)
        places = op.squeeze(pooled, np.int64(1))
    outputs = {
        SCORE: op.slice(score, [1], [2], [1], [1]) if classes == len(TWO_CLASSES) else score,
        FEATURES: features,
        MAP: places,
    }
    for name, output in outputs.items():
        output.output(0).set_names({name})
    return openvino.Model([op.result(output) for output in outputs.values()], [pixels])
