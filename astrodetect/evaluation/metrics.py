"""How well scores and probabilities tell classes apart, in figures that people quote."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

SMALLEST_PROBABILITY = 1e-7
CALIBRATION_BINS = 15  # of equal width, of the probabilities whose calibration is looked at

Integers = NDArray[np.int64]  # of classes, image by image
Reals = NDArray[np.float64]


def binary_metrics(truth: Integers, scores: Floats, threshold: float = 0.5) -> dict[str, float]:
    """The headline figures of a model with a threshold; what the classes at hand cannot tell is NaN."""
    probabilities = np.stack([1 - scores, scores], axis=1)
    return headline_metrics(truth, probabilities, predict_classes(probabilities, threshold))


def multiclass_metrics(truth: Integers, probabilities: Floats, names: Sequence[str]) -> dict[str, float]:
    """The headline figures of a model of any number of classes, and the recall of each."""
    said = predict_classes(probabilities)
    found = confusion(truth, said, len(names))
    recalls = zip(names, recall(found).tolist(), strict=True)
    return headline_metrics(truth, probabilities, said) | {f"recall_{name}": value for name, value in recalls}


def headline_metrics(truth: Integers, probabilities: Floats, said: Integers) -> dict[str, float]:
    """The figures that open a report: `said` is the class that each image is taken for."""
    found = confusion(truth, said, probabilities.shape[1])
    return {
        "images": float(len(truth)),
        "accuracy": float((said == truth).mean()),
        "balanced_accuracy": float(recall(found).mean()),
        "auc": float(np.mean([ranking.auc() for ranking in class_rankings(truth, probabilities)])),
        "log_loss": float(negative_log_likelihood(truth, probabilities).mean()),
        "macro_f1": float(f1(found).mean()),
        "brier": float(brier_scores(truth, probabilities).mean()),
        "ece": reliability_curve(*top_label_confidence(truth, probabilities)).error,
    }


def predict_classes(probabilities: Floats, threshold: float | None = None) -> Integers:
    """The class that each image is taken for: the likeliest, or the second of two where its score is above."""
    said = probabilities.argmax(axis=1) if threshold is None else probabilities[:, 1] > threshold
    return said.astype(np.int64)


def confusion(truth: Integers, said: Integers, classes: int) -> Reals:
    """How many images of each class (row) are taken for each class (column)."""
    cells = np.bincount(truth * classes + said, minlength=classes**2)
    return cells.reshape(classes, classes).astype(np.float64)


def recall(found: Reals) -> Reals:
    """Of each class's images, the share that is found; NaN where it has none."""
    return _share(np.diagonal(found, axis1=-2, axis2=-1), found.sum(axis=-1))


def precision(found: Reals) -> Reals:
    """Of what is taken for each class, the share that is one; NaN where nothing is."""
    return _share(np.diagonal(found, axis1=-2, axis2=-1), found.sum(axis=-2))


def f1(found: Reals) -> Reals:
    """Each class's harmonic mean of precision and recall; NaN where no image is one or is taken for one."""
    right = np.diagonal(found, axis1=-2, axis2=-1)
    return _share(2 * right, found.sum(axis=-1) + found.sum(axis=-2))


def auc(truth: Integers, scores: Floats) -> float:
    """The chance that a positive image scores above a negative one, ties counting half."""
    return ScoreRanking(truth == 1, scores).auc()


class ScoreRanking:
    """Images in the order of a score, to be asked more than once how many of one kind stand above the others."""

    def __init__(self, positive: NDArray[np.bool_], scores: Floats) -> None:
        self.values, self._places = np.unique(scores, return_inverse=True)
        self._positive = positive

    def counts(self, weights: Reals | None = None) -> tuple[Reals, Reals]:
        """How many positive and how many negative images have each of the values, which rise."""
        weight = np.ones(len(self._places)) if weights is None else weights
        many = len(self.values)
        return _sums(self._places, weight * self._positive, many), _sums(self._places, weight * ~self._positive, many)

    def auc(self, weights: Reals | None = None) -> float:
        """The chance that a positive image scores above a negative one; NaN where either is missing."""
        positives, negatives = self.counts(weights)
        below = np.cumsum(negatives) - negatives / 2  # ties count half
        return float(_share((positives * below).sum(), positives.sum() * negatives.sum()))


def class_rankings(truth: Integers, probabilities: Floats) -> list[ScoreRanking]:
    """Of two classes by the score of the second; of more, each one against the rest."""
    numbers = range(probabilities.shape[1])
    return [
        ScoreRanking(truth == number, probabilities[:, number]) for number in (numbers if len(numbers) > 2 else (1,))
    ]


def log_loss(truth: Integers, scores: Floats) -> float:
    """The mean surprise at the truth, in nats; a sure error costs much, never infinity."""
    return float(negative_log_likelihood(truth, np.stack([1 - scores, scores], axis=1)).mean())


def negative_log_likelihood(truth: Integers, probabilities: Floats) -> Reals:
    """At the truth of each image, in nats."""
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.asarray(-np.log(of_truth.clip(SMALLEST_PROBABILITY, 1)))


def brier_scores(truth: Integers, probabilities: Floats) -> Reals:
    """Of each image's probabilities, added over the classes and halved, so that two classes have Brier's own score."""
    wanted = np.eye(probabilities.shape[1])[truth]
    return np.asarray(((probabilities - wanted) ** 2).sum(axis=1) / 2)


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """Probabilities beside how often they came true, in bins of equal width; NaN where a bin is empty."""

    counts: Reals
    said: Reals  # the mean probability in each bin
    came_true: Reals  # the share

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, each image counting the same."""
        filled = self.counts > 0
        apart = np.abs(self.said - self.came_true)[filled]
        return float(_share((self.counts[filled] * apart).sum(), self.counts.sum()))


def reliability_curve(probabilities: Floats, true: NDArray[np.bool_], weights: Reals | None = None) -> ReliabilityCurve:
    """How far these probabilities can be taken at their word."""
    weight = np.ones(len(true)) if weights is None else weights
    bins = np.clip((probabilities * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)
    counts, said, came_true = (_sums(bins, weight * value, CALIBRATION_BINS) for value in (1.0, probabilities, true))
    return ReliabilityCurve(counts, _share(said, counts), _share(came_true, counts))


def top_label_confidence(truth: Integers, probabilities: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The probability of each image's likeliest class, and whether that is the true one: what the calibration error of
    every model is measured on, whatever its threshold."""
    return probabilities.max(axis=1), predict_classes(probabilities) == truth


def _sums(places: Integers, values: Reals, many: int) -> Reals:
    """What the values at each of `many` places add up to."""
    return np.bincount(places, values, minlength=many).astype(np.float64)


def _share(part: Reals, whole: Reals) -> Reals:
    """NaN, without a warning, where there is nothing to share."""
    shares: Reals = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return shares


SHARE = 0.95
DEVIATIONS = 1.959964  # of a normal distribution, that hold this share
RESAMPLES = 500  # drawn with replacement, for figures without a formula
SEED = 0  # the same images, the same intervals


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and where it would be with 95 of 100 other samples of images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """How well one class is told from the others."""

    name: str
    images: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


def wilson_interval(part: float, whole: float) -> Estimate:
    """A share of images; the interval stays within 0 and 1, and is wide where there are few."""
    if not whole:
        return Estimate(float("nan"), float("nan"), float("nan"))
    share, spread = float(part / whole), DEVIATIONS**2 / whole
    middle = (share + spread / 2) / (1 + spread)
    half = DEVIATIONS * np.sqrt(share * (1 - share) / whole + spread / whole / 4) / (1 + spread)
    return Estimate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def estimate_headline_metrics(truth: Integers, probabilities: Floats, said: Integers) -> dict[str, Estimate]:
    """What `binary` and `classes` give, by the same names."""
    values = headline_metrics(truth, probabilities, said)
    found = confusion(truth, said, probabilities.shape[1])
    confusions = _resampled(found)
    drawn = {
        "balanced_accuracy": recall(confusions).mean(axis=-1),
        "macro_f1": f1(confusions).mean(axis=-1),
        **_scores_resampled(truth, probabilities),
    }
    figures = {name: _figure(values[name], drawn[name]) for name in drawn}
    return {"accuracy": wilson_interval(np.trace(found), len(truth)), **figures}


def per_class_metrics(found: Reals, names: Sequence[str]) -> list[ClassMetrics]:
    """Precision, recall and F1 of each class of a confusion matrix."""
    right, are, said = np.diag(found), found.sum(axis=1), found.sum(axis=0)
    f1_scores, drawn = f1(found), f1(_resampled(found))
    return [
        ClassMetrics(
            name,
            int(are[i]),
            wilson_interval(right[i], said[i]),
            wilson_interval(right[i], are[i]),
            _figure(f1_scores[i], drawn[:, i]),
        )
        for i, name in enumerate(names)
    ]


def _resampled(found: Reals) -> Reals:
    """The confusion matrices of as many images drawn with replacement from these."""
    random, images = np.random.default_rng(SEED), found.sum()
    drawn = random.multinomial(int(images), found.ravel() / images, RESAMPLES)
    return drawn.reshape(RESAMPLES, *found.shape).astype(np.float64)


def _scores_resampled(truth: Integers, probabilities: Floats) -> dict[str, list[float]]:
    """The figures that depend on more than the confusion matrix."""
    random, images = np.random.default_rng(SEED), len(truth)
    rankings = class_rankings(truth, probabilities)
    surprise, squares = (
        negative_log_likelihood(truth, probabilities),
        brier_scores(truth, probabilities),
    )
    sureness, right = top_label_confidence(truth, probabilities)
    drawn: dict[str, list[float]] = {"auc": [], "log_loss": [], "brier": [], "ece": []}
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)
        drawn["auc"].append(float(np.mean([ranking.auc(weights) for ranking in rankings])))
        drawn["log_loss"].append(float(weights @ surprise / images))
        drawn["brier"].append(float(weights @ squares / images))
        drawn["ece"].append(reliability_curve(sureness, right, weights).error)
    # Chance makes bins look off, and a draw from a sample has it twice: what that adds is taken away.
    added = float(np.mean(drawn["ece"])) - reliability_curve(sureness, right).error
    drawn["ece"] = [max(0.0, error - added) for error in drawn["ece"]]
    return drawn


def _figure(value: float, drawn: Sequence[float] | Reals) -> Estimate:
    known = np.asarray(drawn)[~np.isnan(drawn)]  # a draw may hold no image of a class
    if np.isnan(value) or not len(known):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Estimate(float(value), float(low), float(high))
