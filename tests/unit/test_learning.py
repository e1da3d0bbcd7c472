"""Network, weights, checkpoint and export, on networks small enough for a test."""

import ast
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.inference.engine import FEATURES, Engine, load_verified
from astrodetect.learning import export, network, network_training
from astrodetect.learning.batches import LearningTask
from astrodetect.learning.network_training import Checkpoint, CheckpointState
from astrodetect.learning.optimizer import AveragingAdam
from astrodetect.model_store.manifest import Manifest
from astrodetect.model_store.store import VerifiedModel
from astrodetect.recipes import PixelStatistics
from astrodetect.records import Floats, ImageContract

SIZE = 32
STATISTICS = PixelStatistics((20.0, 22.0, 24.0), (400.0, 410.0, 420.0))
CONTRACT = ImageContract(size=SIZE)
TASK = LearningTask(1, (1.0, 1.0))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    network.set_seed(1)
    return network.build("resnet50", SIZE, STATISTICS, 1)


@pytest.fixture(scope="module")
def pixels() -> Floats:
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3)).astype(np.float32)


def run(model: keras.Model, pixels: Floats) -> Floats:
    """The outputs of a network, without the compilation of `predict`."""
    return np.asarray(model(pixels, training=False))


def scores(model: keras.Model, pixels: Floats) -> Floats:
    return run(model, pixels)[:, 0]


def held_out(model: keras.Model, pixels: Floats) -> export.HeldOut:
    decoded = pixels.astype(np.uint8)
    return export.HeldOut(decoded, np.arange(len(decoded)) % 2, export.TrainedNetwork(model).probabilities(decoded))


@pytest.fixture(scope="module")
def exported(model: keras.Model, pixels: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `m`, exported; not to be modified."""
    folder = tmp_path_factory.mktemp("exported")
    export.export_model(export.TrainedNetwork(model), manifest(), folder, held_out(model, pixels))
    return folder


def manifest(name: str = "m") -> Manifest:
    return Manifest(name=name, classes=["SB", "E"], image=CONTRACT, metrics={}, data={}, settings={}, versions={})


def test_an_exported_model_opens_in_keras_and_serves_the_same_scores(
    model: keras.Model, pixels: Floats, exported: Path
) -> None:
    served = Engine(load_verified(exported, "m")).run(pixels.astype(np.uint8))
    opened = keras.models.load_model(exported / "m.h5")
    assert np.abs(scores(opened, pixels) - scores(model, pixels)).max() < 1e-6
    assert np.abs(served.scores - scores(model, pixels)).max() < 1e-4
    assert served.features.shape == (6, 2048)
    features = keras.Model(model.input, model.get_layer("features").output)
    assert np.abs(served.features - run(features, pixels)).max() < 1e-3


def test_the_mean_of_the_activation_map_gives_the_score(model: keras.Model, pixels: Floats, exported: Path) -> None:
    served = Engine(load_verified(exported, "m")).run(pixels.astype(np.uint8))
    _, bias = model.get_layer("score").get_weights()
    logits = served.maps.mean(axis=(1, 2)) + bias
    assert np.abs(1 / (1 + np.exp(-logits)) - served.scores).max() < 1e-5


def test_batch_composition_does_not_change_scores(pixels: Floats, exported: Path) -> None:
    engine = Engine(load_verified(exported, "m"))
    together = engine.run(pixels.astype(np.uint8)).scores
    alone = [engine.run(pixels[[i]].astype(np.uint8)).scores[0] for i in range(len(pixels))]
    assert np.abs(together - alone).max() < 1e-5


def test_a_network_whose_canary_score_differs_is_refused(exported: Path) -> None:
    true = load_verified(exported, "m")
    with pytest.raises(ModelError, match=r"scores its canary 0\.\d+ in f32, not 0\.999: train it again"):
        Engine(VerifiedModel(replace(true.manifest, canary_score=0.999), true.xml, true.weights))
    sick = np.full(len(true.weights) // 4, np.nan, dtype=np.float32).tobytes()
    with pytest.raises(ModelError, match="model m"):
        Engine(VerifiedModel(true.manifest, true.xml, sick))
    with pytest.raises(ModelError, match="cannot be compiled"):
        Engine(VerifiedModel(true.manifest, b"<net/>", true.weights))


def test_a_model_whose_exported_scores_differ_is_not_published(
    pixels: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MAX_SCORE_DIFFERENCE", -1.0)
    model = network.build("cnn", SIZE, STATISTICS, 1)
    with pytest.raises(ModelError, match="nothing was changed"):
        export.export_model(export.TrainedNetwork(model), manifest(), tmp_path, held_out(model, pixels))
    assert list(tmp_path.iterdir()) == []


def test_backbone_weights_load_from_a_model_of_ours(model: keras.Model, pixels: Floats, tmp_path: Path) -> None:
    model.save(tmp_path / "own.h5", include_optimizer=False)
    network.set_seed(2)
    other = network.build("resnet50", SIZE, PixelStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), 1)
    network.load_weights_file(other, "resnet50", tmp_path / "own.h5")
    other.get_layer("score").set_weights(model.get_layer("score").get_weights())
    assert np.abs(scores(other, pixels) - scores(model, pixels)).max() < 1e-6


def test_weights_published_by_keras_get_their_bgr_kernel_and_normalisation_converted(
    pixels: Floats, tmp_path: Path
) -> None:
    published = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg")
    published.save(tmp_path / "published.h5", include_optimizer=False)
    expected = run(published, keras.applications.resnet50.preprocess_input(pixels.copy()))
    ours = network.build("resnet50", SIZE, STATISTICS, 1)
    network.load_weights_file(ours, "resnet50", tmp_path / "published.h5")
    features = run(keras.Model(ours.input, ours.get_layer("features").output), pixels)
    assert np.abs(features - expected).max() <= 1e-3 * np.abs(expected).max()


def test_a_weights_file_without_a_resnet50_is_refused_in_one_line_and_changes_nothing(
    model: keras.Model, tmp_path: Path
) -> None:
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    small.save(tmp_path / "small.h5", include_optimizer=False)
    before = model.get_weights()
    for name in ("gone.h5", "text.h5", "empty.h5", "small.h5"):
        with pytest.raises(ModelError) as refused:
            network.load_weights_file(model, "resnet50", tmp_path / name)
        assert "\n" not in str(refused.value)
        assert name != "text.h5" or str(refused.value).endswith("text.h5 is not a Keras .h5 file of weights by layer")
        assert name != "gone.h5" or str(refused.value).endswith("gone.h5: no such file")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_with_a_frozen_backbone_only_the_head_is_trainable() -> None:
    frozen = network.build("resnet50", SIZE, STATISTICS, 1)
    network.freeze(frozen, 1.0)
    assert [tuple(weight.shape) for weight in frozen.trainable_weights] == [(2048, 1), (1,)]


def test_a_checkpoint_restores_weights_and_optimiser(model: keras.Model, pixels: Floats, tmp_path: Path) -> None:
    def compiled() -> keras.Model:
        small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        optimizer = AveragingAdam(0.1, use_ema=True, ema_momentum=0.5)
        small.compile(optimizer, "mse", jit_compile=False)
        return small

    x, y = np.random.default_rng(0).random((8, 4)), np.zeros((8, 1))
    first = compiled()
    average: list[Floats] = []
    for step in range(3):
        first.train_on_batch(x, y)
        share = 0.5 if step else 1
        average = [
            share * weights + (1 - share) * before
            for weights, before in zip(first.get_weights(), average or first.get_weights(), strict=True)
        ]
    checkpoint = Checkpoint(tmp_path / "run")
    state = checkpoint.save(first, CheckpointState("this", epoch=1, step=2, best_epoch=1), best=True)
    second = compiled()
    assert checkpoint.load("this") == state
    assert checkpoint.load("another") is None
    checkpoint.restore(second, state)
    first.train_on_batch(x, y)
    second.train_on_batch(x, y)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.abs(a - b).max() < 1e-7
    checkpoint.restore_best(second, state)
    for a, b in zip(second.get_weights(), average, strict=True):
        assert np.abs(a - b).max() < 1e-6
    (tmp_path / "run" / state.weights).write_bytes(b"")
    with pytest.raises(ModelError, match=r"of an interrupted run is damaged: delete .*run$"):
        checkpoint.restore(second, state)
    (tmp_path / "run" / state.best_weights).unlink()  # killed while it removed the checkpoint
    assert checkpoint.load("this") is None


def test_the_optimiser_computes_what_keras_computes(pixels: Floats) -> None:
    """Adam and the moving average, each in one pass, to the rounding of Keras's operations."""

    class Reference(AveragingAdam):
        update_step = keras.optimizers.Adam.update_step
        _update_model_variables_moving_average = keras.optimizers.Adam._update_model_variables_moving_average

    values = []
    for kind in (AveragingAdam, Reference):
        variable = keras.Variable(pixels[0, 0] / 255)
        optimizer = kind(0.1, use_ema=True, ema_momentum=0.9)
        for step in range(4):
            optimizer.apply([keras.ops.convert_to_tensor(pixels[step, 1] - 100)], [variable])
        with optimizer.averaged():
            values.append([keras.ops.convert_to_numpy(variable)])
        values[-1].append(keras.ops.convert_to_numpy(variable))
    assert values[0] == [pytest.approx(value, abs=1e-5) for value in values[1]]
    assert not np.allclose(values[0][0], values[0][1])


def small_fit(
    noise_images: Dataset,
    checkpoint: Checkpoint,
    learning_rate: float = 0.01,
    run: str = "run",
    echo: Callable[[str], None] = lambda _: None,
) -> list[dict[str, float]]:
    """A run of two epochs of five batches, with a network that takes no time."""
    network.set_seed(0)
    layers = keras.layers
    tiny = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(1, "sigmoid"),
        ]
    )
    learn, validation = noise_images.split(0.1, 0)
    return network_training.fit_network(
        tiny,
        learn,
        validation,
        contract=CONTRACT,
        task=LearningTask(1, (0.5, 2.0)),
        stage=network_training.TrainingStage(
            epochs=2, batch_size=4, learning_rate=learning_rate, seed=0, augment=True, patience=9
        ),
        checkpoint=checkpoint,
        run=run,
        echo=echo,
    )


@contextmanager
def stops_at(time_asked: int) -> Iterator[Callable[[], bool]]:
    """Ctrl-C comes before a run looks for it this many times: after every batch, and after every epoch."""
    asked = itertools.count(1)
    yield lambda: next(asked) >= time_asked


@pytest.fixture(scope="module")
def uninterrupted(noise_images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The metrics of a run that nothing interrupts."""
    return small_fit(noise_images, Checkpoint(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize(("stop", "where"), [(1, (0, 1)), (4, (0, 4)), (5, (0, 5)), (6, (1, 0)), (8, (1, 2))])
def test_a_run_interrupted_at_any_point_resumes_to_the_same_metrics(  # noqa: PLR0917 - fixtures
    uninterrupted: list[dict[str, float]],
    noise_images: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    where: tuple[int, int],
) -> None:
    cut = Checkpoint(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(network_training, "_stop_requests", lambda: stops_at(stop))
        with pytest.raises(network_training.TrainingStopped):
            small_fit(noise_images, cut)
    state = cut.load("run")
    assert state is not None
    assert (state.epoch, state.step) == where
    resumed = small_fit(noise_images, cut)
    assert len(resumed) == 2
    for a, b in zip(uninterrupted, resumed, strict=True):
        for name in ("log_loss", "train_loss"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_a_network_is_trained_in_any_thread(
    uninterrupted: list[dict[str, float]], noise_images: Dataset, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        assert len(pool.submit(small_fit, noise_images, Checkpoint(tmp_path)).result()) == len(uninterrupted)


def test_a_run_with_other_options_than_the_interrupted_one_says_that_it_starts_anew(
    noise_images: Dataset, tmp_path: Path
) -> None:
    messages: list[str] = []
    for run in ("run", "run", "other"):
        small_fit(noise_images, Checkpoint(tmp_path), run=run, echo=messages.append)
    assert [line.partition(":")[0].partition(" from")[0] for line in messages if "run" in line] == [
        "resuming the interrupted run",
        "the interrupted run had other options, images or software, or was incomplete",
    ]


def test_a_training_that_diverges_is_reported_and_its_checkpoint_removed(noise_images: Dataset, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run")
    with pytest.raises(ModelError, match="lower --learning-rate"):
        small_fit(noise_images, checkpoint, learning_rate=float("nan"))
    assert checkpoint.load("run") is None


def test_a_checkpoint_keeps_only_the_last_and_the_best_weights(tmp_path: Path) -> None:
    tiny = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    tiny.compile(AveragingAdam(use_ema=True), "mse", jit_compile=False)
    tiny.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
    checkpoint = Checkpoint(tmp_path)
    state = CheckpointState("run")
    for epoch in range(1, 6):
        state = CheckpointState("run", epoch=epoch, best_epoch=2, best_weights=state.best_weights)
        state = checkpoint.save(tiny, state, best=epoch == 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "average-epoch-2-step-0.weights.h5",
        "epoch-5-step-0.weights.h5",
        "state.json",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "this"', json.dumps({"run": "this", "unknown": 1})])
def test_a_truncated_checkpoint_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert Checkpoint(tmp_path).load("this") is None


def test_tensorflow_computes_with_onednn_on_every_processor() -> None:
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"


def test_only_keras_runtime_imports_keras_and_tensorflow() -> None:
    importers = set()
    for path in Path(export.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importers |= {path.name for name in names if name.split(".")[0] in {"keras", "tensorflow"}}
    assert importers == {"keras_runtime.py"}


def test_the_small_network_starts_from_all_its_features(tmp_path: Path) -> None:
    source, target = (network.build("cnn", SIZE, STATISTICS, outputs) for outputs in (1, 3))
    source.save(tmp_path / "own.h5", include_optimizer=False)
    network.load_weights_file(target, "cnn", tmp_path / "own.h5")
    for stored, loaded in zip(*(model.get_layer(FEATURES).get_weights() for model in (source, target)), strict=True):
        np.testing.assert_array_equal(stored, loaded)
