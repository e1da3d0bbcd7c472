"""The headline figures: what each is called, what it means and how it reads."""

import math
from dataclasses import dataclass

from astrodetect.evaluation.intervals import Estimate
from astrodetect.evaluation.summary import Summary

SMALLEST_CHANGE = 0.0005  # that is seen in a figure as it is written


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A headline figure: what it is called and what it means."""

    name: str
    title: str
    meaning: str
    percent: bool = False
    less_is_better: bool = False

    def text(self, value: float | None) -> str:
        """The figure in words."""
        if value is None or math.isnan(value):
            return "–"
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}"

    def difference(self, now: float, before: float | None) -> str:
        """How it changed, and whether for the better."""
        if before is None or math.isnan(now) or math.isnan(before):
            return "–"
        change = now - before
        text = f"{100 * change:+.1f} points" if self.percent else f"{change:+.3f}"
        if abs(change) < SMALLEST_CHANGE:
            return "the same"
        return f"{text.replace('-', '−')}, {'better' if (change < 0) == self.less_is_better else 'worse'}"


METRIC_SPECS = (
    MetricSpec("accuracy", "Accuracy", "images told rightly", percent=True),
    MetricSpec("balanced_accuracy", "Balanced accuracy", "the same, each class counting alike", percent=True),
    MetricSpec("macro_f1", "Macro F1", "precision and recall in one, each class counting alike"),
    MetricSpec("auc", "AUC", "chance that an image of a class scores above one of another"),
    MetricSpec("log_loss", "Log loss", "mean surprise at the truth, nats", less_is_better=True),
    MetricSpec("brier", "Brier score", "mean squared error of the probabilities", less_is_better=True),
    MetricSpec("ece", "Calibration error", "how far the likeliest class's probability is off", less_is_better=True),
)
GAINS = ("accuracy", "auc", "log_loss")  # what several views are asked to improve


def summary_lines(summary: Summary) -> list[str]:
    """The headline figures line by line, and what several views gained."""
    lines = []
    for title, part in summary.parts.items():
        lines.append(f"{title}: {part.images} images")
        lines += [
            f"  {kind.title}: {kind.text(part.figures[kind.name].value)} ({interval_text(kind, part.figures)})"
            for kind in METRIC_SPECS
        ]
    if summary.one_view is not None:
        shown = list(summary.parts.values())[-1]
        for kind in METRIC_SPECS:
            if kind.name in GAINS:
                before, after = summary.one_view[kind.name], shown.figures[kind.name].value
                said = kind.difference(after, before)
                lines.append(f"{summary.views} views: {kind.title} {kind.text(before)} → {kind.text(after)} ({said})")
    return lines


def interval_text(kind: MetricSpec, figures: dict[str, Estimate]) -> str:
    """From where to where the figure may be."""
    figure = figures[kind.name]
    return f"{kind.text(figure.low)} to {kind.text(figure.high)}"
