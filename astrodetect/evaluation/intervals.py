"""How sure figures are that were measured on few images: each with the interval that holds 95 of 100."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from astrodetect.evaluation import metrics
from astrodetect.evaluation.metrics import Integers, Reals
from astrodetect.records import Floats

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
    """What `metrics.binary` and `metrics.classes` give, by the same names."""
    values = metrics.headline_metrics(truth, probabilities, said)
    found = metrics.confusion(truth, said, probabilities.shape[1])
    confusions = _resampled(found)
    drawn = {
        "balanced_accuracy": metrics.recall(confusions).mean(axis=-1),
        "macro_f1": metrics.f1(confusions).mean(axis=-1),
        **_scores_resampled(truth, probabilities),
    }
    figures = {name: _figure(values[name], drawn[name]) for name in drawn}
    return {"accuracy": wilson_interval(np.trace(found), len(truth)), **figures}


def per_class_metrics(found: Reals, names: Sequence[str]) -> list[ClassMetrics]:
    """Precision, recall and F1 of each class of a confusion matrix."""
    right, are, said = np.diag(found), found.sum(axis=1), found.sum(axis=0)
    f1, drawn = metrics.f1(found), metrics.f1(_resampled(found))
    return [
        ClassMetrics(
            name,
            int(are[i]),
            wilson_interval(right[i], said[i]),
            wilson_interval(right[i], are[i]),
            _figure(f1[i], drawn[:, i]),
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
    rankings = metrics.class_rankings(truth, probabilities)
    surprise, squares = (
        metrics.negative_log_likelihood(truth, probabilities),
        metrics.brier_scores(truth, probabilities),
    )
    sureness, right = metrics.top_label_confidence(truth, probabilities)
    drawn: dict[str, list[float]] = {"auc": [], "log_loss": [], "brier": [], "ece": []}
    for _ in range(RESAMPLES):
        weights = np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)
        drawn["auc"].append(float(np.mean([ranking.auc(weights) for ranking in rankings])))
        drawn["log_loss"].append(float(weights @ surprise / images))
        drawn["brier"].append(float(weights @ squares / images))
        drawn["ece"].append(metrics.reliability_curve(sureness, right, weights).error)
    # Chance makes bins look off, and a draw from a sample has it twice: what that adds is taken away.
    added = float(np.mean(drawn["ece"])) - metrics.reliability_curve(sureness, right).error
    drawn["ece"] = [max(0.0, error - added) for error in drawn["ece"]]
    return drawn


def _figure(value: float, drawn: Sequence[float] | Reals) -> Estimate:
    known = np.asarray(drawn)[~np.isnan(drawn)]  # a draw may hold no image of a class
    if np.isnan(value) or not len(known):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Estimate(float(value), float(low), float(high))
