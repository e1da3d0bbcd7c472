"""Where the weights of a backbone come from, if not from scratch."""

import contextlib
import socket
import sys
from pathlib import Path

import h5py
import keras
import numpy as np

from astrodetect.errors import ModelError
from astrodetect.learning.backbones import BACKBONES
from astrodetect.learning.network import NORMALISATION, backbone, normalise_by

DOWNLOAD_TIMEOUT_S = 20.0


def adopt_imagenet(model: keras.Model, recipe: str) -> None:
    """Takes over Keras's ImageNet weights, fetched where they are not on this machine yet."""
    if recipe not in BACKBONES:
        raise ModelError(f"there are no ImageNet weights of {recipe}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras shows its download there
            source = BACKBONES[recipe].published()
    except Exception as error:  # Keras wraps what went wrong in a plain Exception
        raise ModelError(f"ImageNet weights cannot be fetched: {str(error).splitlines()[0]}") from error
    finally:
        socket.setdefaulttimeout(before)
    _adopt(model, recipe, {layer.name: layer.get_weights() for layer in source.layers if layer.weights}, "ImageNet")


def adopt_file(model: keras.Model, recipe: str, path: Path) -> None:
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
    _adopt(model, recipe, {_text(name): arrays for name, arrays in stored.items() if arrays}, path.name)


def _adopt(model: keras.Model, recipe: str, stored: dict[str, list[np.ndarray]], source: str) -> None:
    layers = [layer for layer in backbone(model) if layer.name != NORMALISATION or layer.name in stored]
    if NORMALISATION not in stored and recipe in BACKBONES:  # as Keras publishes them
        if BACKBONES[recipe].blue_first:
            first = layers[0].name
            kernel, *rest = stored.get(first, [np.empty((1, 1, 1, 1))])
            stored = stored | {first: [kernel[:, :, ::-1], *rest]}
        normalise_by(model, BACKBONES[recipe].imagenet)
    for layer in layers:
        wanted = [tuple(weight.shape) for weight in layer.weights]
        found = [array.shape for array in stored.get(layer.name, [])]
        if found != wanted:
            told = f"layer {layer.name} has {found or 'no weights'}, not {wanted}"
            raise ModelError(f"{source} holds no {recipe}: {told}")
        layer.set_weights(stored[layer.name])
    model.get_layer(NORMALISATION).finalize_state()


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
