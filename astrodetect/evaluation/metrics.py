"""Classification and calibration metrics and their 95 % intervals: Wilson's from 0 to 1, bootstrap for losses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import harmonic_mean

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

VALIDATION_LOSS = "watched_loss"  # key of a training history: class-weighted log loss, which selects the epoch
SMALLEST_PROBABILITY = 1e-7  # log loss is clipped there
CALIBRATION_BINS = 15  # of equal width

CONFIDENCE = 0.95
Z = 1.959964  # the standard normal quantile for it
RESAMPLES = 500  # bootstrap
SEED = 0  # equal images give equal intervals
ONE_IN_20 = 1.645  # standard deviations that a normal variable exceeds once in 20 times

Integers = NDArray[np.int64]  # class indices, one per image
Reals = NDArray[np.float64]


def binary_metrics(truth: Integers, scores: Floats, threshold: float = 0.5) -> dict[str, float]:
    """The headline metrics of a binary model; NaN where a class has no image."""
    probabilities = np.stack([1 - scores, scores], axis=1)
    return headline_metrics(truth, probabilities, predict_classes(probabilities, threshold))


def multiclass_metrics(truth: Integers, probabilities: Floats, names: Sequence[str]) -> dict[str, float]:
    """The headline metrics of a model of any number of classes, and the recall of each."""
    predicted = predict_classes(probabilities)
    recalls = zip(names, recall(confusion(truth, predicted, len(names))).tolist(), strict=True)
    return headline_metrics(truth, probabilities, predicted) | {f"recall_{name}": value for name, value in recalls}


def headline_metrics(truth: Integers, probabilities: Floats, predicted: Integers) -> dict[str, float]:
    """The metrics at the top of a report."""
    matrix = confusion(truth, predicted, probabilities.shape[1])
    return {
        "images": float(len(truth)),
        "accuracy": float((predicted == truth).mean()),
        "balanced_accuracy": float(recall(matrix).mean()),
        "auc": float(np.mean([ranking.auc() for ranking in class_rankings(truth, probabilities)])),
        "log_loss": float(negative_log_likelihood(truth, probabilities).mean()),
        "macro_f1": float(f1(matrix).mean()),
        "brier": float(brier_scores(truth, probabilities).mean()),
        "ece": reliability_curve(*top_label_confidence(truth, probabilities)).error,
    }


def predict_classes(probabilities: Floats, threshold: float | None = None) -> Integers:
    """The most probable class of each image; with a threshold, the second of two where its score is above it."""
    predicted = probabilities.argmax(axis=1) if threshold is None else probabilities[:, 1] > threshold
    return predicted.astype(np.int64)


def confusion(truth: Integers, predicted: Integers, classes: int) -> Reals:
    """The confusion matrix: a row per true class, a column per predicted class."""
    cells = np.bincount(truth * classes + predicted, minlength=classes**2)
    return cells.reshape(classes, classes).astype(np.float64)


def recall(matrix: Reals) -> Reals:
    """The recall of each class; NaN for a class without images."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-1))


def precision(matrix: Reals) -> Reals:
    """The precision of each class; NaN for a class that is never predicted."""
    return _share(np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(axis=-2))


def f1(matrix: Reals) -> Reals:
    """The F1 score of each class; NaN for a class without images that is never predicted."""
    correct = np.diagonal(matrix, axis1=-2, axis2=-1)
    return _share(2 * correct, matrix.sum(axis=-1) + matrix.sum(axis=-2))


def auc(truth: Integers, scores: Floats) -> float:
    """The area under the ROC curve of a binary score; ties count half."""
    return ScoreRanking(truth == 1, scores).auc()


def significant_auc(counts: Sequence[int]) -> float:
    """The macro-averaged AUC that a ranking at random exceeds once in 20 times, of this many images of each class.

    By the normal approximation of the Mann-Whitney U test; of several classes an upper bound, as if their AUCs rose and
    fell together.
    """
    total = sum(counts)
    pairs = [count * (total - count) for count in (counts[1:] if len(counts) == 2 else counts)]
    deviations = [math.sqrt((total + 1) / (12 * product)) for product in pairs if product]
    return 0.5 + ONE_IN_20 * sum(deviations) / max(1, len(deviations))


class ScoreRanking:
    """Images sorted by a score once, for AUC and ROC curves under several weightings."""

    def __init__(self, positive: NDArray[np.bool_], scores: Floats) -> None:
        self.values, self._value_indices = np.unique(scores, return_inverse=True)
        self._positive = positive

    def counts(self, weights: Reals | None = None) -> tuple[Reals, Reals]:
        """The numbers of positive and of negative images at each distinct score, ascending."""
        weight = np.ones(len(self._value_indices)) if weights is None else weights
        size = len(self.values)
        return (
            _weighted_counts(self._value_indices, weight * self._positive, size),
            _weighted_counts(self._value_indices, weight * ~self._positive, size),
        )

    def auc(self, weights: Reals | None = None) -> float:
        """The area under the ROC curve; NaN without positive or without negative images."""
        positives, negatives = self.counts(weights)
        below = np.cumsum(negatives) - negatives / 2  # ties count half
        return float(_share((positives * below).sum(), positives.sum() * negatives.sum()))


def class_rankings(truth: Integers, probabilities: Floats) -> list[ScoreRanking]:
    """Rankings by the score of the second of two classes, or of each of several against the rest."""
    classes = range(probabilities.shape[1]) if probabilities.shape[1] > 2 else (1,)
    return [ScoreRanking(truth == index, probabilities[:, index]) for index in classes]


def log_loss(truth: Integers, scores: Floats) -> float:
    """The mean negative log-likelihood of a binary score, in nats."""
    return float(negative_log_likelihood(truth, np.stack([1 - scores, scores], axis=1)).mean())


def negative_log_likelihood(truth: Integers, probabilities: Floats) -> Reals:
    """The negative log-likelihood of each image's true class, in nats; finite."""
    true_class = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.asarray(-np.log(true_class.clip(SMALLEST_PROBABILITY, 1)))


def brier_scores(truth: Integers, probabilities: Floats) -> Reals:
    """The Brier score of each image, halved so that two classes give the binary Brier score."""
    one_hot = np.eye(probabilities.shape[1])[truth]
    return np.asarray(((probabilities - one_hot) ** 2).sum(axis=1) / 2)


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """Mean predicted probability against observed frequency, in bins of equal width; NaN in empty bins."""

    counts: Reals
    mean_probability: Reals
    frequency: Reals

    @property
    def error(self) -> float:
        """The expected calibration error."""
        filled = self.counts > 0
        gaps = np.abs(self.mean_probability - self.frequency)[filled]
        return float(_share((self.counts[filled] * gaps).sum(), self.counts.sum()))


def reliability_curve(
    probabilities: Floats, correct: NDArray[np.bool_], weights: Reals | None = None
) -> ReliabilityCurve:
    """Bin the probabilities of events that came true or not."""
    weight = np.ones(len(correct)) if weights is None else weights
    bins = np.clip((probabilities * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
    counts, probability_sums, correct_counts = (
        _weighted_counts(bins, weight * value, CALIBRATION_BINS) for value in (1.0, probabilities, correct)
    )
    return ReliabilityCurve(counts, _share(probability_sums, counts), _share(correct_counts, counts))


def top_label_confidence(truth: Integers, probabilities: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The probability of the most probable class, and whether it is the true one; independent of any threshold."""
    return probabilities.max(axis=1), predict_classes(probabilities) == truth


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Precision, recall and F1 of one class."""

    name: str
    images: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


def wilson_interval(part: float, whole: float) -> Estimate:
    """A share with its Wilson score interval; NaN of nothing."""
    if not whole:
        return Estimate(float("nan"), float("nan"), float("nan"))
    share, spread = float(part / whole), Z**2 / whole
    middle = (share + spread / 2) / (1 + spread)
    half = Z * np.sqrt(share * (1 - share) / whole + spread / whole / 4) / (1 + spread)
    return Estimate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def estimate_headline_metrics(truth: Integers, probabilities: Floats, predicted: Integers) -> dict[str, Estimate]:
    """The headline metrics with their intervals, by the same names."""
    values = headline_metrics(truth, probabilities, predicted)
    matrix = confusion(truth, predicted, probabilities.shape[1])
    matrices, resampled = _bootstrap_confusion(matrix), _bootstrap_scores(truth, probabilities)
    shares = {
        "balanced_accuracy": recall(matrices).mean(axis=-1),
        "macro_f1": f1(matrices).mean(axis=-1),
        "auc": np.array(resampled.pop("auc")),
    }
    counts = [count for count in matrix.sum(axis=1).tolist() if count]
    images = len(counts) * harmonic_mean(counts)  # of the balanced accuracy, where recalls are equal
    return {
        "accuracy": wilson_interval(np.trace(matrix), len(truth)),
        **{name: _share_interval(values[name], shares[name], images) for name in shares},
        **{name: _percentile_interval(values[name], resampled[name]) for name in resampled},
    }


def per_class_metrics(matrix: Reals, names: Sequence[str]) -> list[ClassMetrics]:
    """Precision, recall and F1 of each class of a confusion matrix."""
    correct, actual, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    f1_scores, resampled = f1(matrix), f1(_bootstrap_confusion(matrix))
    return [
        ClassMetrics(
            name,
            int(actual[i]),
            wilson_interval(correct[i], predicted[i]),
            wilson_interval(correct[i], actual[i]),
            _share_interval(f1_scores[i], resampled[:, i], actual[i] + predicted[i]),
        )
        for i, name in enumerate(names)
    ]


def average_class_metrics(classes: Sequence[ClassMetrics]) -> dict[str, dict[str, float]]:
    """Macro and weighted averages of precision, recall and F1, as in scikit-learn: undefined values count as 0."""
    table = np.array([[row.precision.value, row.recall.value, row.f1.value] for row in classes])
    weights = {"macro": np.ones(len(classes)), "weighted": np.array([row.images for row in classes], dtype=np.float64)}
    averages = {name: (weight @ np.nan_to_num(table) / weight.sum()).tolist() for name, weight in weights.items()}
    return {name: dict(zip(("precision", "recall", "f1"), values, strict=True)) for name, values in averages.items()}


def _bootstrap_confusion(matrix: Reals) -> Reals:
    """(RESAMPLES, classes, classes) confusion matrices of bootstrap samples."""
    random, images = np.random.default_rng(SEED), matrix.sum()
    counts = random.multinomial(int(images), matrix.ravel() / images, RESAMPLES)
    return counts.reshape(RESAMPLES, *matrix.shape).astype(np.float64)


def _bootstrap_scores(truth: Integers, probabilities: Floats) -> dict[str, list[float]]:
    """Bootstrap values of the metrics that need more than the confusion matrix."""
    random, images = np.random.default_rng(SEED), len(truth)
    rankings = class_rankings(truth, probabilities)
    log_losses, brier = negative_log_likelihood(truth, probabilities), brier_scores(truth, probabilities)
    confidence, correct = top_label_confidence(truth, probabilities)
    resampled: dict[str, list[float]] = {"auc": [], "log_loss": [], "brier": [], "ece": []}
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)
        resampled["auc"].append(float(np.mean([ranking.auc(weights) for ranking in rankings])))
        resampled["log_loss"].append(float(weights @ log_losses / images))
        resampled["brier"].append(float(weights @ brier / images))
        resampled["ece"].append(reliability_curve(confidence, correct, weights).error)
    # Sampling noise biases the calibration error upwards, and resampling doubles it: subtract the added bias.
    bias = float(np.mean(resampled["ece"])) - reliability_curve(confidence, correct).error
    resampled["ece"] = [max(0.0, error - bias) for error in resampled["ece"]]
    return resampled


def _share_interval(value: float, resampled: Reals, images: float) -> Estimate:
    """Wilson's interval at the effective sample size, which gives the bootstrap variance; at most `images`.

    Without a limit it would be too large where errors are few, and infinite without an error.
    """
    defined = resampled[~np.isnan(resampled)]  # a sample may lack a class
    if np.isnan(value) or not len(defined):
        return wilson_interval(0, 0)
    error, variance = value * (1 - value), defined.var()
    if error and variance * images > error:
        images = error / variance
    return wilson_interval(value * images, images)


def _percentile_interval(value: float, resampled: Sequence[float]) -> Estimate:
    """The percentile bootstrap interval."""
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(value), float(low), float(high))


def _weighted_counts(indices: Integers, weights: Reals, size: int) -> Reals:
    return np.bincount(indices, weights, minlength=size).astype(np.float64)


def _share(part: Reals, whole: Reals) -> Reals:
    """part / whole, NaN where whole is 0."""
    shares: Reals = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return shares
