"""The evaluation report: a self-contained page, with its metrics as JSON beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from markupsafe import Markup

from astrodetect import atomic_files, images
from astrodetect.errors import DataError, ImageError
from astrodetect.evaluation import calibration, metrics
from astrodetect.evaluation.curves import ClassCurves, TrainingHistory, class_curves, training_history
from astrodetect.evaluation.notable_images import NotableImage, find_notable_images, predicted_probabilities
from astrodetect.evaluation.summary import (
    METRIC_SPECS,
    VIEW_METRICS,
    EvaluationInputs,
    PreviousRun,
    Summary,
    interval_text,
    read_previous,
)
from astrodetect.inference.heat_maps import class_evidence, has_detail, to_intensity
from astrodetect.model_store.manifest import METRICS
from astrodetect.progress import track_progress
from astrodetect.records import Floats, Pixels
from astrodetect.reports.html import REPORT_TEMPLATES, display_name, heat_map_overlay, jpeg_uri, template_environment
from astrodetect.reports.svg_charts import (
    ChartAxes,
    ChartLine,
    interval_bar,
    line_chart,
    reliability_diagram,
    score_histogram,
)

MAX_GALLERY_IMAGES = 24
MAX_CELL_IMAGES, MAX_IMAGES_OF_ALL_CELLS = 12, 240  # behind the cells of the confusion matrix
THUMBNAIL_PX = 112
MAX_VALUE_LENGTH = 300  # characters of a setting
UNIT_AXES = ChartAxes((0, 1), (0, 1))
TRAINING_CHART_HEIGHT = 250.0
HISTOGRAM_BARS = 40
MAX_EXPLAINED_PIXELS = 8 * 64 * 64  # of the images of a gallery that get a heat map by occlusion: seconds


def write_evaluation_report(
    inputs: EvaluationInputs, summary: Summary, page: Path, *, compared_with: Path | None = None
) -> Path:
    """Write NAME.html and NAME.metrics.json, replacing those of an earlier run; returns the path of the page.

    The first run is compared with the metrics of another file, if one is given.
    """
    metrics_path, part = page.with_suffix(METRICS), inputs.detailed
    earlier = (read_previous(path, part.title, part.fingerprint) for path in (metrics_path, compared_with) if path)
    text = _render(inputs, summary, next(filter(None, earlier), None))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(page, text)
        atomic_files.write_text(metrics_path, summary.as_json())
    except OSError as error:
        raise DataError(f"cannot write the report to {error.filename or page}: {error.strerror}") from error
    return page


def _render(inputs: EvaluationInputs, summary: Summary, previous: PreviousRun | None) -> str:
    templates = template_environment(REPORT_TEMPLATES)
    templates.filters["moment"] = _format_time
    templates.globals.update(interval=interval_text, interval_bar=interval_bar, finite=math.isfinite)
    notable = find_notable_images(inputs, MAX_GALLERY_IMAGES)
    model = inputs.model
    explorer = _threshold_counts(inputs)
    return templates.get_template("evaluation.html").render(
        model=model,
        inputs=inputs,
        summary=summary,
        part=summary.parts[inputs.detailed.title],
        specs=METRIC_SPECS,
        view_specs=[spec for spec in METRIC_SPECS if spec.name in VIEW_METRICS],
        previous=previous,
        remarks=_remarks(inputs),
        counts=_image_counts(inputs),
        cells=confusion_cells(inputs),
        errors=gallery_cards(inputs, notable.errors, "errors"),
        unusual=gallery_cards(inputs, notable.unusual, "unusual images"),
        mislabelled=gallery_cards(inputs, notable.mislabelled, "label errors"),
        has_activation_maps=has_detail(inputs.detailed.outputs.maps[0]),
        training=training_charts(training_history(model.settings.get("history"))),
        discrimination=discrimination_charts(inputs),
        calibration=calibration_charts(inputs),
        explorer=explorer,
        histogram=_histogram(inputs) if explorer else None,
        settings=as_table_rows({name: value for name, value in model.settings.items() if name != "history"}),
        versions=as_table_rows(model.versions),
    )


def _format_time(text: str) -> str:
    """An ISO 8601 time, always in UTC, for reading."""
    return f"{text[:10]} {text[11:16]} UTC"


def _remarks(inputs: EvaluationInputs) -> list[str]:
    train = inputs.model.data.get("train")
    trained_on = isinstance(train, dict) and train.get("fingerprint") == inputs.detailed.fingerprint
    warning = ["The model was trained on these very images: expect worse metrics on others."] if trained_on else []
    return [*inputs.model.warnings, *warning, *inputs.remarks]


def _image_counts(inputs: EvaluationInputs) -> list[tuple[str, list[int], int]]:
    """Images of each class and unreadable files: of the parts at training, then of those evaluated here."""
    rows = []
    for title, part in inputs.model.data.items():
        counts = part.get("images") if isinstance(part, dict) else None
        if isinstance(counts, dict):
            class_counts = [int(counts.get(name, 0)) for name in inputs.model.classes]
            rows.append((f"{title}, at training", class_counts, len(part.get("skipped", ()))))
    for evaluated in inputs.parts:
        class_counts = np.bincount(evaluated.truth, minlength=len(inputs.model.classes)).tolist()
        rows.append((f"{evaluated.title}, evaluated here", class_counts, evaluated.skipped))
    return rows


def as_table_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, nested names joined by dots; of paths only the last component, for pages are public."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", text) for inner, text in as_table_rows(value)]
        else:
            rows.append((name.replace("_", " "), str(_without_folders(value))[:MAX_VALUE_LENGTH]))
    return rows


def _without_folders(value: Any) -> Any:
    """The last component of an absolute POSIX or Windows path."""
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    for path in (PurePosixPath(str(value)), PureWindowsPath(str(value))):
        if path.is_absolute():
            return path.name
    return value


@dataclass(frozen=True, slots=True)
class GalleryCard:
    """An image with its heat map; `picture` is None if the file can no longer be read."""

    name: str
    remark: str
    picture: str | None  # a data URI
    heat: str  # a data URI; empty if there is no heat map


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """A cell of the confusion matrix, with its most confident images."""

    truth: int
    predicted: int
    count: int
    share: float  # of the images of the true class
    cards: list[GalleryCard]


def gallery_cards(
    inputs: EvaluationInputs, notable: Sequence[NotableImage], explained: str | None = None
) -> list[GalleryCard]:
    """The cards of notable images; if named as `explained`, the first ones have a heat map in any case."""
    if explained is None or inputs.explain is None or has_detail(inputs.detailed.outputs.maps[0]):
        return [_card(inputs, image) for image in notable]
    count = max(1, MAX_EXPLAINED_PIXELS // inputs.model.image.size**2)
    shown = track_progress(notable, f"heat maps of {explained}", len(notable))
    return [_card(inputs, image, inputs.explain if index < count else None) for index, image in enumerate(shown)]


def confusion_cells(inputs: EvaluationInputs) -> list[list[ConfusionCell]]:
    """The confusion matrix, a row per true class."""
    part, classes = inputs.detailed, len(inputs.model.classes)
    predicted, confidence = inputs.model.predict(part.outputs.probabilities), predicted_probabilities(inputs)
    members = [[np.flatnonzero((part.truth == t) & (predicted == p)) for p in range(classes)] for t in range(classes)]
    filled = sum(bool(len(cell)) for row in members for cell in row)
    per_cell = min(MAX_CELL_IMAGES, max(1, MAX_IMAGES_OF_ALL_CELLS // max(filled, 1)))
    remaining = MAX_IMAGES_OF_ALL_CELLS
    matrix = []
    for t, row in enumerate(members):
        total, cells = sum(map(len, row)), []
        for p, cell in enumerate(row):
            shown = cell[np.argsort(-confidence[cell], kind="stable")][: min(per_cell, remaining)]
            remaining -= len(shown)
            notable = [NotableImage(int(i), f"predicted with {confidence[i]:.3f}") for i in shown]
            cells.append(ConfusionCell(t, p, len(cell), len(cell) / max(total, 1), gallery_cards(inputs, notable)))
        matrix.append(cells)
    return matrix


def _card(
    inputs: EvaluationInputs, notable: NotableImage, explain: Callable[[Pixels, int], Floats] | None = None
) -> GalleryCard:
    part = inputs.detailed
    path, activation_map = part.paths[notable.image], part.outputs.maps[notable.image]
    name = display_name(path)  # class folder and file only: pages are public
    try:
        pixels = images.decode_file(path, inputs.model.image)
    except ImageError:  # deleted since it was evaluated
        return GalleryCard(name, notable.remark, None, "")
    picture = jpeg_uri(images.encode_thumbnail(pixels, THUMBNAIL_PX))
    [predicted] = inputs.model.predict(part.outputs.probabilities[[notable.image]])
    intensity = None
    if has_detail(activation_map):
        evidence = class_evidence(activation_map, predicted, binary=inputs.model.task == "binary")
        intensity = np.asarray(to_intensity(evidence) / 255, np.float32)
    elif explain:
        intensity = explain(pixels, int(predicted))
    return GalleryCard(name, notable.remark, picture, "" if intensity is None else heat_map_overlay(intensity))


@dataclass(frozen=True, slots=True)
class CaptionedChart:
    """A chart with its caption."""

    figure: Markup
    caption: str


def training_charts(history: TrainingHistory | None, *, running: bool = False) -> list[CaptionedChart]:
    """Losses and validation metrics by epoch, and the epoch that was chosen, unless the training is `running`."""
    if history is None:
        return []
    epochs, chosen = history.epochs, history.chosen
    losses = (
        ChartLine("training images (solid)", epochs, history.train_loss, "first"),
        ChartLine("validation images (dashed)", epochs, history.validation_loss, "second"),
    )
    shares = (
        ChartLine("accuracy (solid)", epochs, history.accuracy, "first"),
        ChartLine("AUC (dashed)", epochs, history.auc, "second"),
    )
    charts = []
    for title, lines in (("loss", losses), ("validation images", shares)):
        values = np.array([line.y for line in lines])
        if np.isnan(values).all():
            continue
        low, high = (0.0, 1.05 * np.nanmax(values)) if lines is losses else (np.floor(10 * np.nanmin(values)) / 10, 1.0)
        axes = ChartAxes((1, len(epochs)), (min(low, high - 0.1), high), TRAINING_CHART_HEIGHT, whole_x=True)
        best = f"epoch {chosen} {'is the best so far' if running else 'was chosen'}"
        caption = f"{title.capitalize()}: {' and '.join(line.title for line in lines)}; {best}."
        mark = None if running else chosen
        charts.append(CaptionedChart(line_chart(caption, lines, axes, ("epoch", title), chosen=mark), caption))
    return charts


def discrimination_charts(inputs: EvaluationInputs) -> list[CaptionedChart]:
    """ROC and precision–recall curves, of the positive class of two or of each of several against the rest."""
    return [chart for curves in class_curves(inputs) for chart in (_roc_chart(curves), _precision_recall_chart(curves))]


def _roc_chart(curves: ClassCurves) -> CaptionedChart:
    lines = [
        ChartLine("", (0, 1), (0, 1), "chance"),
        ChartLine(curves.name, curves.false_positive_rate, curves.true_positive_rate),
    ]
    caption = f"ROC of {curves.name}: AUC {curves.auc:.4f}. Dotted: chance."
    return CaptionedChart(line_chart(caption, lines, UNIT_AXES, ("false positive rate", "true positive rate")), caption)


def _precision_recall_chart(curves: ClassCurves) -> CaptionedChart:
    lines = [
        ChartLine("", (0, 1), (curves.base_rate, curves.base_rate), "chance"),
        ChartLine(curves.name, curves.recall, curves.precision),
    ]
    caption = (
        f"Precision and recall of {curves.name}: average precision {curves.average_precision:.4f}. Dotted: chance."
    )
    return CaptionedChart(line_chart(caption, lines, UNIT_AXES, ("recall", "precision")), caption)


def calibration_charts(inputs: EvaluationInputs) -> list[CaptionedChart]:
    """Reliability diagrams of the most probable class and, of a binary model, of the score."""
    model, truth = inputs.model, inputs.detailed.truth
    probabilities = inputs.detailed.outputs.probabilities
    curve = metrics.reliability_curve(*metrics.top_label_confidence(truth, probabilities))
    legend = "Dots on the dotted line are calibrated probabilities; bars count images."
    caption = (
        f"The most probable class: expected calibration error {curve.error:.3f} over {metrics.CALIBRATION_BINS} bins. "
        f"{legend}"
    )
    diagram = reliability_diagram(caption, curve, "probability of the most probable class")
    charts = [CaptionedChart(diagram, caption)]
    if model.task == "binary":
        curve = metrics.reliability_curve(probabilities[:, 1], truth == 1)
        caption = (
            f"The score, as the probability of {model.classes[1]}: expected calibration error {curve.error:.3f}. "
            f"{legend}"
        )
        charts.append(CaptionedChart(reliability_diagram(caption, curve, f"score ({model.classes[1]})"), caption))
    return charts


def _threshold_counts(inputs: EvaluationInputs) -> calibration.ThresholdCounts | None:
    if inputs.model.task != "binary":
        return None
    scores = inputs.detailed.outputs.probabilities[:, 1]
    return calibration.count_by_threshold(inputs.detailed.truth, scores, inputs.model.threshold)


def _histogram(inputs: EvaluationInputs) -> Markup:
    model, truth = inputs.model, inputs.detailed.truth
    scores = inputs.detailed.outputs.probabilities[:, 1].astype(np.float64)
    positives, negatives = (
        np.histogram(scores[truth == index], HISTOGRAM_BARS, (0, 1))[0].astype(np.float64) for index in (1, 0)
    )
    names = (model.classes[1], model.classes[0])
    label = f"Histogram of scores: {names[0]} upwards, {names[1]} downwards, the threshold as a line"
    return score_histogram(label, (positives, negatives), names, model.threshold)
