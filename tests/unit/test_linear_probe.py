"""The packaged weights, and the choice of the linear head's penalty."""

import keras
import numpy as np
import pytest

from astrodetect.datasets.simulation.generator import render_image
from astrodetect.errors import ModelError
from astrodetect.learning import network
from astrodetect.learning.linear_probe import RegularisationPath, choose_penalty
from astrodetect.recipes import PixelStatistics


def test_packaged_weights_give_features_that_tell_simulated_classes_apart() -> None:
    model = network.build("resnet50", 64, PixelStatistics((0.0,) * 3, (1.0,) * 3), 1)
    network.load_packaged_weights(model, "resnet50")
    pixels = np.stack([render_image(kind, seed)[80:147, 80:147] for kind in ("E", "SB") for seed in range(40)])
    backbone = keras.Model(model.input, model.get_layer("features").output)
    features = backbone.predict(pixels[:, 1:65, 1:65].astype(np.float32), verbose=0)
    labels = np.repeat([1, 0], 40)[:, np.newaxis].astype(np.float32)
    fitted = np.arange(80) % 2 == 0
    head = RegularisationPath(features[fitted], labels[fitted], np.ones(40, np.float32)).fit(1.0)
    assert ((head.probabilities(features[~fitted])[:, 1] > 0.5) == labels[~fitted, 0]).mean() > 0.75


def test_a_recipe_without_packaged_weights_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="no packaged weights of cnn: only of resnet50"):
        network.load_packaged_weights(keras.Sequential(), "cnn")


def test_the_penalty_is_the_largest_within_one_standard_error_of_the_least_loss() -> None:
    assert choose_penalty([(0.9, 0.1), (0.55, 0.1), (0.5, 0.1), (0.6, 0.1)]) == 1
    assert choose_penalty([(0.9, 0.01), (0.55, 0.01), (0.5, 0.01)]) == 2
