"""Class activation maps as an output of the network, computed in the same pass as the score."""

import numpy as np

from astrodetect.inference.engine import FEATURES, MAP, SCORE
from astrodetect.learning.keras_runtime import keras


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
