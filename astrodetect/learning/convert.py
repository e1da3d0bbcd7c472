"""Keras network to OpenVINO IR with three outputs from one pass: score, pooled features and class activation map.

OpenVINO reads Keras's networks through TensorFlow. With another Keras backend a subprocess converts.
"""

import contextlib
import functools
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from astrodetect.errors import ModelError
from astrodetect.inference.engine import CONVERTER, openvino, save_network
from astrodetect.learning import network
from astrodetect.learning.activation_maps import with_activation_map
from astrodetect.learning.keras_runtime import keras
from astrodetect.recipes import NO_NORMALISATION, RECIPES
from astrodetect.settings import ROOT


def to_openvino(model: keras.Model, xml: Path) -> None:
    """Write `xml` and the `.bin` beside it: uint8 (n, size, size, 3) in, three named outputs."""
    if keras.backend.backend() != "tensorflow":
        _convert_in_subprocess(model, xml)
        return
    size = model.input_shape[1]
    with warnings.catch_warnings(), _patched_converter():
        warnings.simplefilter("ignore", UserWarning)  # the converter passes inputs as a tuple, of which Keras warns
        converted = importlib.import_module(CONVERTER).convert_model(with_activation_map(model))
    preprocessor = openvino.preprocess.PrePostProcessor(converted)
    preprocessor.input().tensor().set_element_type(openvino.Type.u8)
    converted = preprocessor.build()
    converted.reshape([-1, size, size, 3])
    save_network(converted, xml)


def _convert_in_subprocess(model: keras.Model, xml: Path) -> None:
    """Convert with the TensorFlow backend, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.weights.h5"
        model.save_weights(weights)
        size, outputs = str(model.input_shape[1]), str(model.output_shape[1])
        arguments = [model.name, size, outputs, str(weights), str(xml.absolute())]
        process = subprocess.run(
            [sys.executable, "-m", "astrodetect.learning.convert", *arguments],
            env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ModelError(f"the network cannot be converted to OpenVINO: {last[0]}")


def main(name: str, size: str, outputs: str, weights: str, xml: str) -> None:
    """Build the network of that Keras name, load the weights and convert it."""
    [recipe] = [recipe for recipe in RECIPES if network.keras_name(recipe) == name]
    model = network.build(recipe, int(size), NO_NORMALISATION, int(outputs))
    model.load_weights(weights)
    to_openvino(model, Path(xml))


@contextlib.contextmanager
def _patched_converter() -> Iterator[None]:
    """OpenVINO 2026.4 looks TensorFlow's version up in a way that Python 3.13 removed, and compares each weight with
    all others whenever it reads it: with its answers cached, conversion takes half the time (docs/decisions/models.md).
    """
    from openvino.frontend.tensorflow import utils  # noqa: PLC0415 - loads TensorFlow's whole Python side
    from openvino.frontend.tensorflow.node_decoder import TFGraphNodeDecoder  # noqa: PLC0415

    environment, variable = utils.get_environment_setup, TFGraphNodeDecoder.get_variable
    utils.get_environment_setup = lambda _framework: {
        "python_version": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "sys_platform": sys.platform,
    }
    TFGraphNodeDecoder.get_variable = staticmethod(functools.cache(variable))
    try:
        yield
    finally:
        utils.get_environment_setup = environment
        TFGraphNodeDecoder.get_variable = staticmethod(variable)


if __name__ == "__main__":
    main(*sys.argv[1:])
