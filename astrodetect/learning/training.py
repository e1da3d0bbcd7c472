"""The recipes: from images to something that has learnt, whichever network or forest it is."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from astrodetect import images
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.learning import devices, forest, linear_probe, network, network_training, weights
from astrodetect.learning.batches import LearningTask
from astrodetect.learning.checkpoint import Checkpoint
from astrodetect.learning.export import TrainedModel, TrainedNetwork
from astrodetect.learning.forest import Forest
from astrodetect.model_store.store import FOREST
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, Pixels

# Fine-tuning, once the head is found: the later half of the backbone first, then all of it, slower.
FINE_TUNING = ((0.5, 1.0), (0.0, 0.3))  # share of the backbone that stays as it is, factor of the learning rate
READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to learn; what a run that was cut short must have in common with the one that goes on."""

    recipe: str
    binary: bool
    contract: ImageContract
    weights: str  # imagenet, none, or a file
    fine_tune: bool
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    augment: bool
    balance: bool  # weigh the classes so that each counts the same
    smoothing: float
    mixed_precision: bool | None  # None: where it is faster
    seed: int


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came out, and how it got there."""

    model: TrainedModel
    history: list[
        dict[str, float]
    ]  # what each epoch, or each strength of the head's, measured on the validation images
    adopted: bool  # whether it started from weights that were learnt elsewhere


def learn(
    plan: TrainingPlan, train: Dataset, validation: Dataset, *, store: Path, run: str, say: Callable[[str], None]
) -> TrainingResult:
    """Learns as the plan says; `store` keeps what a run that is cut short has done."""
    network.set_seed(plan.seed)
    if plan.recipe == FOREST:
        return TrainingResult(_forest(plan, train, say), [], adopted=False)
    return _network(plan, train, validation, store=store, run=run, say=say)


def read_pixels(catalogue: Dataset, contract: ImageContract) -> Pixels:
    """All its images, as the service gets them."""
    pixels: Pixels = np.empty((len(catalogue), contract.size, contract.size, 3), dtype=np.uint8)
    for place, path in enumerate(catalogue.paths):
        pixels[place] = images.read_file(path, contract)
    return pixels


def probabilities(model: TrainedModel, catalogue: Dataset, contract: ImageContract, title: str) -> Floats:
    """What the model says of a catalogue's images: (n, classes)."""
    parts = []
    with Bar(title, len(catalogue)) as bar:
        for start in range(0, len(catalogue), READ_AT_ONCE):
            some = catalogue.subset(np.arange(start, min(len(catalogue), start + READ_AT_ONCE)))
            parts.append(model.probabilities(read_pixels(some, contract)))
            bar.step(len(some))
    return np.concatenate(parts)


def _forest(plan: TrainingPlan, train: Dataset, say: Callable[[str], None]) -> Forest:
    say(f"growing {forest.TREES} trees")
    pixels = read_pixels(train, plan.contract)
    return forest.fit(
        pixels, train.labels, seed=plan.seed, balance=plan.balance, augment=plan.augment, binary=plan.binary
    )


def _network(
    plan: TrainingPlan, train: Dataset, validation: Dataset, *, store: Path, run: str, say: Callable[[str], None]
) -> TrainingResult:
    accelerators = devices.accelerators()
    counts = list(train.counts().values())
    task = LearningTask(
        outputs=1 if plan.binary else len(counts),
        weights=tuple(len(train) / (len(counts) * count) if plan.balance else 1.0 for count in counts),
    )
    standard = network_training.measure_standard(train, plan.contract, plan.seed)
    mixed = bool(accelerators) if plan.mixed_precision is None else plan.mixed_precision
    with devices.shared(accelerators, say) as shared, _precision("mixed_bfloat16" if mixed else "float32"):
        model = network.build(plan.recipe, plan.contract.size, standard, task.outputs)
        adopted = _adopt(model, plan, say)
        run = f"{run}, {'adopted' if adopted else 'from scratch'}"
        history: list[dict[str, float]] = []
        stages = [(0.0, 1.0)]
        if adopted:
            history = linear_probe.fit_head(
                model,
                train,
                validation,
                contract=plan.contract,
                task=task,
                augment=plan.augment,
                smoothing=plan.smoothing,
                store=store / "features",
                run=run,
            )
            stages = list(FINE_TUNING) if plan.fine_tune else []
        for number, (kept, slower) in enumerate(stages):
            if adopted:
                say(f"fine-tuning {'all of the backbone' if not kept else f'the last {1 - kept:.0%} of the backbone'}")
                network.freeze(model, kept)
            history += network_training.fit(
                model,
                train,
                validation,
                contract=plan.contract,
                task=task,
                stage=network_training.TrainingStage(
                    epochs=plan.epochs,
                    batch_size=plan.batch_size,
                    learning_rate=plan.learning_rate * slower,
                    seed=plan.seed + number,
                    augment=plan.augment,
                    patience=plan.patience,
                    smoothing=plan.smoothing,
                ),
                checkpoint=Checkpoint(store / f"stage-{number + 1}"),
                run=run,
                say=say,
            )
    if mixed or shared:  # what is published computes in float32, on one device, wherever it runs
        exact = network.build(plan.recipe, plan.contract.size, standard, task.outputs)
        exact.set_weights(model.get_weights())
        model = exact
    return TrainingResult(TrainedNetwork(model), history, adopted)


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers made within compute so, and keep their weights in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _adopt(model: keras.Model, plan: TrainingPlan, say: Callable[[str], None]) -> bool:
    """Starts from the weights asked for; False where the start is from scratch."""
    if plan.weights == "none":
        return False
    if plan.weights != "imagenet":
        weights.adopt_file(model, plan.recipe, Path(plan.weights))
        return True
    try:
        weights.adopt_imagenet(model, plan.recipe)
    except ModelError as error:
        say(f"{error}; starting from scratch (--weights FILE starts from a file)")
        return False
    return True


def forget(store: Path) -> None:
    """What a run kept in case it was cut short is of no more use."""
    shutil.rmtree(store, ignore_errors=True)
