"""Calibration of class probabilities, and choosing the decision threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.evaluation.metrics import SMALLEST_PROBABILITY, Integers
from astrodetect.records import Floats

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# Standard deviation, as a factor, of a log-normal prior around 1. A few images without an error would drive the
# temperature to 0 and every score to 0 or 1; a few hundred images outweigh the prior.
PRIOR_FACTOR = 2.0
BIAS_STD = 0.5  # standard deviation, in logits, of a normal prior of each class's bias around the expected one
THRESHOLD_RULES = "a number from 0 to 1, f1, balanced, prevalence, recall=0.95 or precision=0.9"
THRESHOLD_STEPS = 1000  # of the counts that the report's threshold explorer gets


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperature scaling with a bias for each class: the logits are divided by the first, then the second is added."""

    temperature: float
    bias: tuple[float, ...]

    def apply(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities (…, classes)."""
        from scipy.special import softmax  # noqa: PLC0415 - slow to import, for options of the command line

        logits = to_logits(probabilities) / self.temperature + np.array(self.bias)
        return np.asarray(softmax(logits, axis=-1), dtype=np.float32)


def fit_calibration(truth: Integers, probabilities: Floats, expected_bias: Sequence[float]) -> Calibration:
    """The calibration that maximises the posterior of held-out images.

    `probabilities` are (views, n, classes), whose mean over the views is what is calibrated. `expected_bias` is that of
    each class by which training weighted it: the calibrated probabilities hold at the class balance of these images.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - as above
    from scipy.special import log_softmax, logsumexp  # noqa: PLC0415

    logits, rows = to_logits(probabilities).astype(np.float64), np.arange(len(truth))
    expected = np.array(expected_bias) - np.mean(expected_bias)

    def negative_log_posterior(parameters: NDArray[np.float64]) -> float:
        log_temperature, bias = parameters[0], parameters[1:]
        views = log_softmax(logits * np.exp(-log_temperature) + bias, axis=-1)[:, rows, truth]
        log_likelihood = float(logsumexp(views, axis=0).sum())
        log_prior = -((log_temperature / np.log(PRIOR_FACTOR)) ** 2 + (((bias - expected) / BIAS_STD) ** 2).sum()) / 2
        return -log_likelihood - float(log_prior)

    bounds = [(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)), *[(None, None)] * len(expected)]
    best = minimize(negative_log_posterior, [0.0, *expected], method="L-BFGS-B", bounds=bounds).x
    return Calibration(float(np.exp(best[0])), tuple(best[1:].tolist()))


def to_logits(probabilities: Floats) -> Floats:
    """Finite logits whose softmax gives these probabilities (…, classes)."""
    return np.asarray(np.log(probabilities.clip(SMALLEST_PROBABILITY, 1)))


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How a threshold is chosen: a fixed number, the best F1 or balanced accuracy, or a required recall or precision.

    `prevalence` is the share of the positive class, at which calibrated scores have the best balanced accuracy.
    `value` is the number or the requirement.
    """

    kind: Literal["number", "f1", "balanced", "prevalence", "recall", "precision"]
    value: float = 0.0


def parse_threshold_rule(text: str) -> ThresholdRule:
    """Parse a rule such as 0.3, f1 or recall=0.95; a ValueError lists the rules."""
    kind, equals, digits = text.partition("=")
    if not equals and kind in ("f1", "balanced", "prevalence"):
        return ThresholdRule(kind)  # type: ignore[arg-type] # mypy does not narrow a str by its values
    try:
        value = float(digits if equals else kind)
    except ValueError:
        value = float("nan")
    if equals and kind in ("recall", "precision") and 0 < value <= 1:
        return ThresholdRule(kind, value)  # type: ignore[arg-type]
    if not equals and 0 <= value <= 1:
        return ThresholdRule("number", value)
    raise ValueError(f"{THRESHOLD_RULES}, not {text}")


def choose_threshold(rule: str, truth: Integers, scores: Floats) -> float:
    """The threshold that the rule chooses on these images, half-way between two of their scores."""
    parsed = parse_threshold_rule(rule)
    if parsed.kind == "number":
        return parsed.value
    positives = int((truth == 1).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise DataError(f"a threshold by {rule} needs images of both classes: give a number instead")
    if parsed.kind == "prevalence":
        return positives / len(truth)
    thresholds, true_positives, false_positives = _candidate_thresholds(truth, scores)
    recall = true_positives / positives
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    centrality = -np.abs(thresholds - 0.5)  # breaks ties towards 0.5
    if parsed.kind == "f1":
        best = np.lexsort((centrality, 2 * true_positives / (true_positives + false_positives + positives)))[-1]
    elif parsed.kind == "balanced":
        best = np.lexsort((centrality, true_positives * negatives - false_positives * positives))[-1]
    else:
        required, other = (recall, precision) if parsed.kind == "recall" else (precision, recall)
        best = np.lexsort((centrality, required, np.where(required >= parsed.value, other, -1.0)))[-1]
        if required[best] < parsed.value:
            highest = np.lexsort((other, required))[-1]
            other_name = "precision" if parsed.kind == "recall" else "recall"
            raise DataError(
                f"no threshold gives {parsed.kind} {parsed.value:g} on these {len(truth)} images: "
                f"the highest is {required[highest]:.3f}, at a {other_name} of {other[highest]:.3f}"
            )
    return float(thresholds[best])


def _candidate_thresholds(truth: Integers, scores: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """A threshold between each two neighbouring scores, and the true and false positives above it."""
    values, value_indices = np.unique(scores, return_inverse=True)
    edges = np.concatenate([[0], values, [1]]).astype(np.float32)
    lower, upper = edges[:-1], edges[1:]
    middle: Floats = (lower + upper) / np.float32(2)
    middle = np.where(middle < upper, middle, lower)  # between adjacent floats, the upper one must stay above
    above = [np.bincount(value_indices[truth == index], minlength=len(values))[::-1].cumsum()[::-1] for index in (1, 0)]
    true_positives, false_positives = (np.append(counts, 0) for counts in above)
    distinct = upper > lower  # no threshold is below a score of 0
    distinct[-1] = True  # above all scores, even 1
    return middle[distinct], true_positives[distinct], false_positives[distinct]


@dataclass(frozen=True, slots=True)
class ThresholdCounts:
    """Image counts from which the outcome of any threshold on a grid follows.

    `positives[k]` images of the positive class score above (k - 1) / THRESHOLD_STEPS and not above k / THRESHOLD_STEPS.
    """

    threshold: float  # of the model
    positives: list[int]
    negatives: list[int]
    true_positives: int  # at the model's threshold, which need not be on the grid
    false_positives: int

    @property
    def false_negatives(self) -> int:
        """Positive images not above the model's threshold."""
        return sum(self.positives) - self.true_positives

    @property
    def true_negatives(self) -> int:
        """Negative images not above the model's threshold."""
        return sum(self.negatives) - self.false_positives


def count_by_threshold(truth: Integers, scores: Floats, threshold: float) -> ThresholdCounts:
    """Count the images of each class between the thresholds of the grid."""
    positive, negative = (scores[truth == index].astype(np.float64) for index in (1, 0))
    positives, negatives = (
        np.bincount(
            np.ceil(own * THRESHOLD_STEPS).astype(int).clip(0, THRESHOLD_STEPS), minlength=THRESHOLD_STEPS + 1
        ).tolist()
        for own in (positive, negative)
    )
    return ThresholdCounts(
        threshold, positives, negatives, int((positive > threshold).sum()), int((negative > threshold).sum())
    )
