"""Keras network to OpenVINO IR with three outputs from one pass: score, pooled features and class activation map.

OpenVINO reads Keras's networks through TensorFlow. With another Keras backend a subprocess converts.
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

import numpy as np

from astrodetect.errors import ModelError
from astrodetect.inference.engine import FEATURES, MAP, SCORE, openvino
from astrodetect.learning import network
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
        converted = openvino.convert_model(with_activation_map(model))
    preprocessor = openvino.preprocess.PrePostProcessor(converted)
    preprocessor.input().tensor().set_element_type(openvino.Type.u8)
    converted = preprocessor.build()
    converted.reshape([-1, size, size, 3])
    openvino.save_model(converted, xml, compress_to_fp16=False)


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
    """OpenVINO 2026.4 looks TensorFlow's version up in a way that Python 3.13 removed (docs/decisions/models.md)."""
    from openvino.frontend.tensorflow import utils  # noqa: PLC0415 - loads TensorFlow's whole Python side

    original = utils.get_environment_setup
    utils.get_environment_setup = lambda _framework: {
        "python_version": platform.python_version(),
        "tensorflow": version("tensorflow"),
        "sys_platform": sys.platform,
    }
    try:
        yield
    finally:
        utils.get_environment_setup = original


def with_activation_map(model: keras.Model) -> keras.Model:
    """The same network with named outputs for score, features and class activation map.

    The map shows what each cell adds to the logit of the predicted class; of a binary model, of the positive class.
    """
    before = model.get_layer(FEATURES).input
    activation_map = _map_of_dense(model) if len(before.shape) == 2 else _map_of_pooling(model, before)
    named = keras.layers.Identity(name=MAP, dtype="float32")(activation_map)
    return keras.Model(
        model.input, {SCORE: model.output, FEATURES: model.get_layer(FEATURES).output, MAP: named}, name="with_map"
    )


def _map_of_pooling(model: keras.Model, feature_map: keras.KerasTensor) -> keras.KerasTensor:
    """Class activation map after global average pooling: the head's weights as a 1×1 convolution of the feature map.

    Its mean plus the head's bias is the logit; of several classes, relative to the mean logit.
    """
    kernel = _head_kernel(model)
    convolution = keras.layers.Conv2D(kernel.shape[1], 1, use_bias=False, dtype="float32", name="class_activation")
    maps = convolution(feature_map)
    convolution.set_weights([kernel[np.newaxis, np.newaxis]])
    if kernel.shape[1] == 1:
        return keras.ops.squeeze(maps, -1)
    return keras.ops.sum(maps * _predicted_class(model)[:, None, None, :], axis=-1)


def _map_of_dense(model: keras.Model) -> keras.KerasTensor:
    """Class activation map through a dense ReLU layer: input times gradient of the logit.

    With the active units fixed the logit is linear in the feature map, so this is exact: the map's sum is the logit
    less what the two biases contribute.
    """
    kernel = _head_kernel(model)
    dense, feature_map = model.get_layer(FEATURES), model.get_layer("flatten").input
    _, height, width, channels = feature_map.shape
    active = keras.ops.cast(dense.output > 0, "float32")
    if kernel.shape[1] == 1:
        gradients = active * keras.ops.convert_to_tensor(kernel[:, 0])
    else:
        gradients = active * keras.ops.matmul(_predicted_class(model), keras.ops.convert_to_tensor(kernel.T))
    # A dense layer of its own, so that the transposed weights are weights of the network.
    transposed = keras.layers.Dense(height * width * channels, use_bias=False, dtype="float32", name="to_places")
    gradient_map = keras.ops.reshape(transposed(gradients), (-1, height, width, channels))
    transposed.set_weights([dense.get_weights()[0].T])
    return keras.ops.sum(gradient_map * feature_map, axis=-1)


def _head_kernel(model: keras.Model) -> np.ndarray:
    """The head's weights (features, outputs); of a softmax less their mean over classes, which does not change it."""
    kernel = np.asarray(model.get_layer(SCORE).get_weights()[0])
    return kernel if kernel.shape[1] == 1 else kernel - kernel.mean(axis=1, keepdims=True)


def _predicted_class(model: keras.Model) -> keras.KerasTensor:
    """One-hot vector of the most probable class."""
    return keras.ops.cast(model.output >= keras.ops.max(model.output, axis=-1, keepdims=True), "float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
