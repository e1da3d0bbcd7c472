"""How well scores tell the positive class from the other."""

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

SMALLEST_PROBABILITY = 1e-7


def binary(truth: NDArray[np.int64], scores: Floats, threshold: float = 0.5) -> dict[str, float]:
    """Accuracy, balanced accuracy, AUC and log loss; what the classes at hand cannot tell is NaN."""
    said = scores > threshold
    right = said == (truth == 1)
    per_class = [float(right[truth == number].mean()) if (truth == number).any() else float("nan") for number in (0, 1)]
    return {
        "images": float(len(truth)),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(per_class)),
        "auc": auc(truth, scores),
        "log_loss": log_loss(truth, scores),
    }


def auc(truth: NDArray[np.int64], scores: Floats) -> float:
    """The chance that a positive image scores above a negative one, ties counting half."""
    positives = int((truth == 1).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # ties share the mean of their ranks
    above = ranks[places][truth == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def log_loss(truth: NDArray[np.int64], scores: Floats) -> float:
    """The mean surprise at the truth, in nats; a sure error costs much, never infinity."""
    of_truth = np.where(truth == 1, scores, 1 - scores).astype(np.float64)
    return float(-np.log(of_truth.clip(SMALLEST_PROBABILITY, 1)).mean())
