"""Fitting a network: epoch by epoch, kept on disk as it goes, so that whatever stops it costs minutes at most."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import keras
import numpy as np

from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import ModelError
from astrodetect.evaluation import metrics
from astrodetect.learning.backbones import PixelStatistics
from astrodetect.learning.batches import Batches, Epoch, Frames, LearningTask, wider
from astrodetect.learning.checkpoint import Checkpoint, CheckpointState
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, as_probabilities

SAVE_EVERY_S = 300.0  # within an epoch; each epoch's end is saved besides
WARM_UP_SHARE = 0.1  # of all steps, before the learning rate falls along a cosine
STANDARD_FROM = 256  # images that the normalisation is measured on
WATCHED = "watched_loss"  # the figure of the validation images that chooses the epoch
SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """How to train, from one set of weights to the next."""

    epochs: int
    batch_size: int
    learning_rate: float  # the highest, after warming up
    seed: int
    augment: bool
    patience: int  # epochs without a better validation loss before it stops
    smoothing: float = 0.0  # of the labels: how much of each answer is spread over all classes


class TrainingStopped(KeyboardInterrupt):
    """The user asked to stop, and where the run stands has been saved."""


def measure_standard(catalogue: Dataset, contract: ImageContract, seed: int) -> PixelStatistics:
    """The mean and variance per band of some of these images."""
    some = np.random.default_rng(seed).permutation(len(catalogue))[:STANDARD_FROM]
    batches = Batches(Frames(catalogue.subset(some), contract), 32)
    pixels = np.concatenate([batches[i][0].reshape(-1, 3) for i in range(len(batches))])
    return PixelStatistics(tuple(pixels.mean(axis=0).tolist()), tuple(pixels.var(axis=0).tolist()))


def fit(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    contract: ImageContract,
    task: LearningTask,
    stage: TrainingStage,
    checkpoint: Checkpoint,
    run: str,
    say: Callable[[str], None],
) -> list[dict[str, float]]:
    """Trains `model` to its best epoch on `validation`; returns what each epoch measured.

    The best is the one with the least log loss, each class weighing what it weighs in training.
    """
    frames = Frames(train, wider(contract) if stage.augment else contract)
    held_out = Frames(validation, contract)
    steps = len(Batches(frames, stage.batch_size))
    _compile(model, stage, steps)
    state = checkpoint.load(run)
    if state is None:
        checkpoint.clear()
        state = CheckpointState(run)
    else:
        checkpoint.restore(model, state)
        say(f"going on from epoch {state.epoch + 1}, batch {state.step + 1} of the run that was cut short")
    with _stop_requests() as stop_asked:
        say("learning; the first step takes up to a minute")
        while not _is_over(state, stage):
            batches = Epoch(
                frames,
                stage.batch_size,
                task,
                seed=stage.seed,
                epoch=state.epoch,
                start=state.step,
                size=contract.size if stage.augment else None,
            )
            title = f"epoch {state.epoch + 1}/{stage.epochs}"
            with Bar(title, steps + len(Batches(held_out, stage.batch_size))) as bar:
                bar.step(state.step)
                watch = _Watch(bar, checkpoint, state, stop_asked)
                if len(batches):  # none are left where the run was stopped after the last one
                    model.fit(batches, shuffle=False, verbose=0, callbacks=[watch])
                said = predict(model, held_out, stage.batch_size, bar)
                if not np.isfinite(said).all():
                    checkpoint.clear()
                    raise ModelError("the training diverged: start again with a lower --learning-rate")
                measured = {"train_loss": watch.loss, **measure(validation, said, task)}
                bar.step(0, note=_in_words(measured))
            state = _save_epoch(checkpoint, model, state, measured)
            if stop_asked():
                raise TrainingStopped
    checkpoint.restore_best(model, state)
    return state.history


def measure(validation: Dataset, said: Floats, task: LearningTask) -> dict[str, float]:
    """The figures of probabilities (n, classes), and the one that chooses the best."""
    surprise = -np.log(said[np.arange(len(said)), validation.labels].astype(np.float64).clip(SMALLEST_PROBABILITY, 1))
    weights = task.weigh(validation.labels)
    watched = float((surprise * weights).sum() / weights.sum())
    return {**metrics.multiclass_metrics(validation.labels, said, validation.classes), WATCHED: watched}


def predict(model: keras.Model, frames: Frames, batch_size: int, bar: Bar) -> Floats:
    """What the model says of these images: (n, classes)."""
    found = model.predict(Batches(frames, batch_size), verbose=0, callbacks=[_Count(bar)])
    return as_probabilities(np.asarray(found, dtype=np.float32)[: len(frames)])


class _Count(keras.callbacks.Callback):
    """Moves the bar while a model predicts."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar

    def on_predict_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self._bar.step()


class _Watch(keras.callbacks.Callback):
    """Moves the bar, saves within a long epoch, and stops between two batches when asked."""

    def __init__(
        self, bar: Bar, checkpoint: Checkpoint, state: CheckpointState, stop_asked: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._bar, self._checkpoint, self._state, self._stop_asked = bar, checkpoint, state, stop_asked
        self._saved = time.monotonic()
        self.loss = state.loss

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.loss = float((logs or {})["loss"])
        self._bar.step(note=f"loss {self.loss:.3f}")
        stop = self._stop_asked()
        if stop or time.monotonic() - self._saved > SAVE_EVERY_S:
            self._saved = time.monotonic()
            done = self._state.step + batch + 1
            self._checkpoint.save(self.model, replace(self._state, step=done, loss=self.loss))
        if stop:
            raise TrainingStopped


def _compile(model: keras.Model, stage: TrainingStage, steps: int) -> None:
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
    # XLA makes ResNet50 slower on a CPU under TensorFlow (docs/decisions.md); JAX has nothing else.
    compiled = "auto" if keras.backend.backend() == "jax" else False
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=compiled)


def _is_over(state: CheckpointState, stage: TrainingStage) -> bool:
    return state.epoch >= stage.epochs or (state.epoch > 0 and state.epoch - state.best_epoch >= stage.patience)


def _save_epoch(
    checkpoint: Checkpoint, model: keras.Model, state: CheckpointState, measured: dict[str, float]
) -> CheckpointState:
    epoch = state.epoch + 1
    best = not state.best_epoch or measured[WATCHED] < state.history[state.best_epoch - 1][WATCHED]
    best_epoch = epoch if best else state.best_epoch
    after = replace(state, epoch=epoch, step=0, loss=0.0, history=[*state.history, measured], best_epoch=best_epoch)
    return checkpoint.save(model, after, best=best)


def _in_words(measured: dict[str, float]) -> str:
    return (
        f"loss {measured['train_loss']:.3f}; validation: loss {measured[WATCHED]:.3f}, "
        f"accuracy {measured['accuracy']:.1%}, AUC {measured['auc']:.3f}"
    )


@contextlib.contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM asks for a stop after the batch at work; a second one does not wait."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    asking = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGBREAK", signal.SIGINT)}  # the last one: Windows
    before = {number: signal.signal(number, ask) for number in asking}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
