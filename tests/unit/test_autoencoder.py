"""The study's autoencoder: fitted by Keras, scored by NumPy, with the same results."""

from pathlib import Path

import keras
import numpy as np
import pytest

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.novelty import Novelty
from astrodetect.errors import DataError, ModelError
from astrodetect.learning import autoencoder
from astrodetect.records import Floats


def images(count: int, seed: int = 0, width: int = 80) -> Floats:
    ways = np.random.default_rng(99).normal(size=(6, width))
    return np.asarray(np.random.default_rng(seed).normal(size=(count, 6)) @ ways, np.float32)


@pytest.fixture(scope="module")
def fitted() -> Autoencoder:
    detector = autoencoder.fit_autoencoder(images(300), epochs=20)
    assert [kernel.shape[1] for kernel in detector.kernels] == [len(bias) for bias in detector.biases] == [64, 80]
    return detector


def reconstruction_errors(detector: Autoencoder, rows: Floats) -> Floats:
    return Novelty.fit(images(300), names=(), extra=[detector]).score(rows).scores["autoencoder"]


def test_numpy_reconstruction_error_matches_keras(fitted: Autoencoder) -> None:
    widths = [kernel.shape[1] for kernel in fitted.kernels]
    layers = [keras.layers.Dense(width, activation="relu") for width in widths[:-1]] + [keras.layers.Dense(widths[-1])]
    network = keras.Sequential([keras.Input((80,)), *layers])
    network.set_weights([array for pair in zip(fitted.kernels, fitted.biases, strict=True) for array in pair])
    rows = np.concatenate([images(40, 1), 3 * images(10, 2)])
    standard = fitted.scaling.transform(rows)
    losses = ((np.asarray(network(standard)) - standard) ** 2).mean(axis=1)
    assert np.allclose(reconstruction_errors(fitted, rows), losses, rtol=1e-5, atol=1e-5)


def test_autoencoder_reconstructs_inliers_better_than_noise(fitted: Autoencoder) -> None:
    random = np.random.default_rng(5).normal(size=(20, 80)).astype(np.float32) * images(300).std(axis=0)
    inliers = reconstruction_errors(fitted, images(100, 1))
    assert inliers.mean() < 0.8  # 1 is the error of predicting the mean
    assert reconstruction_errors(fitted, random).mean() > 1.3 * inliers.mean()


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (2048, [1024, 512, 256, 128, 64, 128, 256, 512, 1024, 2048]),
        (366, [256, 128, 64, 128, 256, 366]),
        (40, [20, 40]),
    ],
)
def test_autoencoder_layer_widths_are_those_of_the_study_below_the_feature_width(width: int, widths: list[int]) -> None:
    assert [layer.units for layer in autoencoder._network(width).layers] == widths


def test_autoencoder_depends_only_on_the_seed() -> None:
    first, same_seed, other_seed = (
        autoencoder.fit_autoencoder(images(64, width=20), epochs=2, seed=seed) for seed in (4, 4, 5)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first.kernels, same_seed.kernels, strict=True))
    assert not np.array_equal(first.kernels[0], other_seed.kernels[0])


def test_autoencoder_is_saved_with_other_detectors_and_flags_beyond_the_tukey_fence(
    fitted: Autoencoder, tmp_path: Path
) -> None:
    novelty = Novelty.fit(images(300), names=("kmeans", "dbscan"), extra=[fitted])
    novelty.save(tmp_path / "kept.npz")
    loaded = Novelty.load((tmp_path / "kept.npz").read_bytes())
    assert loaded.names == ("kmeans", "dbscan", "autoencoder")
    rows = np.concatenate([images(50, 1), 8 * images(10, 2)])
    together = loaded.score(rows)
    alone = np.concatenate([loaded.score(rows[i : i + 1]).scores["autoencoder"] for i in range(60)])
    assert np.allclose(alone, together.scores["autoencoder"], rtol=1e-5)
    assert np.array_equal(together.scores["autoencoder"], novelty.score(rows).scores["autoencoder"])
    training = reconstruction_errors(fitted, images(300))
    low, high = np.percentile(training, (25, 75))
    flagged = together.scores["autoencoder"] > high + 1.5 * (high - low)
    assert np.array_equal(together.flagged["autoencoder"], flagged)
    assert flagged[50:].all()
    assert not flagged[:50].all()


def test_autoencoder_with_another_output_width_is_refused(fitted: Autoencoder, tmp_path: Path) -> None:
    cut = Autoencoder(fitted.scaling, fitted.kernels[:-1], fitted.biases[:-1])
    novelty = Novelty.fit(images(300), extra=[fitted])
    novelty._detectors = (*novelty._detectors[:-1], cut)
    novelty.save(tmp_path / "cut.npz")
    with pytest.raises(ModelError, match="the output of its autoencoder has another width"):
        Novelty.load((tmp_path / "cut.npz").read_bytes())


def test_autoencoder_refuses_identical_images() -> None:
    with pytest.raises(DataError, match="all training images are identical"):
        autoencoder.fit_autoencoder(np.ones((20, 80), np.float32))
