"""The figures of a report as a file beside it: what another program reads, and what the next run is compared with."""

import datetime as dt
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from astrodetect.evaluation import metrics
from astrodetect.evaluation.inputs import EvaluatedModel, EvaluatedPart, EvaluationInputs
from astrodetect.evaluation.metrics import ClassMetrics, Estimate

FORMAT = 1


@dataclass(frozen=True, slots=True)
class PartMetrics:
    """What was measured on one part of the data."""

    images: int
    fingerprint: str
    figures: dict[str, Estimate]
    classes: list[ClassMetrics]
    confusion: list[list[int]]  # a row for each true class, a column for each that is said


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that was measured, by parts of the data; `one_view` is there where the others are of several views."""

    model: str
    version: str
    task: str
    classes: list[str]
    threshold: float | None
    precision: str
    views: int
    parts: dict[str, PartMetrics]
    one_view: dict[str, float] | None
    remarks: list[str]
    created: str
    format: int = FORMAT

    def as_json(self) -> str:
        """One document; what is not known is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """The figures of an earlier run on the part of the same name."""

    version: str
    created: str
    views: int
    same_images: bool
    figures: dict[str, float]


def summarise(evidence: EvaluationInputs) -> Summary:
    """Measures every part."""
    model = evidence.model
    one_view = None
    if evidence.one_view is not None:
        truth = evidence.detailed.truth
        one_view = metrics.headline_metrics(truth, evidence.one_view, model.predict(evidence.one_view))
    return Summary(
        model=model.name,
        version=model.version,
        task=model.task,
        classes=list(model.classes),
        threshold=model.threshold if model.task == "binary" else None,
        precision=model.precision,
        views=evidence.views,
        parts={part.title: _measured(model, part) for part in evidence.parts},
        one_view=one_view,
        remarks=list(evidence.remarks),
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _measured(model: EvaluatedModel, part: EvaluatedPart) -> PartMetrics:
    probabilities = part.outputs.probabilities
    said = model.predict(probabilities)
    found = metrics.confusion(part.truth, said, len(model.classes))
    return PartMetrics(
        images=len(part.truth),
        fingerprint=part.fingerprint,
        figures=metrics.estimate_headline_metrics(part.truth, probabilities, said),
        classes=metrics.per_class_metrics(found, model.classes),
        confusion=found.astype(int).tolist(),
    )


def read_previous(path: Path, part: str, fingerprint: str) -> PreviousRun | None:
    """What an earlier run left here of this part of the data, if one did."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured = found["parts"][part]
        figures = {name: figure["value"] for name, figure in measured["figures"].items()}
        known = {name: float(value) for name, value in figures.items() if value is not None}
        same = measured["fingerprint"] == fingerprint
        return PreviousRun(str(found["version"]), str(found["created"]), int(found["views"]), same, known)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # there is none, or it is of another program: nothing to compare with


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
