"""Training by recipe: a network (linear probe, fine-tuning, or from scratch) or a random forest."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.evaluation.calibration import Calibration, fit_calibration
from astrodetect.learning import forest, linear_probe, network, network_training
from astrodetect.learning.batches import LearningTask
from astrodetect.learning.export import TrainedModel, TrainedNetwork
from astrodetect.learning.keras_runtime import accelerators, data_parallel, dtype_policy, keras
from astrodetect.progress import ProgressBar
from astrodetect.recipes import RECIPES
from astrodetect.records import Floats, ImageContract, Pixels

FROM_SCRATCH_STAGES = ((0.0, 1.0),)  # frozen share of the backbone, factor of the learning rate
READ_BATCH = 256

EpochsCallback = Callable[[Sequence[dict[str, float]]], None]


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The settings of a training run."""

    recipe: str
    binary: bool
    contract: ImageContract
    weights: str  # imagenet, packaged, none, or a file
    fine_tune: bool
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    augment: bool
    views: int  # orientations of each image that the model's outputs are averaged over
    balance: bool  # weight the classes inversely to their frequency
    smoothing: float
    mixed_precision: bool | None  # None: on accelerators
    seed: int


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained model and its history."""

    model: TrainedModel
    history: list[dict[str, float]]  # validation metrics of each L2 penalty of the linear probe, and of each epoch
    adopted: bool  # whether training started from pretrained weights


def run_training(
    plan: TrainingPlan,
    train: Dataset,
    validation: Dataset,
    *,
    store: Path,
    run: str,
    echo: Callable[[str], None],
    on_epoch: EpochsCallback = lambda _: None,
) -> TrainingResult:
    """Train as planned; `store` holds the checkpoints of an interrupted run, `on_epoch` gets the history so far."""
    network.set_seed(plan.seed)
    if RECIPES[plan.recipe].kind == "forest":
        return TrainingResult(_train_forest(plan, train, echo), [], adopted=False)
    devices = accelerators()
    task = LearningTask(
        outputs=1 if plan.binary else len(train.classes),
        class_weights=class_weights(plan, train),
    )
    statistics = network_training.measure_pixel_statistics(train, plan.contract, plan.seed)
    mixed = bool(devices) if plan.mixed_precision is None else plan.mixed_precision

    def float32_copy(model: keras.Model) -> keras.Model:
        """The network in float32 and on one device."""
        with dtype_policy("float32"):
            copy = network.build(plan.recipe, plan.contract.size, statistics, task.outputs)
        network.copy_weights(model, copy)
        return copy

    with data_parallel(devices) as parallel, dtype_policy("mixed_bfloat16" if mixed else "float32"):
        if parallel:
            echo(f"training on {len(devices)} devices, data-parallel")
        model = network.build(plan.recipe, plan.contract.size, statistics, task.outputs)
        adopted = _load_weights(model, plan, echo)
        run = f"{run}, {'adopted' if adopted else 'from scratch'}, averaged"
        history: list[dict[str, float]] = []
        stages: tuple[tuple[float, float], ...] = FROM_SCRATCH_STAGES
        if adopted:
            probed = float32_copy(model) if mixed and not devices else model  # OpenVINO, which is used there, needs it
            history = linear_probe.fit_linear_probe(
                probed,
                train,
                validation,
                contract=plan.contract,
                task=task,
                augment=plan.augment,
                smoothing=plan.smoothing,
                store=store / "features",
                run=run,
                penalty=RECIPES[plan.recipe].penalty,
            )
            if probed is not model:
                network.copy_weights(probed, model)
            stages = RECIPES[plan.recipe].fine_tuning_stages if plan.fine_tune else ()
        for number, (frozen, rate_factor) in enumerate(stages):
            if adopted:
                trained = "all of the backbone" if not frozen else f"the last {1 - frozen:.0%} of the backbone"
                echo(f"fine-tuning {trained}")
                network.freeze(model, frozen)
            history += network_training.fit_network(
                model,
                train,
                validation,
                contract=plan.contract,
                task=task,
                stage=network_training.TrainingStage(
                    epochs=plan.epochs,
                    batch_size=plan.batch_size,
                    learning_rate=plan.learning_rate * rate_factor,
                    seed=plan.seed + number,
                    augment=plan.augment,
                    patience=plan.patience,
                    smoothing=plan.smoothing,
                ),
                checkpoint=network_training.Checkpoint(store / f"stage-{number + 1}"),
                run=run,
                echo=echo,
                on_epoch=partial(_append_epochs, on_epoch, history),
            )
    if mixed or parallel:  # what is published computes in float32 and on one device
        model = float32_copy(model)
    return TrainingResult(TrainedNetwork(model), history, adopted)


def _append_epochs(
    on_epoch: EpochsCallback, before: list[dict[str, float]], epochs: Sequence[dict[str, float]]
) -> None:
    on_epoch([*before, *epochs])


def read_pixels(dataset: Dataset, contract: ImageContract) -> Pixels:
    """All images of a dataset, decoded as the service decodes them."""
    pixels: Pixels = np.empty((len(dataset), contract.size, contract.size, 3), dtype=np.uint8)
    for index, path in enumerate(dataset.paths):
        pixels[index] = images.decode_file(path, contract)
    return pixels


def class_weights(plan: TrainingPlan, train: Dataset) -> tuple[float, ...]:
    """The weight of each class's images in training."""
    counts = list(train.counts().values())
    return tuple(len(train) / (len(counts) * count) if plan.balance else 1.0 for count in counts)


def predict_dataset(
    model: TrainedModel, dataset: Dataset, contract: ImageContract, title: str, *, views: int = 1
) -> Floats:
    """Probabilities (views, n, classes) of a dataset's images in each of their first `views` orientations."""
    parts = []
    with ProgressBar(title, len(dataset)) as bar:
        for start in range(0, len(dataset), READ_BATCH):
            batch = dataset.subset(np.arange(start, min(len(dataset), start + READ_BATCH)))
            pixels = read_pixels(batch, contract)
            parts.append(np.stack([model.probabilities(images.orient(pixels, view)) for view in range(views)]))
            bar.step(len(batch))
    return np.concatenate(parts, axis=1)


def calibrate_model(
    model: TrainedModel, plan: TrainingPlan, train: Dataset, validation: Dataset
) -> tuple[Calibration, Floats]:
    """Calibrate the model at the class balance of the validation images; the calibration and their probabilities."""
    probabilities = predict_dataset(model, validation, plan.contract, "calibrating", views=plan.views)
    undo_weights = [-math.log(weight) for weight in class_weights(plan, train)]
    calibration = fit_calibration(validation.labels, probabilities, undo_weights)
    model.calibrate(calibration)
    return calibration, calibration.apply(probabilities).mean(axis=0)


def _train_forest(plan: TrainingPlan, train: Dataset, echo: Callable[[str], None]) -> forest.Forest:
    echo(f"training {forest.TREE_COUNT} trees")
    pixels = read_pixels(train, plan.contract)
    return forest.fit_forest(
        pixels, train.labels, seed=plan.seed, balance=plan.balance, augment=plan.augment, binary=plan.binary
    )


def _load_weights(model: keras.Model, plan: TrainingPlan, echo: Callable[[str], None]) -> bool:
    """Load the pretrained weights of the plan; False if training starts from scratch."""
    if plan.weights == "none":
        return False
    if plan.weights == network.PACKAGED:
        network.load_packaged_weights(model, plan.recipe)
        return True
    if plan.weights != "imagenet":
        network.load_weights_file(model, plan.recipe, Path(plan.weights))
        return True
    try:
        network.load_imagenet_weights(model, plan.recipe)
    except ModelError as error:
        echo(f"{error}; starting from scratch (--weights FILE starts from a file)")
        return False
    return True


def clear_checkpoints(store: Path) -> None:
    """Remove the checkpoints of a finished run."""
    shutil.rmtree(store, ignore_errors=True)
