"""Linear probe of a frozen backbone: pooled features computed once and stored, and a linear head fitted to them.

The loss is convex, so L-BFGS finds its minimum, the same every time. The L2 penalty is chosen on the validation images,
along a path from the largest, until a smaller one no longer helps: the largest whose loss is within one standard error
of the least.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax

from astrodetect import atomic_files, images
from astrodetect.datasets.dataset import Dataset
from astrodetect.evaluation.metrics import VALIDATION_LOSS
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.inference.engine import FEATURES, SCORE
from astrodetect.inference.pipeline import read_ahead
from astrodetect.learning.batches import LearningTask
from astrodetect.learning.export import features_engine
from astrodetect.learning.keras_runtime import accelerators, keras, pad_to_devices
from astrodetect.learning.network_training import log_losses, validation_metrics
from astrodetect.progress import ProgressBar
from astrodetect.records import Floats, ImageContract, Pixels, as_probabilities

L2_PENALTIES = tuple(10.0**-power for power in np.arange(-1.0, 5.01, 0.5))  # per image
PENALTY_PATIENCE = 2  # penalties without a lower validation loss, before the path stops
MAX_ITERATIONS = 100  # of L-BFGS for each penalty, which starts from the solution of the one before
MIN_STD = 1e-6  # features that vary less are ignored
MAX_ROWS = 40_000  # images and their augmented copies: a linear head gains little from more
BATCH = 16
SAVE_EVERY = 64  # batches


@dataclass(frozen=True, slots=True)
class LinearHead:
    """The weights of a dense layer on the features."""

    kernel: Floats  # (features, outputs)
    bias: Floats

    def probabilities(self, features: Floats) -> Floats:
        """(n, classes)"""
        logits = features @ self.kernel + self.bias
        return as_probabilities(expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1))


class RegularisationPath:
    """Logistic regression on standardised features along a path of L2 penalties, each fit started from the last."""

    def __init__(self, features: Floats, targets: Floats, sample_weights: Floats) -> None:
        self._mean = features.mean(axis=0)
        std = features.std(axis=0)
        self._scale = np.where(std > MIN_STD, 1 / np.maximum(std, MIN_STD), 0).astype(np.float32)
        self._features = (features - self._mean) * self._scale
        self._targets, self._weights = targets, (sample_weights / sample_weights.sum())[:, np.newaxis]
        self._solution = np.zeros((features.shape[1] + 1) * targets.shape[1])

    def fit(self, penalty: float) -> LinearHead:
        """The optimal head under this penalty."""
        options = {"maxiter": MAX_ITERATIONS}
        optimum = minimize(self._loss, self._solution, args=(penalty,), jac=True, method="L-BFGS-B", options=options)
        self._solution = optimum.x
        kernel, bias = self._unpack(optimum.x)
        kernel = kernel * self._scale[:, np.newaxis]
        return LinearHead(kernel, (bias - self._mean @ kernel).astype(np.float32))

    def _unpack(self, parameters: NDArray[np.float64]) -> tuple[Floats, Floats]:
        rows = parameters.reshape(-1, self._targets.shape[1]).astype(np.float32)
        return rows[:-1], rows[-1]

    def _loss(self, parameters: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        """The penalised cross-entropy and its gradient."""
        kernel, bias = self._unpack(parameters)
        logits = self._features @ kernel + bias
        if logits.shape[1] == 1:
            probabilities = expit(logits)
            entropy = -(self._targets * log_expit(logits) + (1 - self._targets) * log_expit(-logits))
        else:
            probabilities = softmax(logits, axis=1)
            entropy = -(self._targets * log_softmax(logits, axis=1)).sum(axis=1, keepdims=True)
        residual = (probabilities - self._targets) * self._weights
        loss = float((entropy * self._weights).sum(dtype=np.float64)) + penalty / 2 * float((kernel**2).sum())
        gradient = np.concatenate([self._features.T @ residual + penalty * kernel, residual.sum(axis=0, keepdims=True)])
        return loss, gradient.astype(np.float64).ravel()


def fit_linear_probe(
    model: keras.Model,
    train: Dataset,
    validation: Dataset,
    *,
    contract: ImageContract,
    task: LearningTask,
    augment: bool,
    smoothing: float,
    store: Path,
    run: str,
    penalty: float | None = None,
) -> list[dict[str, float]]:
    """Fit the model's head to its frozen backbone, under this L2 penalty or the best one on the validation images.

    Returns the validation metrics of each penalty.
    """
    views = min(ORIENTATIONS, max(1, MAX_ROWS // len(train))) if augment else 1
    features = _FeatureStore(model, contract, store, run)
    train_features = features.of(train, views, "features of the training images")
    validation_features = features.of(validation, 1, "features of the validation images")
    labels = np.tile(train.labels, views)
    targets = task.targets(labels)
    targets = targets * (1 - smoothing) + smoothing / max(2, task.outputs)
    path = RegularisationPath(train_features, targets, task.sample_weights(labels))
    heads: list[LinearHead] = []
    history: list[dict[str, float]] = []
    losses: list[tuple[float, float]] = []  # and their standard errors
    penalties = L2_PENALTIES if penalty is None else (penalty,)
    with ProgressBar("head", len(penalties)) as bar:
        for tried in penalties:
            heads.append(path.fit(tried))
            probabilities = heads[-1].probabilities(validation_features)
            # "strength" is the penalty's key in stored histories
            history.append({"strength": tried, **validation_metrics(validation, probabilities, task)})
            losses.append((history[-1][VALIDATION_LOSS], _standard_error(validation, probabilities, task)))
            least = min(losses)
            bar.step(note=f"validation loss {least[0]:.3f}")
            if len(losses) - 1 - losses.index(least) >= PENALTY_PATIENCE:
                break
    chosen = heads[choose_penalty(losses)]
    model.get_layer(SCORE).set_weights([chosen.kernel, chosen.bias])
    return history


def choose_penalty(losses: list[tuple[float, float]]) -> int:
    """The index of the first (loss, standard error) whose loss is within one standard error of the least."""
    limit = sum(min(losses))
    return next(index for index, (loss, _) in enumerate(losses) if loss <= limit)


def _standard_error(validation: Dataset, probabilities: Floats, task: LearningTask) -> float:
    """The standard error of the class-weighted log loss."""
    weighted = log_losses(validation.labels, probabilities) * task.sample_weights(validation.labels)
    return float(weighted.std() / np.sqrt(len(weighted)))


class _FeatureStore:
    """The pooled features of a dataset's images on disk, so that an interrupted run does not compute them again."""

    def __init__(self, model: keras.Model, contract: ImageContract, folder: Path, run: str) -> None:
        self._contract, self._folder, self._run = contract, folder, run
        backbone = keras.Model(model.input, model.get_layer(FEATURES).output)
        self._width = backbone.output_shape[-1]
        self._forward: Callable[[Pixels], Floats]
        if accelerators():
            self._concurrency, self._forward = (
                1,
                lambda pixels: np.asarray(backbone.predict_on_batch(pad_to_devices(pixels.astype(np.float32))))[
                    : len(pixels)
                ],
            )
        else:
            engine = features_engine(model, contract)
            self._concurrency, self._forward = engine.streams, lambda pixels: engine.run(pixels).features

    def of(self, dataset: Dataset, views: int, title: str) -> Floats:
        """(views × images, features): all images in the first orientation, then in the next."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{title.replace(' ', '-')}.npy"
        total = views * len(dataset)
        jobs = [range(start, min(total, start + BATCH)) for start in range(0, total, BATCH)]
        features, done = self._open(path, (total, self._width))
        with ProgressBar(title, total) as bar:
            bar.step(sum(len(rows) for rows in jobs[:done]))
            remaining = jobs[done:]
            computed = zip(remaining, self._compute(dataset, remaining), strict=True)
            for number, (rows, batch) in enumerate(computed, done + 1):
                features[rows.start : rows.stop] = batch
                bar.step(len(rows))
                if number % SAVE_EVERY == 0:
                    self._save(path, features, number)
            self._save(path, features, len(jobs))
        return features

    def _compute(self, dataset: Dataset, jobs: list[range]) -> Iterator[Floats]:
        def read(rows: range) -> Pixels:
            view_and_image = (divmod(row, len(dataset)) for row in rows)
            return np.stack(
                [
                    orient(images.decode_file(dataset.paths[image], self._contract), view)
                    for view, image in view_and_image
                ]
            )

        return read_ahead(jobs, read, self._forward, self._concurrency)

    def _open(self, path: Path, shape: tuple[int, int]) -> tuple[Floats, int]:
        """The array, and how many batches of it are complete."""
        state_path = path.with_suffix(".json")
        try:
            state = json.loads(state_path.read_text())
            if state["run"] == self._run and state["shape"] == list(shape):
                features: Floats = np.load(path, mmap_mode="r+")
                return features, state["done"]
        except (OSError, EOFError, ValueError, KeyError):  # EOFError: an empty file
            pass
        state_path.unlink(missing_ok=True)
        np.save(path, np.broadcast_to(np.float32(0), shape))
        return np.load(path, mmap_mode="r+"), 0

    def _save(self, path: Path, features: NDArray[np.float32], done: int) -> None:
        if isinstance(features, np.memmap):
            features.flush()
        state = json.dumps({"run": self._run, "shape": list(features.shape), "done": done})
        atomic_files.write_text(path.with_suffix(".json"), state)
