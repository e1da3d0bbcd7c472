"""The activation map beside the answer: what each place adds to the logit of the class that is said, of two always to
the second one's."""

import keras
import numpy as np
from keras import ops

from astrodetect.inference.engine import FEATURES, MAP, SCORE


def with_map(model: keras.Model) -> keras.Model:
    """The same network with its features and its activation map besides the answer, as outputs by name."""
    before = model.get_layer(FEATURES).input
    map_ = _of_dense(model) if len(before.shape) == 2 else _of_pooling(model, before)
    named = keras.layers.Identity(name=MAP, dtype="float32")(map_)
    return keras.Model(
        model.input, {SCORE: model.output, FEATURES: model.get_layer(FEATURES).output, MAP: named}, name="with_map"
    )


def _of_pooling(model: keras.Model, last: keras.KerasTensor) -> keras.KerasTensor:
    """Where the features are means over places: the head's own weights, applied to each place before pooling.

    The map's mean plus the head's bias is the logit; of several classes the logit against the classes' mean.
    """
    kernel = _head(model)
    to_maps = keras.layers.Conv2D(kernel.shape[1], 1, use_bias=False, dtype="float32", name="class_activation")
    maps = to_maps(last)
    to_maps.set_weights([kernel[np.newaxis, np.newaxis]])
    if kernel.shape[1] == 1:
        return ops.squeeze(maps, -1)
    return ops.sum(maps * _said(model)[:, None, None, :], axis=-1)


def _of_dense(model: keras.Model) -> keras.KerasTensor:
    """Where a dense layer with ReLU makes the features: which of its units are awake decides what a place adds.

    For those awake the way from the last map to the logit is linear, so this is exact: the map's sum is the logit less
    what the two biases add.
    """
    kernel = _head(model)
    dense, last = model.get_layer(FEATURES), model.get_layer("flatten").input
    _, height, width, channels = last.shape
    awake = ops.cast(dense.output > 0, "float32")
    if kernel.shape[1] == 1:
        ways = awake * ops.convert_to_tensor(kernel[:, 0])
    else:
        ways = awake * ops.matmul(_said(model), ops.convert_to_tensor(kernel.T))
    # From the units back to the places: a dense layer of its own, so that its weights stand in the network once more.
    units_to_places = keras.layers.Dense(height * width * channels, use_bias=False, dtype="float32", name="to_places")
    shares = ops.reshape(units_to_places(ways), (-1, height, width, channels))
    units_to_places.set_weights([dense.get_weights()[0].T])
    return ops.sum(shares * last, axis=-1)


def _head(model: keras.Model) -> np.ndarray:
    """The head's weights (features, answers); against their mean where they are a softmax's, which sees no more."""
    kernel = np.asarray(model.get_layer(SCORE).get_weights()[0])
    return kernel if kernel.shape[1] == 1 else kernel - kernel.mean(axis=1, keepdims=True)


def _said(model: keras.Model) -> keras.KerasTensor:
    """1 at the class that is said, 0 at the others."""
    return ops.cast(model.output >= ops.max(model.output, axis=-1, keepdims=True), "float32")
