"""Probabilities that mean what they say, and the threshold that an anomaly's score has to pass."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from astrodetect.errors import DataError
from astrodetect.evaluation.metrics import SMALLEST_PROBABILITY
from astrodetect.records import Floats

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
# How far from 1 a temperature is expected to be, as a factor. Few images that are all told rightly would have it go to
# zero, and every score with it to 0 or 1; a few hundred images outweigh this.
EXPECTED_FACTOR = 2.0
THRESHOLD_RULES = "a number from 0 to 1, f1, balanced, recall=0.95 or precision=0.9"


def fit_temperature(truth: NDArray[np.int64], logits: Floats) -> float:
    """What to divide logits by, so that their probabilities surprise least on images that were not learnt from.

    `logits` are (n, classes), or (n,) of the positive class.
    """
    rows = logits.astype(np.float64)
    if rows.ndim == 1:
        rows = np.stack([np.zeros_like(rows), rows], axis=1)
    rows = rows - rows[np.arange(len(truth)), truth][:, np.newaxis]

    def surprise(log_temperature: float) -> float:
        of_truth = log_softmax(rows * np.exp(-log_temperature), axis=1)[np.arange(len(truth)), truth]
        return float(-of_truth.sum() + (log_temperature / np.log(EXPECTED_FACTOR)) ** 2 / 2)

    found = minimize_scalar(surprise, bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)), method="bounded")
    return float(np.exp(found.x))


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How a threshold is chosen: as `value` itself, for the best figure of a kind, or for `value` of a kind."""

    kind: Literal["number", "f1", "balanced", "recall", "precision"]
    value: float = 0.0


def parse_threshold_rule(text: str) -> ThresholdRule:
    """The rule that a text such as 0.3, f1 or recall=0.95 asks for; a ValueError says what can be asked."""
    kind, equals, digits = text.partition("=")
    if not equals and kind in ("f1", "balanced"):
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


def choose_threshold(rule: str, truth: NDArray[np.int64], scores: Floats) -> float:
    """The threshold that the rule chooses on these images, half-way between two of their scores."""
    asked = parse_threshold_rule(rule)
    if asked.kind == "number":
        return asked.value
    positives = int((truth == 1).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        raise DataError(f"a threshold by {rule} needs images of both classes: give a number instead")
    places, hits, false_alarms = _cuts(truth, scores)
    recall = hits / positives
    precision = hits / np.maximum(hits + false_alarms, 1)
    central = -np.abs(places - 0.5)  # of equals, the one closest to the middle
    if asked.kind == "f1":
        best = np.lexsort((central, 2 * hits / (hits + false_alarms + positives)))[-1]
    elif asked.kind == "balanced":
        best = np.lexsort((central, hits * negatives - false_alarms * positives))[-1]
    else:
        wanted, other = (recall, precision) if asked.kind == "recall" else (precision, recall)
        best = np.lexsort((central, wanted, np.where(wanted >= asked.value, other, -1.0)))[-1]
        if wanted[best] < asked.value:
            most = np.lexsort((other, wanted))[-1]
            other_name = "precision" if asked.kind == "recall" else "recall"
            raise DataError(
                f"no threshold gives {asked.kind} {asked.value:g} on these {len(truth)} images: "
                f"at most {wanted[most]:.3f} can be reached, at a {other_name} of {other[most]:.3f}"
            )
    return float(places[best])


def _cuts(truth: NDArray[np.int64], scores: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Every threshold that makes a difference, and how many positive and negative images score above each."""
    values, place = np.unique(scores, return_inverse=True)
    edges = np.concatenate([[0], values, [1]]).astype(np.float32)
    lower, upper = edges[:-1], edges[1:]
    middle: Floats = (lower + upper) / np.float32(2)
    middle = np.where(middle < upper, middle, lower)  # of neighbours among floats, the upper one has to be above
    above = [np.bincount(place[truth == number], minlength=len(values))[::-1].cumsum()[::-1] for number in (1, 0)]
    hits, false_alarms = (np.append(counts, 0) for counts in above)
    apart = upper > lower  # no threshold is below a score of 0
    apart[-1] = True  # above all scores, be they 1
    return middle[apart], hits[apart], false_alarms[apart]


def to_logits(probabilities: Floats) -> Floats:
    """What a softmax turns into these probabilities (n, classes); those of nothing and of certainty stay finite."""
    return np.asarray(np.log(probabilities.clip(SMALLEST_PROBABILITY, 1)))


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """The probabilities whose logits are divided by the temperature."""
    return np.asarray(softmax(to_logits(probabilities) / temperature, axis=1), dtype=np.float32)
