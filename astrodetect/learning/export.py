"""The trained network as OpenVINO IR: probability, pooled features and activation map from one pass."""

import contextlib
import platform
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from astrodetect import bundle
from astrodetect.bundle import Bundle, Manifest, canary, staging
from astrodetect.errors import ModelError
from astrodetect.inference import openvino
from astrodetect.inference.engine import FEATURES, MAP, SCORE, Engine
from astrodetect.learning import network
from astrodetect.records import Floats

AGREEMENT = 0.01  # largest difference allowed between a score in Keras and in the service


def publish(model: keras.Model, manifest: Manifest, folder: Path, pixels: Floats) -> None:
    """Makes the model's files, sees that the service will score `pixels` as Keras does, and puts them in place."""
    canary_score = float(model.predict(canary(manifest.image.size)[np.newaxis], verbose=0)[0, 0])
    manifest = replace(manifest, canary_score=canary_score)
    with staging(folder, manifest.name) as staged:
        h5, xml = staged / f"{manifest.name}.h5", staged / f"{manifest.name}.xml"
        model.save(h5, include_optimizer=False)
        to_openvino(model, xml)
        engine = Engine(Bundle(manifest, xml.read_bytes(), xml.with_suffix(".bin").read_bytes()))
        served = engine.run(pixels.astype(np.uint8)).scores
        difference = float(np.abs(served - model.predict(pixels, verbose=0)[:, 0]).max())
        if not difference <= AGREEMENT:
            raise ModelError(
                f"in the service the scores would differ from Keras's by {difference:.3f}: nothing was changed"
            )
        bundle.publish(staged, folder, manifest)


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
