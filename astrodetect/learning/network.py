"""ResNet50 with its normalisation inside and a sigmoid head, and where its weights come from."""

import contextlib
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from astrodetect.errors import ModelError

BATCH_NORM_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of steps to forget its start; short runs have no more
HEAD_DROPOUT = 0.2
NORMALISATION, LAST_MAP, FEATURES, SCORE = "normalisation", "conv5_block3_out", "features", "score"
LAST_OF_A_BLOCK = "_3_bn"
FIRST_CONVOLUTION = "conv1_conv"
NOT_OF_THE_BACKBONE = (FEATURES, SCORE, "pixels", "dropout")
DOWNLOAD_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Standard:
    """The mean and the variance per band that the normalisation takes out."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


# What Keras's own ImageNet weights were trained against, in RGB (they take blue first; `_adopt` turns them round).
IMAGENET = Standard((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))


def set_seed(seed: int) -> None:
    """Fixes every random draw of what is built and trained from here on."""
    keras.utils.set_random_seed(seed)


def build(size: int, standard: Standard) -> keras.Model:
    """The whole network with fresh weights: (n, size, size, 3) in 0…255, RGB, to one probability."""
    pixels = keras.Input((size, size, 3), name="pixels")
    normalisation = keras.layers.Normalization(name=NORMALISATION)
    normalised = normalisation(pixels)
    backbone = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=normalised)
    features = keras.layers.GlobalAveragePooling2D(name=FEATURES)(backbone.output)
    dropped = keras.layers.Dropout(HEAD_DROPOUT, name="dropout")(features)
    score = keras.layers.Dense(1, activation="sigmoid", name=SCORE)(dropped)
    model = keras.Model(pixels, score, name="resnet50")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
            if layer.name.endswith(LAST_OF_A_BLOCK):  # each block starts as the identity, and short runs learn sooner
                layer.gamma.assign(keras.ops.zeros_like(layer.gamma))
    _normalise_by(model, standard)
    return model


def freeze_backbone(model: keras.Model) -> None:
    """Only the head will learn."""
    for layer in _backbone(model):
        layer.trainable = False


def adopt_imagenet(model: keras.Model) -> None:
    """Takes over Keras's ImageNet weights, fetched where they are not on this machine yet."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras shows its download there
            source = keras.applications.ResNet50(include_top=False, weights="imagenet")
    except Exception as error:  # Keras wraps what went wrong in a plain Exception
        raise ModelError(f"ImageNet weights cannot be fetched: {str(error).splitlines()[0]}") from error
    finally:
        socket.setdefaulttimeout(before)
    _adopt(model, {layer.name: layer.get_weights() for layer in source.layers if layer.weights}, "ImageNet")


def adopt_file(model: keras.Model, path: Path) -> None:
    """Takes over the backbone in a Keras `.h5` file: one of our models, or weights as Keras publishes them.

    Arrays are read by the names of their layers; the file's own description of a network is never run.
    """
    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            stored = {
                name: [np.asarray(group[name][weight]) for weight in group[name].attrs["weight_names"]]
                for name in group.attrs["layer_names"]
            }
    except (OSError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is no Keras .h5 file of weights by layer") from error
    _adopt(model, {_text(name): arrays for name, arrays in stored.items() if arrays}, path.name)


def _adopt(model: keras.Model, stored: dict[str, list[np.ndarray]], source: str) -> None:
    if NORMALISATION not in stored:
        kernel, *rest = stored.get(FIRST_CONVOLUTION, [np.empty((1, 1, 1, 1))])
        stored = stored | {FIRST_CONVOLUTION: [kernel[:, :, ::-1], *rest]}  # from blue first to red first
        _normalise_by(model, IMAGENET)
    for layer in _backbone(model):
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if layer.name == NORMALISATION and layer.name not in stored:
            continue
        found = [array.shape for array in stored.get(layer.name, [])]
        if found != wanted:
            raise ModelError(
                f"{source} holds no ResNet50: layer {layer.name} has {found or 'no weights'}, not {wanted}"
            )
        layer.set_weights(stored[layer.name])
    model.get_layer(NORMALISATION).finalize_state()


def _backbone(model: keras.Model) -> Iterable[keras.layers.Layer]:
    return [layer for layer in model.layers if layer.weights and layer.name not in NOT_OF_THE_BACKBONE]


def _normalise_by(model: keras.Model, standard: Standard) -> None:
    layer = model.get_layer(NORMALISATION)
    layer.set_weights([np.array(standard.mean), np.array(standard.variance), np.array(0)])
    layer.finalize_state()


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
