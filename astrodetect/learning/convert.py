"""A Keras network as OpenVINO IR: answer, pooled features and activation map from one pass.

OpenVINO reads Keras's networks through TensorFlow. Where Keras computes on something else, another process does it.
"""

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import keras

from astrodetect.errors import ModelError
from astrodetect.inference.engine import openvino
from astrodetect.learning import network
from astrodetect.learning.activation_maps import with_map
from astrodetect.learning.backbones import PixelStatistics
from astrodetect.settings import ROOT


def to_openvino(model: keras.Model, xml: Path) -> None:
    """Writes `xml` and the `.bin` beside it: uint8 (n, size, size, 3) in, three outputs by name."""
    if keras.backend.backend() != "tensorflow":
        _through_tensorflow(model, xml)
        return
    size = model.input_shape[1]
    with warnings.catch_warnings(), _converter_mended():
        warnings.simplefilter("ignore", UserWarning)  # it hands Keras its inputs in a tuple, which Keras remarks on
        converted = openvino.convert_model(with_map(model))
    prepare = openvino.preprocess.PrePostProcessor(converted)
    prepare.input().tensor().set_element_type(openvino.Type.u8)
    converted = prepare.build()
    converted.reshape([-1, size, size, 3])
    openvino.save_model(converted, xml, compress_to_fp16=False)


def _through_tensorflow(model: keras.Model, xml: Path) -> None:
    """The same in another process, on the processor."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.weights.h5"
        model.save_weights(weights)
        what = [model.name, str(model.input_shape[1]), str(model.output_shape[1]), str(weights), str(xml.absolute())]
        done = subprocess.run(
            [sys.executable, "-m", "astrodetect.learning.convert", *what],
            env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ModelError(f"the network cannot be converted to what serves: {last[0]}")


def main(name: str, size: str, outputs: str, weights: str, xml: str) -> None:
    """Builds the network of that name, and converts it with these weights."""
    [recipe] = [recipe for recipe in network.RECIPES if network.keras_name(recipe) == name]
    model = network.build(recipe, int(size), PixelStatistics((0.0,) * 3, (1.0,) * 3), int(outputs))
    model.load_weights(weights)
    to_openvino(model, Path(xml))


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


if __name__ == "__main__":
    main(*sys.argv[1:])
