"""The packaged weights, and the choice of the linear head's penalty."""

import hashlib
import os
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from astrodetect.datasets.simulation.generator import render_image
from astrodetect.errors import ModelError
from astrodetect.images import crop_array
from astrodetect.learning import efficientnet_lite, network, torch_weights
from astrodetect.learning.linear_probe import RegularisationPath, choose_penalty
from astrodetect.learning.torch_weights import read_torch_weights
from astrodetect.recipes import GALAXIES, TEACHING_RECIPE, PixelStatistics
from astrodetect.records import ImageContract


def test_packaged_weights_give_features_that_tell_simulated_classes_apart() -> None:
    model = network.build("resnet50", 64, PixelStatistics((0.0,) * 3, (1.0,) * 3), 1)
    network.load_packaged_weights(model, "resnet50")
    pixels = np.stack([render_image(kind, seed)[80:147, 80:147] for kind in ("E", "SB") for seed in range(40)])
    backbone = keras.Model(model.input, model.get_layer("features").output)
    features = np.asarray(backbone(pixels[:, 1:65, 1:65].astype(np.float32), training=False))
    labels = np.repeat([1, 0], 40)[:, np.newaxis].astype(np.float32)
    fitted = np.arange(80) % 2 == 0
    head = RegularisationPath(features[fitted], labels[fitted], np.ones(40, np.float32)).fit(1.0)
    assert ((head.probabilities(features[~fitted])[:, 1] > 0.5) == labels[~fitted, 0]).mean() > 0.75


def test_the_recipe_for_galaxies_has_the_features_of_both_networks() -> None:
    both, middle, packaged = (
        network.build(recipe, size, PixelStatistics((0.0,) * 3, (1.0,) * 3), 1)
        for recipe, size in ((GALAXIES, 128), (TEACHING_RECIPE, 128), ("resnet50", 64))
    )
    network.load_imagenet_weights(both, GALAXIES)
    network.load_imagenet_weights(middle, TEACHING_RECIPE)
    network.load_packaged_weights(packaged, "resnet50")
    pixels = np.random.default_rng(0).uniform(0, 60, (2, 128, 128, 3)).astype(np.float32)
    half = pixels.reshape(2, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    features = [
        np.asarray(keras.Model(model.input, model.get_layer("features").output)(images, training=False))
        for model, images in ((both, pixels), (middle, pixels), (packaged, half))
    ]
    assert features[0] == pytest.approx(np.concatenate(features[1:], axis=1), abs=1e-3)


def test_installed_imagenet_weights_name_scikit_learns_photographs() -> None:
    model = network.build("efficientnet-lite0", 224, PixelStatistics((0.0,) * 3, (1.0,) * 3), 1000)
    network.load_imagenet_weights(model, "efficientnet-lite0")
    model.get_layer("score").set_weights(efficientnet_lite.imagenet_weights()[efficientnet_lite.CLASSIFIER])
    contract = ImageContract(224)
    pixels = [crop_array(load_sample_image(name), contract) for name in ("china.jpg", "flower.jpg")]
    palace, daisy = 698, 985  # ImageNet's classes
    outputs = np.asarray(model(np.stack(pixels).astype(np.float32), training=False))
    assert outputs.argmax(axis=1).tolist() == [palace, daisy]


def test_weights_files_other_than_the_published_one_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_torch_weights(file, "")
    file.write_bytes(pickle.dumps(torch_weights.MAGIC_NUMBER) + pickle.dumps(os.system))
    with pytest.raises(ModelError, match="its SHA-256 differs"):
        read_torch_weights(file, efficientnet_lite.WEIGHTS_SHA256)
    with pytest.raises(ModelError, match=r"it contains \w+.system, which weights do not need"):
        read_torch_weights(file, hashlib.sha256(file.read_bytes()).hexdigest())


def test_a_recipe_without_packaged_weights_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="no packaged weights of cnn: only of resnet50"):
        network.load_packaged_weights(keras.Sequential(), "cnn")


def test_the_penalty_is_the_largest_within_one_standard_error_of_the_least_loss() -> None:
    assert choose_penalty([(0.9, 0.1), (0.55, 0.1), (0.5, 0.1), (0.6, 0.1)]) == 1
    assert choose_penalty([(0.9, 0.01), (0.55, 0.01), (0.5, 0.01)]) == 2
