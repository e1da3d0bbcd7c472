"""The figures of a report with their captions: training, ROC and precision–recall, calibration."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from astrodetect.evaluation import metrics
from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.evaluation.metrics import ScoreRanking
from astrodetect.reports.svg_charts import ChartAxes, ChartLine, line_chart, reliability_diagram

MAX_CURVE_CLASSES = 12  # that have curves of their own: those with most images
WATCHED = "watched_loss"  # the figure of a history by which the epoch was chosen; log_loss where it has none
UNIT = ChartAxes((0, 1), (0, 1))
LOW = 250.0  # the height of the figures of training


@dataclass(frozen=True, slots=True)
class CaptionedChart:
    """A figure and what one sees in it."""

    figure: Markup
    caption: str


def training_charts(history: Any) -> list[CaptionedChart]:
    """How losses and figures went from epoch to epoch, and which one was chosen."""
    epochs = [epoch for epoch in history if isinstance(epoch, dict)] if isinstance(history, list) else []
    watched = next((name for name in (WATCHED, "log_loss") if epochs and name in epochs[0]), None)
    if len(epochs) < 2 or watched is None:
        return []
    chosen = 1 + min(range(len(epochs)), key=lambda place: epochs[place].get(watched, math.inf))

    def line(name: str, title: str, kind: str) -> ChartLine:
        values = [float(epoch.get(name, math.nan)) for epoch in epochs]
        return ChartLine(
            f"{title} ({'solid' if kind == 'first' else 'dashed'})", range(1, len(epochs) + 1), values, kind
        )

    losses = (
        line("train_loss", "of the images learnt from", "first"),
        line(watched, "of the validation images", "second"),
    )
    shares = (line("accuracy", "accuracy", "first"), line("auc", "AUC", "second"))
    shown = []
    for title, lines in (("loss", losses), ("validation images", shares)):
        values = np.array([line.y for line in lines])
        if np.isnan(values).all():
            continue
        low, high = (0.0, 1.05 * np.nanmax(values)) if lines is losses else (np.floor(10 * np.nanmin(values)) / 10, 1.0)
        axes = ChartAxes((1, len(epochs)), (min(low, high - 0.1), high), LOW)
        caption = f"{title.capitalize()}: {' and '.join(line.title for line in lines)}; epoch {chosen} was chosen."
        shown.append(CaptionedChart(line_chart(caption, lines, axes, ("epoch", title), chosen=chosen), caption))
    return shown


def discrimination_charts(evidence: EvaluationInputs) -> list[CaptionedChart]:
    """ROC and precision–recall: of two classes for the positive one, of more for each against the rest."""
    model, truth = evidence.model, evidence.shown.truth
    probabilities = evidence.shown.outputs.probabilities
    counts = np.bincount(truth, minlength=len(model.classes))
    numbers = [1] if len(model.classes) == 2 else np.argsort(-counts, kind="stable")[:MAX_CURVE_CLASSES].tolist()
    shown = []
    for number in numbers:
        name, ranking = model.classes[number], ScoreRanking(truth == number, probabilities[:, number])
        positives, negatives = ranking.counts()
        if positives.sum() and negatives.sum():
            shown += [_roc(name, ranking), _precision_recall(name, ranking)]
    return shown


def _roc(name: str, ranking: ScoreRanking) -> CaptionedChart:
    hits, alarms = _above(ranking)
    lines = [ChartLine("", (0, 1), (0, 1), "chance"), ChartLine(name, alarms / alarms[-1], hits / hits[-1])]
    caption = f"{name}: AUC {ranking.auc():.4f}. Dotted: chance."
    figure = line_chart(
        f"ROC of {caption}", lines, UNIT, ("false alarms, share of others", "found, share of the class")
    )
    return CaptionedChart(figure, f"ROC of {caption}")


def _precision_recall(name: str, ranking: ScoreRanking) -> CaptionedChart:
    hits, alarms = (counts[1:] for counts in _above(ranking))
    recall, precision = hits / hits[-1], hits / (hits + alarms)
    mean = float((np.diff(recall, prepend=0) * precision).sum())
    base = hits[-1] / (hits[-1] + alarms[-1])
    lines = [
        ChartLine("", (0, 1), (base, base), "chance"),
        ChartLine(name, np.append(0, recall), np.append(precision[0], precision)),
    ]
    caption = f"Precision and recall of {name}: average precision {mean:.4f}. Dotted: chance."
    return CaptionedChart(line_chart(caption, lines, UNIT, ("recall", "precision")), caption)


def _above(ranking: ScoreRanking) -> tuple[metrics.Reals, metrics.Reals]:
    """How many images of the class and of the others are above each cut, from none to all."""
    positives, negatives = ranking.counts()
    return np.append(0, positives[::-1].cumsum()), np.append(0, negatives[::-1].cumsum())


def calibration_charts(evidence: EvaluationInputs) -> list[CaptionedChart]:
    """What probabilities were said, and how often they came true."""
    model, truth = evidence.model, evidence.shown.truth
    probabilities = evidence.shown.outputs.probabilities
    sure = metrics.reliability_curve(*metrics.top_label_confidence(truth, probabilities))
    about = "Dots on the dotted line are probabilities that can be taken at their word; bars count images."
    caption = f"The likeliest class: calibration error {sure.error:.3f}, over {metrics.CALIBRATION_BINS} bins. {about}"
    shown = [CaptionedChart(reliability_diagram(caption, sure, "probability of the likeliest class"), caption)]
    if model.task == "binary":
        scores = metrics.reliability_curve(probabilities[:, 1], truth == 1)
        caption = f"The score, as a probability of {model.classes[1]}: calibration error {scores.error:.3f}. {about}"
        shown.append(CaptionedChart(reliability_diagram(caption, scores, f"score ({model.classes[1]})"), caption))
    return shown
