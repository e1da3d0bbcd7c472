"""A network with its normalisation inside and its head: pixels in 0…255, RGB, to probabilities."""

import keras
import numpy as np

from astrodetect.learning.backbones import BACKBONES, PixelStatistics

HEAD_DROPOUT = 0.2
NORMALISATION, FEATURES, SCORE = "normalisation", "features", "score"
NOT_OF_THE_BACKBONE = (FEATURES, SCORE, "pixels", "dropout")
CNN = "cnn"
RECIPES = (*BACKBONES, CNN)
LUMINANCE = (0.299, 0.587, 0.114)
CNN_DROPOUT = 0.5


def set_seed(seed: int) -> None:
    """Fixes every random draw of what is built and trained from here on."""
    keras.utils.set_random_seed(seed)


def build(recipe: str, size: int, standard: PixelStatistics, classes: int) -> keras.Model:
    """The whole network with fresh weights. Its answer is one probability, or of `classes` > 1 classes one each."""
    pixels = keras.Input((size, size, 3), name="pixels")
    normalised = keras.layers.Normalization(name=NORMALISATION)(pixels)
    if recipe == CNN:
        features = _small(normalised)
    else:
        features = keras.layers.GlobalAveragePooling2D(name=FEATURES)(BACKBONES[recipe].on(normalised))
    dropped = keras.layers.Dropout(CNN_DROPOUT if recipe == CNN else HEAD_DROPOUT, name="dropout")(features)
    head = keras.layers.Dense(classes, activation="sigmoid" if classes == 1 else "softmax", name=SCORE, dtype="float32")
    model = keras.Model(pixels, head(dropped), name=keras_name(recipe))
    if recipe == CNN:
        model.get_layer("grey").set_weights([np.reshape(LUMINANCE, (1, 1, 3, 1))])
    normalise_by(model, standard)
    return model


def keras_name(recipe: str) -> str:
    """What Keras calls the network."""
    return recipe.replace("-", "_")


def _small(normalised: keras.KerasTensor) -> keras.KerasTensor:
    """The small network of the four-class study, on grey images; its activation map is made in `maps.py`."""
    layers = keras.layers
    x = layers.Conv2D(1, 1, use_bias=False, trainable=False, name="grey")(normalised)
    x = layers.Conv2D(16, 5, strides=2, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv2")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="conv3")(x)
    x = layers.Dropout(CNN_DROPOUT, name="dropout_of_map")(layers.Flatten(name="flatten")(x))
    return layers.Dense(128, activation="relu", name=FEATURES)(x)


def backbone(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers with weights between the pixels and the head."""
    return [layer for layer in model.layers if layer.weights and layer.name not in NOT_OF_THE_BACKBONE]


def freeze(model: keras.Model, share: float) -> None:
    """Leaves this share of the backbone's layers as they are, from the first on; the rest and the head learn.

    What is frozen normalises by what it knows, also while the rest learns.
    """
    layers = backbone(model)
    for number, layer in enumerate(layers):
        layer.trainable = number >= share * len(layers) and layer.name not in (NORMALISATION, "grey")


def normalise_by(model: keras.Model, standard: PixelStatistics) -> None:
    """Sets the normalisation, which is weights like any other."""
    layer = model.get_layer(NORMALISATION)
    layer.set_weights([np.array(standard.mean), np.array(standard.variance), np.array(0)])
    layer.finalize_state()
