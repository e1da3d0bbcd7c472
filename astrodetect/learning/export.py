"""The trained network as OpenVINO IR: probability, pooled features and activation map from one pass.

In low precision too, where it decides as Keras does: measured here, on images that were held out.
"""

import contextlib
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from astrodetect import bundle
from astrodetect.bundle import INT8, Bundle, Fidelity, Manifest, Precision, canary, staging
from astrodetect.errors import ModelError
from astrodetect.evaluation import metrics
from astrodetect.inference import has_bf16, openvino
from astrodetect.inference.engine import FEATURES, MAP, SCORE, Engine
from astrodetect.learning import network, quantise
from astrodetect.records import Floats, Outputs

AGREEMENT = 0.01  # largest difference allowed between a score in Keras and in float32 in the service
# What a lower precision must keep to serve:
SAME_DECISIONS = 0.995  # of the decisions
AUC_CHANGE = 0.002  # at most
FAITHFUL = 0.98  # of what tells features, and places of activation maps, from each other


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Images that were not learnt from, what they are, and what Keras says of them."""

    pixels: NDArray[np.uint8]  # (n, size, size, 3)
    labels: NDArray[np.int64]
    scores: Floats


def publish(
    model: keras.Model,
    manifest: Manifest,
    folder: Path,
    held: HeldOut,
    calibration: NDArray[np.uint8] | None = None,
) -> Manifest:
    """Makes the model's files, sees that the service will score `held` as Keras does, and puts them in place.

    With images to calibrate by, int8 serves where it is close enough to Keras, else bf16, else float32.
    """
    canary_score = float(model.predict(canary(manifest.image.size)[np.newaxis], verbose=0)[0, 0])
    manifest = replace(manifest, canary_score=canary_score)
    with staging(folder, manifest.name) as staged:
        h5, xml = staged / f"{manifest.name}.h5", staged / f"{manifest.name}.xml"
        model.save(h5, include_optimizer=False)
        to_openvino(model, xml)
        exact = Engine(_bundle(manifest, xml, "f32")).run_all(held.pixels)
        difference = float(np.abs(exact.scores - held.scores).max())
        if not difference <= AGREEMENT:
            raise ModelError(
                f"in the service the scores would differ from Keras's by {difference:.3f}: nothing was changed"
            )
        if calibration is not None:
            manifest = choose(manifest, xml, exact, held, calibration)
        return bundle.publish(staged, folder, manifest)


def choose(manifest: Manifest, xml: Path, exact: Outputs, held: HeldOut, calibration: NDArray[np.uint8]) -> Manifest:
    """The manifest with the lowest precision that is close enough, whose files stand beside `xml`, and every trial."""
    int8 = xml.with_name(f"{manifest.name}{INT8}.xml")
    openvino.save_model(quantise.to_int8(openvino.Core().read_model(xml), calibration), int8, compress_to_fp16=False)
    tried: dict[Precision, Fidelity] = {"int8": fidelity(_bundle(manifest, int8, "int8"), exact, held)}
    if not tried["int8"].kept:
        int8.unlink()
        int8.with_suffix(".bin").unlink()
    if has_bf16():
        tried["bf16"] = fidelity(_bundle(manifest, xml, "bf16"), exact, held)
    kept: list[Precision] = [precision for precision, trial in tried.items() if trial.kept]
    return replace(manifest, precision=[*kept, "f32"][0], fidelity=tried)


def fidelity(low: Bundle, exact: Outputs, held: HeldOut) -> Fidelity:
    """How close a network of low precision comes, and whether that is close enough."""
    engine, threshold = Engine(low, check=False), low.manifest.threshold
    found = engine.run_all(held.pixels)
    differences = np.abs(found.scores - held.scores)
    same = float(((found.scores > threshold) == (held.scores > threshold)).mean())
    auc_change = metrics.auc(held.labels, found.scores) - metrics.auc(held.labels, held.scores)
    features = kept_share(found.features, exact.features)
    maps = kept_share(found.maps, exact.maps)
    return Fidelity(
        kept=same >= SAME_DECISIONS and not abs(auc_change) > AUC_CHANGE and min(features, maps) >= FAITHFUL,
        canary_score=engine.canary(),
        images=len(differences),
        same_decisions=same,
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        auc_difference=auc_change,
        features=features,
        maps=maps,
    )


def kept_share(found: Floats, exact: Floats) -> float:
    """One less the square of the error, as a share of how the exact values vary from image to image.

    A cosine would flatter features, which all point the same way, and mean nothing for a map that is almost zero.
    """
    error = np.square(found - exact, dtype=np.float64).sum()
    spread = np.square(exact - exact.mean(axis=0), dtype=np.float64).sum()
    return float(1 - error / max(spread, np.finfo(np.float64).tiny))


def _bundle(manifest: Manifest, xml: Path, precision: Precision) -> Bundle:
    return Bundle(manifest, xml.read_bytes(), xml.with_suffix(".bin").read_bytes(), precision)


def to_openvino(model: keras.Model, xml: Path) -> None:
    """Writes `xml` and the `.bin` beside it: uint8 (n, size, size, 3) in, three outputs by name."""
    size = model.input_shape[1]
    with warnings.catch_warnings(), _converter_mended():
        warnings.simplefilter("ignore", UserWarning)  # it hands Keras its inputs in a tuple, which Keras remarks on
        converted = openvino.convert_model(_with_map(model))
    prepare = openvino.preprocess.PrePostProcessor(converted)
    prepare.input().tensor().set_element_type(openvino.Type.u8)
    converted = prepare.build()
    converted.reshape([-1, size, size, 3])
    openvino.save_model(converted, xml, compress_to_fp16=False)


@contextlib.contextmanager
def _converter_mended() -> Iterator[None]:
    """OpenVINO 2026.4 asks for TensorFlow's version in a way that Python 3.13 has no more (docs/decisions.md)."""
    from openvino.frontend.tensorflow import utils  # noqa: PLC0415 - it loads TensorFlow's whole Python side

    before = utils.get_environment_setup
    utils.get_environment_setup = lambda _framework: {
        "python_version": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "sys_platform": sys.platform,
    }
    try:
        yield
    finally:
        utils.get_environment_setup = before


def _with_map(model: keras.Model) -> keras.Model:
    """The same network with its features and its activation map besides the score.

    The head is linear in the pooled features, and pooling is a mean over places; so the head's own weights, applied
    to each place before pooling, say what that place adds: the map's mean plus the head's bias is the logit.
    """
    last = model.get_layer(network.LAST_MAP).output
    kernel, _ = model.get_layer(network.SCORE).get_weights()
    to_map = keras.layers.Conv2D(1, 1, use_bias=False, dtype="float32", name="class_activation")
    activation = keras.layers.Reshape(tuple(last.shape[1:3]), name=MAP)(to_map(last))
    to_map.set_weights([kernel[np.newaxis, np.newaxis]])
    outputs = {SCORE: model.output, FEATURES: model.get_layer(network.FEATURES).output, MAP: activation}
    return keras.Model(model.input, outputs)
