"""What learns: every recipe becomes a bundle that serves what was learnt, and explains it."""

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
from astrodetect.datasets import dataset
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.images import orient
from astrodetect.inference.engine import Engine
from astrodetect.learning import export, forest, linear_probe, logistic_head, network, training
from astrodetect.learning.backbones import PixelStatistics
from astrodetect.learning.batches import LearningTask
from astrodetect.model_store import store as bundle
from astrodetect.model_store.store import Manifest
from astrodetect.records import ImageContract, Outputs

SIZE = 40
CLASSES = ["dark", "grey", "light"]
CONTRACT = ImageContract(size=SIZE)
STANDARD = PixelStatistics((100.0,) * 3, (4000.0,) * 3)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
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


@pytest.fixture(scope="module")
def pixels(catalogue: Dataset) -> NDArray[np.uint8]:
    return training.read_pixels(catalogue, CONTRACT)


def plan(recipe: str, **changes: object) -> training.TrainingPlan:
    made = training.TrainingPlan(
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
        balance=False,
        smoothing=0.0,
        mixed_precision=None,
        seed=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def published(
    model: export.TrainedModel, catalogue: Dataset, pixels: NDArray[np.uint8], folder: Path, recipe: str = "resnet50"
) -> Outputs:
    """What serves says of the images, after it was published."""
    binary = len(catalogue.classes) == 2
    manifest = Manifest(
        name="m",
        classes=list(catalogue.classes),
        image=CONTRACT,
        metrics={},
        data={},
        settings={},
        versions={},
        task="binary" if binary else "classes",
        recipe=recipe,
    )
    export.publish(model, manifest, folder, export.HeldOut(pixels, catalogue.labels, model.probabilities(pixels)))
    return Engine(bundle.load(folder, "m")).run_all(pixels)


def two_classes(catalogue: Dataset) -> Dataset:
    return replace(catalogue.subset(np.flatnonzero(catalogue.labels < 2)), classes=("dark", "grey"))


@pytest.mark.parametrize(
    ("recipe", "answers"), [*((recipe, 3) for recipe in network.RECIPES), ("resnet50", 1), ("cnn", 1)]
)
def test_a_network_serves_what_keras_says_and_its_map_adds_up_to_what_was_said(
    recipe: str, answers: int, catalogue: Dataset, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    network.set_seed(1)
    keras_model = network.build(recipe, SIZE, STANDARD, answers)
    shaken = np.random.default_rng(0)  # fresh scales of zero would leave whole blocks untested
    for layer in network.backbone(keras_model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([weight + shaken.uniform(0, 0.5, weight.shape) for weight in layer.get_weights()])
    some = catalogue.subset(np.arange(0, 60, 6)) if answers == 3 else two_classes(catalogue).subset(np.arange(0, 40, 4))
    served = published(export.TrainedNetwork(keras_model), some, pixels[::6][: len(some)], tmp_path)
    said = keras_model.predict(pixels[::6][: len(some)], verbose=0)
    assert np.abs(served.probabilities[:, -answers:] - said).max() < 1e-4
    kernel, bias = keras_model.get_layer("score").get_weights()
    logits = served.features @ kernel + bias
    if answers == 1:
        expected = logits[:, 0] - bias[0]
    else:
        winner = logits.argmax(axis=1)
        against = logits - logits.mean(axis=1, keepdims=True)
        expected = against[np.arange(len(some)), winner] - (bias - bias.mean())[winner]
    if recipe == network.CNN:  # of a dense layer on all places: their sum, less what its own bias adds
        inner = keras_model.get_layer("features").get_weights()[1]
        ways = kernel[:, 0] if answers == 1 else (kernel - kernel.mean(axis=1, keepdims=True)).T[winner]
        found = served.maps.sum(axis=(1, 2)) + ((served.features > 0) * inner * ways).sum(axis=1)
    else:
        found = served.maps.mean(axis=(1, 2))
    assert found == pytest.approx(expected, abs=2e-3 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("binary", [True, False])
def test_a_forest_serves_what_its_trees_say_and_says_where_they_looked(
    catalogue: Dataset, pixels: NDArray[np.uint8], tmp_path: Path, *, binary: bool
) -> None:
    some = two_classes(catalogue) if binary else catalogue
    pixels = pixels[: len(some)]
    grown = forest.fit(pixels, some.labels, seed=0, balance=False, augment=False, binary=binary)
    expected = RandomForestClassifier(forest.TREES, criterion="entropy", random_state=0).fit(
        forest.grey(pixels), some.labels
    )
    votes = expected.predict_proba(forest.grey(pixels))
    served = published(grown, some, pixels, tmp_path, "forest")
    floor = forest.SMALLEST_SHARE / forest.TREES
    assert served.probabilities == pytest.approx(votes.clip(floor) / votes.clip(floor).sum(1, keepdims=True), abs=1e-5)
    winner, rows = votes.argmax(axis=1), np.arange(len(some))
    start = np.mean([tree.tree_.value[0, 0] for tree in expected.estimators_], axis=0)
    mapped = np.ones_like(winner) if binary else winner
    assert served.maps.sum(axis=(1, 2)) == pytest.approx(votes[rows, mapped] - start[mapped], abs=1e-4)
    assert served.features.reshape(len(some), forest.TREES, -1).mean(axis=1) == pytest.approx(votes, abs=1e-5)
    for precision, complaint in (("bf16", "whose comparisons need float32"), ("int8", "has no int8 network")):
        with pytest.raises(ModelError, match=complaint):
            bundle.load(tmp_path, "m", precision)  # type: ignore[arg-type]
    grown.calibrate(2.0)
    flatter = published(grown, some, pixels, tmp_path / "calibrated").probabilities
    assert flatter.max() < served.probabilities.max()
    assert np.array_equal(flatter.argmax(axis=1), served.probabilities.argmax(axis=1))


def test_a_calibrated_network_says_the_same_less_surely_and_so_does_what_serves(
    catalogue: Dataset, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    network.set_seed(1)
    model = export.TrainedNetwork(network.build("cnn", SIZE, STANDARD, 3))
    before = model.probabilities(pixels)
    model.calibrate(4.0)
    expected = np.log(before) / 4
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert published(model, catalogue, pixels, tmp_path).probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_head_found_on_features_is_the_best_there_is(outputs: int) -> None:
    random = np.random.default_rng(0)
    features = random.normal(5, 3, (300, 6)).astype(np.float32)
    features[:, 5] = 7  # says nothing
    truth = (features[:, :3] + random.normal(0, 3, (300, 3))).argmax(axis=1)
    labels = (truth > 0).astype(np.int64) if outputs == 1 else truth
    task = LearningTask(outputs, (1.0, 2.0) if outputs == 1 else (1.0, 2.0, 1.0))
    path = logistic_head.RegularisationPath(features, task.answers(labels), task.weigh(labels))
    found = [path.head(strength) for strength in (1.0, 0.1, 0.01)][-1].probabilities(features)
    weights = task.weigh(labels)
    spread = np.where(features.std(axis=0) > 1e-3, features.std(axis=0), 1)
    scaled = (features - features.mean(axis=0)) / spread
    peer = LogisticRegression(C=1 / (0.01 * weights.sum()), max_iter=1000).fit(scaled, labels, sample_weight=weights)
    assert found == pytest.approx(peer.predict_proba(scaled), abs=5e-3)


def fitted(catalogue: Dataset, store: Path, *, augment: bool = True) -> tuple[keras.Model, list[dict[str, float]]]:
    network.set_seed(0)
    model = network.build("cnn", SIZE, STANDARD, 3)
    learn, validation = catalogue.split(0.2, 0)
    history = linear_probe.fit_head(
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


def test_a_head_on_stored_features_is_the_networks_own(
    catalogue: Dataset, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    model, history = fitted(catalogue, tmp_path)
    said = model.predict(pixels, verbose=0)
    assert (said.argmax(axis=1) == catalogue.labels).mean() > 0.9
    best = min(history, key=lambda strength: strength["watched_loss"])
    _, validation = catalogue.split(0.2, 0)
    own = model.predict(training.read_pixels(validation, CONTRACT), verbose=0)
    surprise = -np.log(own[np.arange(len(own)), validation.labels]).mean()
    assert surprise == pytest.approx(best["watched_loss"], abs=0.02)  # the features were computed in fewer bits


def test_features_hold_every_image_in_every_view_and_outlive_the_process(
    catalogue: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(linear_probe, "features_engine", lambda *_: _Looker(looks.append))
    network.set_seed(0)
    model = network.build("cnn", SIZE, STANDARD, 3)
    features = linear_probe._Features(model, CONTRACT, tmp_path, "run")
    found = features.of(catalogue, 2, "some features")
    assert found.shape == (120, 128)
    expected = np.stack(
        [orient(pixels, view) for view in range(2) for pixels in training.read_pixels(catalogue, CONTRACT)]
    )
    assert np.array_equal(found[:, 0], expected.reshape(120, -1).mean(axis=1, dtype=np.float32))
    looked = len(looks)
    again = linear_probe._Features(model, CONTRACT, tmp_path, "run").of(catalogue, 2, "some features")
    assert np.array_equal(again, found)
    assert len(looks) == looked  # none was computed again
    linear_probe._Features(model, CONTRACT, tmp_path, "another run").of(catalogue, 2, "some features")
    assert len(looks) == 2 * looked


class _Looker:
    """An engine whose features tell which pixels it saw."""

    streams = 2

    def __init__(self, looked: Callable[[NDArray[np.uint8]], None]) -> None:
        self._looked = looked

    def run(self, pixels: NDArray[np.uint8]) -> Outputs:
        self._looked(pixels)
        features = np.zeros((len(pixels), 128), dtype=np.float32)
        features[:, 0] = pixels.reshape(len(pixels), -1).mean(axis=1, dtype=np.float32)
        return Outputs(features[:, :2], features, features[:, :1, np.newaxis])


def test_fine_tuning_trains_the_head_then_half_of_the_backbone_then_all_of_it(
    catalogue: Dataset, tmp_path: Path
) -> None:
    learn, validation = catalogue.split(0.2, 0)
    network.set_seed(4)
    network.build("cnn", SIZE, STANDARD, 3).save(tmp_path / "start.h5", include_optimizer=False)
    said: list[str] = []
    learnt = training.learn(
        plan("cnn", weights=str(tmp_path / "start.h5"), fine_tune=True),
        learn,
        validation,
        store=tmp_path / "store",
        run="run",
        say=said.append,
    )
    assert learnt.adopted
    assert [line for line in said if "fine-tuning" in line] == [
        "fine-tuning the last 50% of the backbone",
        "fine-tuning all of the backbone",
    ]
    strengths = [measured for measured in learnt.history if "strength" in measured]
    assert len(learnt.history) == len(strengths) + 2


def test_what_was_learnt_in_mixed_precision_is_published_in_float32(catalogue: Dataset, tmp_path: Path) -> None:
    learn, validation = catalogue.split(0.2, 0)
    learnt = training.learn(
        plan("cnn", mixed_precision=True), learn, validation, store=tmp_path, run="run", say=lambda _: None
    )
    assert isinstance(learnt.model, export.TrainedNetwork)
    assert {layer.compute_dtype for layer in learnt.model.keras.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    assert learnt.history[0]["log_loss"] > 0
