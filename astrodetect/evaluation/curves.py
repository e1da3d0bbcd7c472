"""The curves of an evaluation: ROC and precision–recall of each class, and the training history."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from astrodetect.evaluation.metrics import VALIDATION_LOSS, Reals, ScoreRanking
from astrodetect.evaluation.summary import EvaluationInputs

MAX_CURVE_CLASSES = 12  # the largest classes


@dataclass(frozen=True, slots=True)
class ClassCurves:
    """ROC and precision–recall curve of one class against the rest."""

    name: str
    auc: float
    false_positive_rate: Reals
    true_positive_rate: Reals
    average_precision: float
    base_rate: float  # share of the class, which is the precision of guessing
    recall: Reals
    precision: Reals


@dataclass(frozen=True, slots=True)
class TrainingHistory:
    """The epochs of a training; a value that was not recorded is NaN."""

    epochs: range
    train_loss: Sequence[float]
    validation_loss: Sequence[float]  # by which the epoch was chosen
    accuracy: Sequence[float]
    auc: Sequence[float]
    chosen: int


def class_curves(inputs: EvaluationInputs) -> list[ClassCurves]:
    """The curves of the positive class of two, or of each of several, of the part shown in detail."""
    model, truth = inputs.model, inputs.detailed.truth
    probabilities = inputs.detailed.outputs.probabilities
    counts = np.bincount(truth, minlength=len(model.classes))
    classes = [1] if len(model.classes) == 2 else np.argsort(-counts, kind="stable")[:MAX_CURVE_CLASSES].tolist()
    return [
        _curves(model.classes[index], ScoreRanking(truth == index, probabilities[:, index]))
        for index in classes
        if 0 < counts[index] < len(truth)
    ]


def _curves(name: str, ranking: ScoreRanking) -> ClassCurves:
    positives, negatives = ranking.counts()
    true_positives, false_positives = positives[::-1].cumsum(), negatives[::-1].cumsum()  # from the strictest threshold
    recall, precision = true_positives / true_positives[-1], true_positives / (true_positives + false_positives)
    return ClassCurves(
        name=name,
        auc=ranking.auc(),
        false_positive_rate=np.append(0, false_positives / false_positives[-1]),
        true_positive_rate=np.append(0, recall),
        average_precision=float((np.diff(recall, prepend=0) * precision).sum()),
        base_rate=float(true_positives[-1] / (true_positives[-1] + false_positives[-1])),
        recall=np.append(0, recall),
        precision=np.append(precision[0], precision),
    )


def training_history(history: Any) -> TrainingHistory | None:
    """The history in a manifest or of a running training; None unless there are two epochs with a validation loss."""
    epochs = [epoch for epoch in history if isinstance(epoch, dict)] if isinstance(history, list) else []
    selection = next((name for name in (VALIDATION_LOSS, "log_loss") if epochs and name in epochs[0]), None)
    if len(epochs) < 2 or selection is None:
        return None
    train_loss, validation_loss, accuracy, auc = (
        [float(epoch.get(name, math.nan)) for epoch in epochs] for name in ("train_loss", selection, "accuracy", "auc")
    )
    chosen = 1 + min(range(len(epochs)), key=lambda index: epochs[index].get(selection, math.inf))
    return TrainingHistory(range(1, len(epochs) + 1), train_loss, validation_loss, accuracy, auc, chosen)
