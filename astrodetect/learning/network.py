"""The Keras networks: normalisation, backbone and head; and pretrained weights for the backbone.

Input: RGB pixels in 0…255. Output: probabilities.
"""

import contextlib
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from astrodetect.errors import ModelError
from astrodetect.inference.engine import FEATURES, SCORE
from astrodetect.learning import efficientnet_lite
from astrodetect.learning.keras_runtime import keras
from astrodetect.learning.weights_file import open_weights
from astrodetect.recipes import RECIPES, Backbone, PixelStatistics

NORMALISATION, NORMALISATION_BESIDE = "normalisation", "normalisation_beside"
OUTSIDE_BACKBONE = (SCORE, "pixels", "dropout")  # FEATURES has weights in the small network alone
LUMINANCE = (0.299, 0.587, 0.114)
HEAD_DROPOUT, CNN_DROPOUT = 0.2, 0.5
BATCH_NORM_MOMENTUM = 0.9  # Keras's 0.99 needs hundreds of steps to converge, more than a short run has
LAST_NORM_OF_BLOCK = "_3_bn"  # in ResNet50
DOWNLOAD_TIMEOUT_S = 20.0
PACKAGED, PACKAGED_FOLDER = "packaged", Path(__file__).with_name("weights")  # docs/decisions/training.md


def set_seed(seed: int) -> None:
    """Seed every random generator that Keras uses."""
    keras.utils.set_random_seed(seed)


def build(recipe: str, size: int, statistics: PixelStatistics, outputs: int) -> keras.Model:
    """The network of a recipe with random weights: a sigmoid if `outputs` is 1, else a softmax over the classes."""
    backbone = RECIPES[recipe].backbone
    pixels = keras.Input((size, size, 3), name="pixels")
    normalised = keras.layers.Normalization(name=NORMALISATION)(pixels)
    if backbone is None:
        features = _small_cnn(normalised)
    else:
        feature_map = _feature_map(backbone, normalised)
        if backbone.beside:
            feature_map = _concatenate_beside(backbone.beside, pixels, feature_map)
        features = keras.layers.GlobalAveragePooling2D(name=FEATURES)(feature_map)
    dropped = keras.layers.Dropout(HEAD_DROPOUT if backbone else CNN_DROPOUT, name="dropout")(features)
    activation = "sigmoid" if outputs == 1 else "softmax"
    head = keras.layers.Dense(outputs, activation=activation, name=SCORE, dtype="float32")
    model = keras.Model(pixels, head(dropped), name=keras_name(recipe))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
            if layer.name.endswith(LAST_NORM_OF_BLOCK):  # zero-init: each residual block starts as the identity
                layer.gamma.assign(keras.ops.zeros(layer.gamma.shape))
    if backbone is None:
        model.get_layer("grey").set_weights([np.reshape(LUMINANCE, (1, 1, 3, 1))])
    set_normalisation(model, statistics)
    return model


def keras_name(recipe: str) -> str:
    """The recipe's name as Keras allows names of models."""
    return recipe.replace("-", "_")


def _feature_map(backbone: Backbone, normalised: Any) -> Any:
    """The backbone's last feature map, with random weights."""
    if backbone.application is None:
        make = efficientnet_lite.middle_feature_map if backbone.middle else efficientnet_lite.feature_map
        return make(normalised)
    return _application(backbone, weights=None, input_tensor=normalised).output


def _concatenate_beside(recipe: str, pixels: Any, feature_map: Any) -> Any:
    """The map, and that of another recipe's backbone of the image at half its size, each cell repeated."""
    backbone = RECIPES[recipe].backbone
    assert backbone  # noqa: S101 - of a recipe of a network
    half = keras.layers.AveragePooling2D(2, name="half")(pixels)
    beside = _feature_map(backbone, keras.layers.Normalization(name=NORMALISATION_BESIDE)(half))
    enlarged = efficientnet_lite.enlarge(beside, feature_map.shape[1])
    return keras.layers.Concatenate(name="backbones")([feature_map, enlarged])


def _application(backbone: Backbone, **options: Any) -> keras.Model:
    if backbone.preprocesses:
        options["include_preprocessing"] = False
    return getattr(keras.applications, str(backbone.application))(include_top=False, **options)


def _small_cnn(normalised: keras.KerasTensor) -> keras.KerasTensor:
    """A small convolutional network on grey images; `activation_maps.py` makes its map."""
    layers = keras.layers
    x = layers.Conv2D(1, 1, use_bias=False, trainable=False, name="grey")(normalised)
    x = layers.Conv2D(16, 5, strides=2, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv2")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv3")(x)
    x = layers.Dropout(CNN_DROPOUT, name="dropout_of_map")(layers.Flatten(name="flatten")(x))
    return layers.Dense(128, activation="relu", name=FEATURES)(x)


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights between the pixels and the head."""
    return [layer for layer in model.layers if layer.weights and layer.name not in OUTSIDE_BACKBONE]


def freeze(model: keras.Model, share: float) -> None:
    """Freeze this share of a pretrained backbone's layers, from the first on; the rest and the head are trainable.

    Its batch-norm layers stay frozen and use their moving statistics: with those of each batch the features would
    not be those that the head was fitted to.
    """
    layers = backbone_layers(model)
    for number, layer in enumerate(layers):
        fixed = layer.name in (NORMALISATION, NORMALISATION_BESIDE, "grey") or isinstance(
            layer, keras.layers.BatchNormalization
        )
        layer.trainable = number >= share * len(layers) and not fixed


def set_normalisation(model: keras.Model, statistics: PixelStatistics) -> None:
    """Set mean and variance of the normalisation layers."""
    for layer in _normalisations(model):
        layer.set_weights([np.array(statistics.mean), np.array(statistics.variance), np.array(0)])
        layer.finalize_state()


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Set the weights of a network of the same recipe, its normalisation included."""
    target.set_weights(source.get_weights())
    for layer in _normalisations(target):
        layer.finalize_state()  # else it normalises by what it was built with


def _normalisations(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]


def load_imagenet_weights(model: keras.Model, recipe: str) -> None:
    """Load ImageNet weights into the backbone: the installed ones, or Keras's, downloaded if they are not cached."""
    backbone = RECIPES[recipe].backbone
    if backbone is None:
        raise ModelError(f"there are no ImageNet weights of {recipe}")
    if backbone.application is None:
        arrays = efficientnet_lite.imagenet_weights()
        if backbone.beside:
            beside = _packaged_weights(backbone.beside)
            arrays |= beside | {NORMALISATION_BESIDE: beside.pop(NORMALISATION)}
        _set_backbone_weights(model, recipe, arrays, "ImageNet")
        return
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras's download progress
            source = _application(backbone, weights="imagenet")
    except Exception as error:  # Keras wraps what went wrong in a plain Exception
        raise ModelError(f"ImageNet weights cannot be fetched: {str(error).splitlines()[0]}") from error
    finally:
        socket.setdefaulttimeout(previous)
    arrays = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    _set_backbone_weights(model, recipe, arrays, "ImageNet")


def load_packaged_weights(model: keras.Model, recipe: str) -> None:
    """Load the backbone that comes with this package, pre-trained on simulated skies."""
    _set_backbone_weights(model, recipe, _packaged_weights(recipe), PACKAGED)


def _packaged_weights(recipe: str) -> dict[str, list[np.ndarray]]:
    """Layer name → its arrays; kernels are stored as int8."""
    path = PACKAGED_FOLDER / f"{recipe}.npz"
    if not path.exists():
        available = ", ".join(sorted(file.stem for file in PACKAGED_FOLDER.glob("*.npz")))
        raise ModelError(f"there are no packaged weights of {recipe}: only of {available}")
    arrays: dict[str, list[np.ndarray]] = {}
    with np.load(path) as stored:
        for key in (key for key in stored.files if not key.endswith("/scale")):  # LAYER/0, LAYER/1, …
            scale = stored[f"{key}/scale"] if f"{key}/scale" in stored.files else 1
            arrays.setdefault(key.rpartition("/")[0], []).append(stored[key] * scale)
    return arrays


def load_weights_file(model: keras.Model, recipe: str, path: Path) -> None:
    """Load the backbone from a Keras `.h5` file: a model of ours, or weights as Keras publishes them.

    Arrays are read by layer name, once their shapes are known to fit.
    """
    with open_weights(path) as arrays:
        _set_backbone_weights(model, recipe, arrays, path.name)


def _set_backbone_weights(
    model: keras.Model, recipe: str, stored: Mapping[str, Sequence[np.ndarray | h5py.Dataset]], source: str
) -> None:
    backbone = RECIPES[recipe].backbone
    layers = [layer for layer in backbone_layers(model) if layer.name != NORMALISATION or layer.name in stored]
    for layer in layers:
        expected = [tuple(weight.shape) for weight in layer.weights]
        shapes = [array.shape for array in stored.get(layer.name, [])]
        if shapes != expected:
            mismatch = f"layer {layer.name} has {shapes or 'no weights'}, not {expected}"
            raise ModelError(f"{source} holds no {recipe}: {mismatch}")
    published = backbone if NORMALISATION not in stored else None  # by Keras
    if published:
        set_normalisation(model, published.imagenet)
    for layer in layers:
        arrays = [np.asarray(array) for array in stored[layer.name]]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ModelError(f"{source} is damaged: layer {layer.name} has values that are no numbers")
        if published and published.imagenet_bgr and layer is layers[0]:
            arrays[0] = arrays[0][:, :, ::-1]
        layer.set_weights(arrays)
    for layer in _normalisations(model):
        layer.finalize_state()
