"""Recipes: the registry, and every recipe trained, exported and served with the scores that it had in training."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from astrodetect import images
from astrodetect.cli import train_options
from astrodetect.datasets import dataset
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.evaluation.calibration import Calibration
from astrodetect.images import orient
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.learning import export, forest, linear_probe, network, training
from astrodetect.learning.batches import LearningTask
from astrodetect.model_store.manifest import Manifest
from astrodetect.recipes import GALAXIES, RECIPES, PixelStatistics
from astrodetect.records import ImageContract, Outputs
from astrodetect.settings import ROOT

SIZE = 40
CLASSES = ["dark", "grey", "light"]
CONTRACT = ImageContract(size=SIZE)
STATISTICS = PixelStatistics((100.0,) * 3, (4000.0,) * 3)


@pytest.fixture(scope="module")
def blob_images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes that differ in brightness, and a blob somewhere."""
    random, folder = np.random.default_rng(3), tmp_path_factory.mktemp("images")
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for image in range(20):
            pixels = random.integers(0, 70 + 60 * number, (SIZE, SIZE, 3), dtype=np.uint8)
            y, x = random.integers(4, SIZE - 12, 2)
            pixels[y : y + 8, x : x + 8] = 250
            images.write_jpeg(folder / name / f"{image:02}.jpg", pixels)
    return dataset.read_dataset(folder, CLASSES, title="images")


LARGE = {"resnet50", "efficientnetv2-b0", "convnext-tiny"}  # the first is also in test_learning
NETWORKS = [  # without `galaxies`, whose two networks are recipes of their own
    pytest.param(recipe.name, 3, marks=[pytest.mark.long] if recipe.name in LARGE else [])
    for recipe in RECIPES.values()
    if recipe.kind != "forest" and recipe.name != GALAXIES
]


@pytest.fixture(scope="module")
def pixels(blob_images: Dataset) -> NDArray[np.uint8]:
    return training.read_pixels(blob_images, CONTRACT)


def plan(recipe: str, **changes: object) -> training.TrainingPlan:
    default = training.TrainingPlan(
        recipe=recipe,
        binary=False,
        contract=CONTRACT,
        weights="none",
        fine_tune=False,
        epochs=1,
        patience=3,
        batch_size=8,
        learning_rate=1e-3,
        augment=False,
        views=1,
        balance=False,
        smoothing=0.0,
        mixed_precision=None,
        seed=0,
    )
    return replace(default, **changes)  # type: ignore[arg-type]


def published(
    model: export.TrainedModel, blob_images: Dataset, pixels: NDArray[np.uint8], folder: Path, recipe: str = "resnet50"
) -> Outputs:
    """The outputs of the published model for the images."""
    binary = len(blob_images.classes) == 2
    manifest = Manifest(
        name="m",
        classes=list(blob_images.classes),
        image=CONTRACT,
        metrics={},
        data={},
        settings={},
        versions={},
        task="binary" if binary else "classes",
        recipe=recipe,
    )
    export.export_model(
        model, manifest, folder, export.HeldOut(pixels, blob_images.labels, model.probabilities(pixels))
    )
    return Engine(load_verified(folder, "m")).run_all(pixels)


def two_classes(blob_images: Dataset) -> Dataset:
    return replace(blob_images.subset(np.flatnonzero(blob_images.labels < 2)), classes=("dark", "grey"))


def test_the_recipes_of_the_command_line_are_those_of_the_registry() -> None:
    for recipe in RECIPES.values():
        arguments = train_options.parse_train_options(["--recipe", recipe.name], None)
        defaults = (*train_options.RECIPE_DEFAULTS, "learning_rate", "threshold")
        assert [getattr(arguments, name) for name in defaults] == [getattr(recipe, name) for name in defaults]
        if recipe.kind != "forest":
            arguments = train_options.parse_train_options(["--recipe", recipe.name, "--fine-tune"], None)
            assert arguments.learning_rate == recipe.fine_tuning_rate
    for refused in (["--recipe", "transformer"], ["--recipe", "forest", "--fine-tune"], ["--seed", str(2**32)]):
        with pytest.raises(SystemExit):
            train_options.parse_train_options(refused, None)


def test_galaxies_balances_classes_and_averages_views_unless_told_otherwise() -> None:
    def options(*given: str) -> tuple[str, int, str]:
        arguments = train_options.parse_train_options(["--recipe", GALAXIES, *given], None)
        return arguments.class_weights, arguments.views, arguments.threshold

    assert options() == ("balanced", 8, "prevalence")
    assert options("--class-weights", "none", "--views", "1", "--threshold", "0.4") == ("none", 1, "0.4")
    assert options("--classes", "all") == ("balanced", 8, "0.5")  # the most probable class is predicted


def test_the_help_of_training_describes_every_recipe_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_options.parse_train_options(["--help"], None)
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # lines are broken at hyphens too
    for recipe in RECIPES.values():
        assert f"{recipe.name}: {recipe.description}" in text
    assert "(default: 227; efficientnet-lite0 and efficientnet-lite0-mid and galaxies 128; cnn and forest 100)" in text
    assert "(default: 5; efficientnet-lite0 and efficientnet-lite0-mid and galaxies 12; cnn 80)" in text


def test_the_registry_of_recipes_needs_no_keras() -> None:
    code = "import sys, astrodetect.cli.train_options; sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_recipe_has_a_backbone_where_it_is_a_network() -> None:
    assert {recipe.name for recipe in RECIPES.values() if recipe.backbone} == {
        recipe.name for recipe in RECIPES.values() if recipe.kind == "network"
    }


@pytest.mark.parametrize(("recipe", "outputs"), [*NETWORKS, ("cnn", 1)])
def test_an_exported_network_scores_as_keras_does_and_its_activation_map_sums_to_the_logit(
    recipe: str, outputs: int, blob_images: Dataset, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    network.set_seed(1)
    keras_model = network.build(recipe, SIZE, STATISTICS, outputs)
    random = np.random.default_rng(0)  # initial scales of zero would leave whole blocks untested
    for layer in network.backbone_layers(keras_model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([weight + random.uniform(0, 0.2, weight.shape) for weight in layer.get_weights()])
    labelled = blob_images if outputs == 3 else two_classes(blob_images)
    sample = labelled.subset(np.arange(0, len(labelled), len(labelled) // 10))
    served = published(export.TrainedNetwork(keras_model), sample, pixels[::6][: len(sample)], tmp_path)
    predicted = np.asarray(keras_model(pixels[::6][: len(sample)], training=False))
    assert np.abs(served.probabilities[:, -outputs:] - predicted).max() < 1e-4
    kernel, bias = keras_model.get_layer("score").get_weights()
    logits = served.features @ kernel + bias
    if outputs == 1:
        expected = logits[:, 0] - bias[0]
    else:
        winner = logits.argmax(axis=1)
        relative = logits - logits.mean(axis=1, keepdims=True)
        expected = relative[np.arange(len(sample)), winner] - (bias - bias.mean())[winner]
    if recipe == "cnn":  # of a dense layer on all cells: their sum, less what its own bias adds
        inner_bias = keras_model.get_layer("features").get_weights()[1]
        gradients = kernel[:, 0] if outputs == 1 else (kernel - kernel.mean(axis=1, keepdims=True)).T[winner]
        mapped = served.maps.sum(axis=(1, 2)) + ((served.features > 0) * inner_bias * gradients).sum(axis=1)
    else:
        mapped = served.maps.mean(axis=(1, 2))
    assert mapped == pytest.approx(expected, abs=2e-3 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("binary", [True, False])
def test_an_exported_forest_scores_as_scikit_learn_does_and_its_map_sums_to_the_change_of_the_vote(
    blob_images: Dataset, pixels: NDArray[np.uint8], tmp_path: Path, *, binary: bool
) -> None:
    labelled = two_classes(blob_images) if binary else blob_images
    pixels = pixels[: len(labelled)]
    trained = forest.fit_forest(pixels, labelled.labels, seed=0, balance=False, augment=False, binary=binary)
    expected = RandomForestClassifier(forest.TREE_COUNT, criterion="entropy", random_state=0).fit(
        forest.to_luminance(pixels), labelled.labels
    )
    votes = expected.predict_proba(forest.to_luminance(pixels))
    served = published(trained, labelled, pixels, tmp_path, "forest")
    floor = forest.MIN_TREES / forest.TREE_COUNT
    assert served.probabilities == pytest.approx(votes.clip(floor) / votes.clip(floor).sum(1, keepdims=True), abs=1e-5)
    winner, rows = votes.argmax(axis=1), np.arange(len(labelled))
    start = np.mean([tree.tree_.value[0, 0] for tree in expected.estimators_], axis=0)
    mapped = np.ones_like(winner) if binary else winner
    assert served.maps.sum(axis=(1, 2)) == pytest.approx(votes[rows, mapped] - start[mapped], abs=1e-4)
    assert served.features.reshape(len(labelled), forest.TREE_COUNT, -1).mean(axis=1) == pytest.approx(votes, abs=1e-5)
    for precision, complaint in (("bf16", "whose comparisons need float32"), ("int8", "has no int8 network")):
        with pytest.raises(ModelError, match=complaint):
            load_verified(tmp_path, "m", precision)  # type: ignore[arg-type]
    trained.calibrate(Calibration(2.0, (0.0,) * len(labelled.classes)))
    flatter = published(trained, labelled, pixels, tmp_path / "calibrated").probabilities
    assert flatter.max() < served.probabilities.max()
    assert np.array_equal(flatter.argmax(axis=1), served.probabilities.argmax(axis=1))


@pytest.mark.parametrize("binary", [True, False])
def test_calibration_of_a_network_reaches_its_exported_scores(
    blob_images: Dataset, pixels: NDArray[np.uint8], tmp_path: Path, *, binary: bool
) -> None:
    network.set_seed(1)
    labelled = two_classes(blob_images) if binary else blob_images
    pixels = pixels[: len(labelled)]
    model = export.TrainedNetwork(network.build("cnn", SIZE, STATISTICS, 1 if binary else 3))
    calibration = Calibration(4.0, (-0.3, 0.5) if binary else (0.1, 0.4, -0.5))
    expected = calibration.apply(model.probabilities(pixels))
    model.calibrate(calibration)
    assert published(model, labelled, pixels, tmp_path).probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_linear_probe_finds_the_optimum_that_scikit_learn_finds(outputs: int) -> None:
    random = np.random.default_rng(0)
    features = random.normal(5, 3, (300, 6)).astype(np.float32)
    features[:, 5] = 7  # constant
    truth = (features[:, :3] + random.normal(0, 3, (300, 3))).argmax(axis=1)
    labels = (truth > 0).astype(np.int64) if outputs == 1 else truth
    task = LearningTask(outputs, (1.0, 2.0) if outputs == 1 else (1.0, 2.0, 1.0))
    path = linear_probe.RegularisationPath(features, task.targets(labels), task.sample_weights(labels))
    probabilities = [path.fit(penalty) for penalty in (1.0, 0.1, 0.01)][-1].probabilities(features)
    weights = task.sample_weights(labels)
    std = np.where(features.std(axis=0) > 1e-3, features.std(axis=0), 1)
    scaled = (features - features.mean(axis=0)) / std
    peer = LogisticRegression(C=1 / (0.01 * weights.sum()), max_iter=1000).fit(scaled, labels, sample_weight=weights)
    assert probabilities == pytest.approx(peer.predict_proba(scaled), abs=5e-3)


def fit_probe(blob_images: Dataset, store: Path, *, augment: bool = True) -> tuple[keras.Model, list[dict[str, float]]]:
    network.set_seed(0)
    model = network.build("cnn", SIZE, STATISTICS, 3)
    learn, validation = blob_images.split(0.2, 0)
    history = linear_probe.fit_linear_probe(
        model,
        learn,
        validation,
        contract=CONTRACT,
        task=LearningTask(3, (1.0, 1.0, 1.0)),
        augment=augment,
        smoothing=0.0,
        store=store,
        run="run",
    )
    return model, history


def test_a_head_fitted_to_stored_features_gives_the_network_the_same_validation_loss(
    blob_images: Dataset, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    model, history = fit_probe(blob_images, tmp_path)
    predicted = model.predict(pixels, verbose=0)
    assert (predicted.argmax(axis=1) == blob_images.labels).mean() > 0.9
    best = min(history, key=lambda strength: strength["watched_loss"])
    _, validation = blob_images.split(0.2, 0)
    own = model.predict(training.read_pixels(validation, CONTRACT), verbose=0)
    log_loss = -np.log(own[np.arange(len(own)), validation.labels]).mean()
    assert log_loss == pytest.approx(best["watched_loss"], abs=0.02)  # the features were computed in fewer bits


def test_stored_features_cover_every_image_in_every_orientation_and_are_reused_by_the_same_run(
    blob_images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(linear_probe, "features_engine", lambda *_: _RecordingEngine(batches.append))
    network.set_seed(0)
    model = network.build("cnn", SIZE, STATISTICS, 3)
    features = linear_probe._FeatureStore(model, CONTRACT, tmp_path, "run")
    first = features.of(blob_images, 2, "features")
    assert first.shape == (120, 128)
    expected = np.stack(
        [orient(pixels, view) for view in range(2) for pixels in training.read_pixels(blob_images, CONTRACT)]
    )
    assert np.array_equal(first[:, 0], expected.reshape(120, -1).mean(axis=1, dtype=np.float32))
    computed = len(batches)
    again = linear_probe._FeatureStore(model, CONTRACT, tmp_path, "run").of(blob_images, 2, "features")
    assert np.array_equal(again, first)
    assert len(batches) == computed  # none was computed again
    linear_probe._FeatureStore(model, CONTRACT, tmp_path, "another run").of(blob_images, 2, "features")
    assert len(batches) == 2 * computed
    (tmp_path / "features.npy").write_bytes(b"")
    again = linear_probe._FeatureStore(model, CONTRACT, tmp_path, "another run").of(blob_images, 2, "features")
    assert again.shape == first.shape


class _RecordingEngine:
    """An engine whose first feature is the mean of the pixels it got."""

    streams = 2

    def __init__(self, record: Callable[[NDArray[np.uint8]], None]) -> None:
        self._record = record

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        self._record(pixels)
        features = np.zeros((len(pixels), 128), dtype=np.float32)
        features[:, 0] = pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float32)
        return Outputs(features[:, :2], features, features[:, :1, np.newaxis])


def test_fine_tuning_trains_the_head_then_half_of_the_backbone_then_all_of_it(
    blob_images: Dataset, tmp_path: Path
) -> None:
    learn, validation = blob_images.split(0.2, 0)
    network.set_seed(4)
    network.build("cnn", SIZE, STATISTICS, 3).save(tmp_path / "start.h5", include_optimizer=False)
    messages: list[str] = []
    result = training.run_training(
        plan("cnn", weights=str(tmp_path / "start.h5"), fine_tune=True),
        learn,
        validation,
        store=tmp_path / "store",
        run="run",
        echo=messages.append,
    )
    assert result.adopted
    assert [line for line in messages if "fine-tuning" in line] == [
        "fine-tuning the last 50% of the backbone",
        "fine-tuning all of the backbone",
    ]
    penalties = [metrics for metrics in result.history if "strength" in metrics]
    assert len(result.history) == len(penalties) + 2


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_network_trained_in_mixed_precision_is_exported_in_float32(
    blob_images: Dataset, tmp_path: Path, pretrained: bool
) -> None:
    learn, validation = blob_images.split(0.2, 0)
    start = tmp_path / "start.h5"
    if pretrained:
        network.build("cnn", SIZE, STATISTICS, 3).save(start, include_optimizer=False)
    mixed = plan("cnn", mixed_precision=True, weights=str(start) if pretrained else "none")
    result = training.run_training(mixed, learn, validation, store=tmp_path, run="run", echo=lambda _: None)
    assert isinstance(result.model, export.TrainedNetwork)
    model = result.model.keras
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    assert result.history[0]["log_loss"] > 0
    if pretrained:  # which images are normalised by what the weights were made with
        assert np.ravel(model.get_layer("normalisation").mean) == pytest.approx(STATISTICS.mean)
