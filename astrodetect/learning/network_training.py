"""Training a network: warm-up and cosine decay, early stopping, and checkpoints to resume an interrupted run from."""

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.evaluation import metrics
from astrodetect.learning.batches import Batches, Epoch, ImageCache, LearningTask, augmentation_contract
from astrodetect.learning.keras_runtime import keras
from astrodetect.learning.optimizer import AveragingAdam
from astrodetect.progress import ProgressBar
from astrodetect.recipes import PixelStatistics
from astrodetect.records import Floats, ImageContract, as_probabilities

SAVE_EVERY_S = 300.0  # within an epoch; each epoch's end is saved besides
AVERAGED_SHARE = 0.05  # of all steps, that the exponential moving average of the weights reaches back
WARM_UP_SHARE = 0.1  # of all steps, before the cosine decay
STATISTICS_IMAGES = 256  # that mean and variance are measured on
STATE, WEIGHTS_SUFFIX = "state.json", ".weights.h5"


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """The settings of one stage of training: from scratch, or of fine-tuning."""

    epochs: int
    batch_size: int
    learning_rate: float  # the peak, after warm-up
    seed: int
    augment: bool
    patience: int  # epochs without a lower validation loss, before early stopping
    smoothing: float = 0.0  # label smoothing


class TrainingStopped(KeyboardInterrupt):
    """The user interrupted the run, after its state was saved."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The progress of a run; `run` identifies its settings and images."""

    run: str
    epoch: int = 0  # completed
    step: int = 0  # batches completed in the epoch after those
    loss: float = 0.0  # their mean loss
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0  # 0: none yet
    weights: str = ""
    best_weights: str = ""
    seeds: list[list[int]] = field(default_factory=list)  # of the dropout layers, which Keras's file of weights lacks


class Checkpoint:
    """A folder with the state of a run, its weights (the optimiser's too) and the best weights; replaced atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, run: str) -> CheckpointState | None:
        """The state of this run; None if there is none, only that of another run, or one whose weights are gone."""
        try:
            state = CheckpointState(**json.loads((self._folder / STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        whole = all((self._folder / name).is_file() for name in (state.weights, state.best_weights) if name)
        return state if state.run == run and whole else None  # not whole: killed while the checkpoint was removed

    def exists(self) -> bool:
        """Whether there is the state of any run."""
        return (self._folder / STATE).exists()

    def save(self, model: keras.Model, state: CheckpointState, *, best: bool = False) -> CheckpointState:
        """Save `state` with the model's weights; `best`: their average is the best so far."""
        self._folder.mkdir(parents=True, exist_ok=True)
        state = replace(state, weights=f"epoch-{state.epoch}-step-{state.step}{WEIGHTS_SUFFIX}")
        self._save_weights(model, state.weights)
        if best:
            state = replace(state, best_weights=f"average-{state.weights}")
            with model.optimizer.averaged():
                self._save_weights(model, state.best_weights)
        state = replace(state, seeds=[np.asarray(seed).tolist() for seed in _seeds(model)])
        atomic_files.write_text(self._folder / STATE, json.dumps(asdict(state)))
        current = {self._folder / state.weights, self._folder / state.best_weights}
        for stale in set(self._folder.glob(f"*{WEIGHTS_SUFFIX}")) - current:
            stale.unlink()
        return state

    def _save_weights(self, model: keras.Model, name: str) -> None:
        model.save_weights(self._folder / name)
        atomic_files.sync_file(self._folder / name)

    def restore(self, model: keras.Model, state: CheckpointState) -> None:
        """Load the weights of `state` into the model and its optimiser."""
        model.optimizer.build(model.trainable_variables)  # else Keras has no variables to load the state into
        self._load_weights(model, state.weights)
        for variable, seed in zip(_seeds(model), state.seeds, strict=False):  # none in those of older versions
            variable.assign(seed)

    def restore_best(self, model: keras.Model, state: CheckpointState) -> None:
        """Load the best weights of the run into the model."""
        self._load_weights(model, state.best_weights)

    def _load_weights(self, model: keras.Model, name: str) -> None:
        try:
            model.load_weights(self._folder / name)
        except (OSError, ValueError, KeyError) as error:
            message = f"{self._folder / name} of an interrupted run is damaged: delete {self._folder}"
            raise ModelError(message) from error

    def clear(self) -> None:
        """Remove the checkpoint."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _seeds(model: keras.Model) -> list[keras.Variable]:
    return [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]


def measure_pixel_statistics(dataset: Dataset, contract: ImageContract, seed: int) -> PixelStatistics:
    """Mean and variance per band, of a sample of the images."""
    sample = np.random.default_rng(seed).permutation(len(dataset))[:STATISTICS_IMAGES]
    batches = Batches(ImageCache(dataset.subset(sample), contract), 32)
    pixels = np.concatenate([batches[i][0].reshape(-1, 3) for i in range(len(batches))])
    return PixelStatistics(tuple(pixels.mean(axis=0).tolist()), tuple(pixels.var(axis=0).tolist()))


def fit_network(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    contract: ImageContract,
    task: LearningTask,
    stage: TrainingStage,
    checkpoint: Checkpoint,
    run: str,
    echo: Callable[[str], None],
    on_epoch: Callable[[Sequence[dict[str, float]]], None] = lambda _: None,
) -> list[dict[str, float]]:
    """Train `model` to the epoch whose averaged weights have the least class-weighted validation loss; returns the
    metrics of each epoch."""
    cache = ImageCache(train, augmentation_contract(contract) if stage.augment else contract)
    validation_cache = ImageCache(validation, contract)
    steps = len(Batches(cache, stage.batch_size))
    _compile(model, stage, steps)
    state = checkpoint.load(run)
    if state is None:
        if checkpoint.exists():
            echo("the interrupted run had other options, images or software, or was incomplete: starting anew")
        checkpoint.clear()
        state = CheckpointState(run)
    else:
        checkpoint.restore(model, state)
        echo(f"resuming the interrupted run from epoch {state.epoch + 1}, batch {state.step + 1}")
        on_epoch(state.history)
    with _stop_requests() as stop_requested:
        echo("training; the first step takes up to a minute")
        while not _is_finished(state, stage):
            batches = Epoch(
                cache,
                stage.batch_size,
                task,
                seed=stage.seed,
                epoch=state.epoch,
                start=state.step,
                size=contract.size if stage.augment else None,
            )
            title, following = f"epoch {state.epoch + 1}/{stage.epochs}", stage.epochs - state.epoch - 1
            length = steps + len(Batches(validation_cache, stage.batch_size))
            with ProgressBar(title, length, following=following) as bar:
                bar.step(state.step)
                callback = _TrainingCallback(bar, checkpoint, state, stop_requested)
                if len(batches):  # none if the run was stopped after the epoch's last batch
                    model.fit(batches, shuffle=False, verbose=0, callbacks=[callback])
                with model.optimizer.averaged():
                    probabilities = predict(model, validation_cache, stage.batch_size, bar)
                if not np.isfinite(probabilities).all():
                    checkpoint.clear()
                    raise ModelError("the training diverged: start again with a lower --learning-rate")
                epoch_metrics = {"train_loss": callback.loss, **validation_metrics(validation, probabilities, task)}
                bar.step(0, note=_metrics_text(epoch_metrics))
            state = _save_epoch(checkpoint, model, state, epoch_metrics)
            on_epoch(state.history)
            if stop_requested():
                raise TrainingStopped
    checkpoint.restore_best(model, state)
    return state.history


def validation_metrics(validation: Dataset, probabilities: Floats, task: LearningTask) -> dict[str, float]:
    """The metrics of probabilities (n, classes), and the class-weighted log loss that selects the best model."""
    log_loss = log_losses(validation.labels, probabilities)
    weights = task.sample_weights(validation.labels)
    loss = float((log_loss * weights).sum() / weights.sum())
    return {
        **metrics.multiclass_metrics(validation.labels, probabilities, validation.classes),
        metrics.VALIDATION_LOSS: loss,
    }


def log_losses(labels: NDArray[np.int64], probabilities: Floats) -> NDArray[np.float64]:
    """The negative log-likelihood of each label."""
    likelihood = probabilities[np.arange(len(probabilities)), labels].astype(np.float64)
    losses: NDArray[np.float64] = -np.log(likelihood.clip(metrics.SMALLEST_PROBABILITY, 1))
    return losses


def predict(model: keras.Model, cache: ImageCache, batch_size: int, bar: ProgressBar) -> Floats:
    """Probabilities (n, classes)."""
    outputs = model.predict(Batches(cache, batch_size), verbose=0, callbacks=[_PredictionCallback(bar)])
    return as_probabilities(np.asarray(outputs, dtype=np.float32)[: len(cache)])


class _PredictionCallback(keras.callbacks.Callback):
    """Advances the progress bar during prediction."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__()
        self._bar = bar

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._bar.step()


class _TrainingCallback(keras.callbacks.Callback):
    """Advances the progress bar, saves within a long epoch, and stops between batches on request."""

    def __init__(
        self, bar: ProgressBar, checkpoint: Checkpoint, state: CheckpointState, stop_requested: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._bar, self._checkpoint, self._state, self._stop_requested = bar, checkpoint, state, stop_requested
        self._saved_at = time.monotonic()
        self.loss = state.loss

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        earlier, since = self._state.step, batch + 1
        self.loss = (earlier * self._state.loss + since * float((logs or {})["loss"])) / (earlier + since)
        self._bar.step(note=f"loss {self.loss:.3f}")
        stop = self._stop_requested()
        if stop or time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._saved_at = time.monotonic()
            step = self._state.step + batch + 1
            self._checkpoint.save(self.model, replace(self._state, step=step, loss=self.loss))
        if stop:
            raise TrainingStopped


def _compile(model: keras.Model, stage: TrainingStage, steps: int) -> None:
    """Adam with linear warm-up and cosine decay of the learning rate, averaged weights; cross-entropy loss."""
    total = stage.epochs * steps
    warm_up = max(1, min(steps, round(WARM_UP_SHARE * total)))
    rate = keras.optimizers.schedules.CosineDecay(
        stage.learning_rate / warm_up,
        max(1, total - warm_up),
        warmup_target=stage.learning_rate,
        warmup_steps=warm_up,
    )
    loss = (keras.losses.BinaryCrossentropy if model.output_shape[-1] == 1 else keras.losses.CategoricalCrossentropy)(
        label_smoothing=stage.smoothing
    )
    # XLA makes ResNet50 slower on a CPU under TensorFlow (docs/decisions/training.md); JAX always compiles.
    jit_compile = "auto" if keras.backend.backend() == "jax" else False
    momentum = 1 - 1 / max(1.0, AVERAGED_SHARE * total)
    optimizer = AveragingAdam(rate, use_ema=True, ema_momentum=momentum)
    optimizer.build(model.trainable_variables)  # within the first step it takes many times as long
    model.compile(optimizer, loss, jit_compile=jit_compile)
    if keras.backend.backend() == "jax":  # else the first call of `fit` builds the loss from its first batch, used last
        shapes = model.input_shape, model.output_shape
        model.test_on_batch(*(np.zeros((1, *shape[1:]), np.float32) for shape in shapes))


def _is_finished(state: CheckpointState, stage: TrainingStage) -> bool:
    stopped_early = state.epoch > 0 and state.epoch - state.best_epoch >= stage.patience
    return state.epoch >= stage.epochs or stopped_early


def _save_epoch(
    checkpoint: Checkpoint, model: keras.Model, state: CheckpointState, epoch_metrics: dict[str, float]
) -> CheckpointState:
    epoch, history = state.epoch + 1, [*state.history, epoch_metrics]
    best = (
        not state.best_epoch
        or epoch_metrics[metrics.VALIDATION_LOSS] < history[state.best_epoch - 1][metrics.VALIDATION_LOSS]
    )
    best_epoch = epoch if best else state.best_epoch
    after = replace(state, epoch=epoch, step=0, loss=0.0, history=history, best_epoch=best_epoch)
    return checkpoint.save(model, after, best=best)


def _metrics_text(epoch_metrics: dict[str, float]) -> str:
    return (
        f"loss {epoch_metrics['train_loss']:.3f}; validation: loss {epoch_metrics[metrics.VALIDATION_LOSS]:.3f}, "
        f"accuracy {epoch_metrics['accuracy']:.1%}, AUC {epoch_metrics['auc']:.3f}"
    )


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the current batch; a second one interrupts."""
    requested = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    signals = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGINT)}  # SIGBREAK: Windows
    if threading.current_thread() is not threading.main_thread():
        signals = set()  # only the main thread gets them
    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
