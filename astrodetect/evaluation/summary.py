"""The evaluation summary: metrics of each part as JSON for other programs and the next run, and as text."""

import datetime as dt
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from astrodetect.evaluation import metrics
from astrodetect.evaluation.metrics import ClassMetrics, Estimate, Integers
from astrodetect.records import Floats, ImageContract, ImagePath, Outputs, Pixels


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What the manifest says of the model."""

    name: str
    version: str
    task: Literal["binary", "classes"]
    recipe: str
    classes: Sequence[str]
    threshold: float  # of a binary model
    temperature: float
    precision: str  # numeric precision of inference
    image: ImageContract
    created: str
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]
    warnings: Sequence[str] = ()  # what everyone who uses the model should know of it

    def predict(self, probabilities: Floats) -> Integers:
        """The predicted class of each image."""
        return metrics.predict_classes(probabilities, self.threshold if self.task == "binary" else None)


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """Labelled images of one part of a data set, and the model's outputs for them."""

    title: str
    paths: Sequence[ImagePath]
    truth: Integers
    fingerprint: str
    outputs: Outputs
    skipped: int = 0  # unreadable files


@dataclass(frozen=True, slots=True)
class TrainingFeatures:
    """Network features of training images, which unusual images are compared with."""

    truth: Integers
    features: Floats


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Everything a report is made from; the last part is shown in detail."""

    model: EvaluatedModel
    parts: Sequence[EvaluatedPart]
    training: TrainingFeatures | None = None
    views: int = 1  # flips and rotations that the outputs are averaged over
    one_view: Floats | None = None  # the last part's probabilities without averaging
    remarks: Sequence[str] = ()  # on the data: duplicates, leaks
    # From pixels and the predicted class to a heat map (0 to 1), for networks whose own map has too few places.
    explain: Callable[[Pixels, int], Floats] | None = None

    @property
    def detailed(self) -> EvaluatedPart:
        """The part shown in detail."""
        return self.parts[-1]


FORMAT = 1
MIN_DIFFERENCE = 0.0005  # smaller ones do not show in three decimals


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A headline metric: its name, what it means and how it is formatted."""

    name: str
    title: str
    meaning: str
    percent: bool = False
    less_is_better: bool = False

    def text(self, value: float | None) -> str:
        """The formatted value."""
        if value is None or math.isnan(value):
            return "–"
        return f"{100 * value:.1f} %" if self.percent else f"{value:.3f}"

    def difference(self, now: float, before: float | None) -> str:
        """The formatted change, and whether it is an improvement."""
        if before is None or math.isnan(now) or math.isnan(before):
            return "–"
        change = now - before
        text = f"{100 * change:+.1f} points" if self.percent else f"{change:+.3f}"
        if abs(change) < MIN_DIFFERENCE:
            return "the same"
        return f"{text.replace('-', '−')}, {'better' if (change < 0) == self.less_is_better else 'worse'}"


METRIC_SPECS = (
    MetricSpec("accuracy", "Accuracy", "share of images classified correctly", percent=True),
    MetricSpec("balanced_accuracy", "Balanced accuracy", "mean recall of the classes", percent=True),
    MetricSpec("macro_f1", "Macro F1", "mean F1 score of the classes"),
    MetricSpec("auc", "AUC", "area under the ROC curve, averaged over the classes"),
    MetricSpec("log_loss", "Log loss", "mean negative log-likelihood of the true class, nats", less_is_better=True),
    MetricSpec("brier", "Brier score", "mean squared error of the probabilities", less_is_better=True),
    MetricSpec(
        "ece", "Calibration error", "expected calibration error of the most probable class", less_is_better=True
    ),
)
VIEW_METRICS = ("accuracy", "auc", "log_loss")  # for which one view is compared with several


@dataclass(frozen=True, slots=True)
class PartMetrics:
    """The metrics of one part of the data; its fields are those of the JSON."""

    images: int
    fingerprint: str
    figures: dict[str, Estimate]
    classes: list[ClassMetrics]
    averages: dict[str, dict[str, float]]  # macro and weighted: precision, recall and F1 over the classes
    confusion: list[list[int]]  # a row per true class, a column per predicted class


@dataclass(frozen=True, slots=True)
class Summary:
    """The metrics of all parts; its fields are those of the JSON. `one_view` is set if several views were averaged."""

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
        """A JSON document in which NaN is null."""
        return json.dumps(_finite(asdict(self)), indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """The metrics of an earlier run on the part of the same name."""

    version: str
    created: str
    views: int
    same_images: bool
    figures: dict[str, float]


def summarise_evaluation(inputs: EvaluationInputs) -> Summary:
    """Compute the metrics of every part."""
    model = inputs.model
    one_view = None
    if inputs.one_view is not None:
        truth = inputs.detailed.truth
        one_view = metrics.headline_metrics(truth, inputs.one_view, model.predict(inputs.one_view))
    return Summary(
        model=model.name,
        version=model.version,
        task=model.task,
        classes=list(model.classes),
        threshold=model.threshold if model.task == "binary" else None,
        precision=model.precision,
        views=inputs.views,
        parts={part.title: _part_metrics(model, part) for part in inputs.parts},
        one_view=one_view,
        remarks=[*model.warnings, *inputs.remarks],
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _part_metrics(model: EvaluatedModel, part: EvaluatedPart) -> PartMetrics:
    probabilities = part.outputs.probabilities
    predicted = model.predict(probabilities)
    matrix = metrics.confusion(part.truth, predicted, len(model.classes))
    classes = metrics.per_class_metrics(matrix, model.classes)
    return PartMetrics(
        images=len(part.truth),
        fingerprint=part.fingerprint,
        figures=metrics.estimate_headline_metrics(part.truth, probabilities, predicted),
        classes=classes,
        averages=metrics.average_class_metrics(classes),
        confusion=matrix.astype(int).tolist(),
    )


def read_previous(path: Path, part: str, fingerprint: str) -> PreviousRun | None:
    """The metrics of this part in an earlier run's JSON, if there is one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        part_metrics = document["parts"][part]
        values = {name: estimate["value"] for name, estimate in part_metrics["figures"].items()}
        return PreviousRun(
            str(document["version"]),
            str(document["created"]),
            int(document["views"]),
            part_metrics["fingerprint"] == fingerprint,
            {name: float(value) for name, value in values.items() if value is not None},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # missing, or not a summary


def summary_lines(summary: Summary) -> list[str]:
    """The headline metrics and the classification report as text, line by line, and the effect of averaging views."""
    lines = []
    for title, part in summary.parts.items():
        lines.append(f"{title}: {part.images} images")
        lines += [
            f"  {spec.title}: {spec.text(part.figures[spec.name].value)} ({interval_text(spec, part.figures)})"
            for spec in METRIC_SPECS
        ]
        lines += [f"  {line}" for line in classification_report(part)]
    if summary.one_view is not None:
        detailed = list(summary.parts.values())[-1]
        for spec in METRIC_SPECS:
            if spec.name in VIEW_METRICS:
                before, after = summary.one_view[spec.name], detailed.figures[spec.name].value
                change = spec.difference(after, before)
                lines.append(f"{summary.views} views: {spec.title} {spec.text(before)} → {spec.text(after)} ({change})")
    return lines


def classification_report(part: PartMetrics) -> list[str]:
    """Precision, recall, F1 and support of each class, accuracy and averages, as a table in text."""
    rows = [(row.name, (row.precision.value, row.recall.value, row.f1.value), row.images) for row in part.classes]
    averages = [(f"{name} average", tuple(values.values()), part.images) for name, values in part.averages.items()]
    accuracy = ("accuracy", (math.nan, math.nan, part.figures["accuracy"].value), part.images)
    width = max(len(name) for name, _, _ in [*rows, *averages])
    return [
        f"{'class':{width}}  precision  recall     F1  support",
        *(
            f"{name:{width}}  {cells[0]:>9}  {cells[1]:>6}  {cells[2]:>5}  {images:>7,}"
            for name, values, images in [*rows, accuracy, *averages]
            for cells in [["" if math.isnan(value) else f"{value:.3f}" for value in values]]
        ),
    ]


def interval_text(spec: MetricSpec, figures: dict[str, Estimate]) -> str:
    """The formatted interval of a metric."""
    estimate = figures[spec.name]
    return f"{spec.text(estimate.low)} to {spec.text(estimate.high)}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
