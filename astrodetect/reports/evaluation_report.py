"""The evaluation report: one page that needs nothing else, and its figures in a file beside it."""

import base64
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from markupsafe import Markup

from astrodetect import atomic_files, images
from astrodetect.errors import DataError, ImageError
from astrodetect.evaluation import metrics, notable_images
from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.evaluation.metrics import Reals, ScoreRanking
from astrodetect.evaluation.notable_images import NotableImage, predicted_probabilities
from astrodetect.evaluation.summary import GAINS, METRIC_SPECS, PreviousRun, Summary, interval_text, read_previous
from astrodetect.inference import decision
from astrodetect.reports import html
from astrodetect.reports.html import template_environment
from astrodetect.reports.svg_charts import (
    ChartAxes,
    ChartLine,
    interval_bar,
    line_chart,
    reliability_diagram,
    score_histogram,
)

TEMPLATES = Path(__file__).parent / "templates"
MOST_IN_A_GALLERY = 24
LONGEST_VALUE = 300  # characters of a setting


def write_evaluation_report(evidence: EvaluationInputs, summary: Summary, page: Path) -> Path:
    """Makes NAME.html and NAME.metrics.json, an earlier run's replaced; returns the path of the page."""
    figures, part = page.with_suffix(".metrics.json"), evidence.detailed
    text = _render(evidence, summary, read_previous(figures, part.title, part.fingerprint))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(page, text)
        atomic_files.write_text(figures, summary.as_json())
    except OSError as error:
        raise DataError(f"cannot write the report to {error.filename or page}: {error.strerror}") from error
    return page


def _render(evidence: EvaluationInputs, summary: Summary, previous: PreviousRun | None) -> str:
    templates = template_environment(TEMPLATES)
    templates.filters["moment"] = _moment
    templates.globals.update(interval=interval_text, whisker=interval_bar, finite=math.isfinite)
    found = notable_images.find_notable_images(evidence, MOST_IN_A_GALLERY)
    model = evidence.model
    return templates.get_template("report.html").render(
        model=model,
        evidence=evidence,
        summary=summary,
        shown=summary.parts[evidence.detailed.title],
        kinds=METRIC_SPECS,
        gains=[kind for kind in METRIC_SPECS if kind.name in GAINS],
        previous=previous,
        remarks=_remarks(evidence),
        counts=_counts(evidence),
        cells=confusion_cells(evidence),
        errors=gallery_cards(evidence, found.errors),
        unusual=gallery_cards(evidence, found.unusual),
        mislabelled=gallery_cards(evidence, found.mislabelled),
        training=training_charts(model.settings.get("history")),
        discrimination=discrimination_charts(evidence),
        calibration=calibration_charts(evidence),
        chooser=explore_thresholds(evidence),
        settings=as_table_rows({name: value for name, value in model.settings.items() if name != "history"}),
        versions=as_table_rows(model.versions),
    )


def _moment(text: str) -> str:
    """As people read it; everything that is kept is in UTC."""
    return f"{text[:10]} {text[11:16]} UTC"


def _remarks(evidence: EvaluationInputs) -> list[str]:
    learnt_from = evidence.model.data.get("train")
    own = isinstance(learnt_from, dict) and learnt_from.get("fingerprint") == evidence.detailed.fingerprint
    warning = ["The model has learnt from these very images: expect worse figures on others."] if own else []
    return [*warning, *evidence.remarks]


def _counts(evidence: EvaluationInputs) -> list[tuple[str, list[int], int]]:
    """Images of each class, and files left out: in the manifest's parts, then in those that were looked at here."""
    rows = []
    for title, part in evidence.model.data.items():
        images = part.get("images") if isinstance(part, dict) else None
        if isinstance(images, dict):
            counts = [int(images.get(name, 0)) for name in evidence.model.classes]
            rows.append((f"{title}, when it was trained", counts, len(part.get("skipped", ()))))
    for looked_at in evidence.parts:
        counts = np.bincount(looked_at.truth, minlength=len(evidence.model.classes)).tolist()
        rows.append((f"{looked_at.title}, evaluated here", counts, looked_at.skipped))
    return rows


def as_table_rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, nested ones by the whole way to them; pages are open to all, so no place on a disk."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", text) for inner, text in as_table_rows(value)]
        else:
            rows.append((name.replace("_", " "), str(_without_places(value))[:LONGEST_VALUE]))
    return rows


def _without_places(value: Any) -> Any:
    """Of a place on the disk its last name, whichever system it was on."""
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    for path in (PurePosixPath(str(value)), PureWindowsPath(str(value))):
        if path.is_absolute():
            return path.name
    return value


STEPS = 1000  # of the threshold, from 0 to 1
BARS = 40  # of the histogram


@dataclass(frozen=True, slots=True)
class ThresholdExplorer:
    """`positives[k]` images of the positive class score above (k - 1) / STEPS and not above k / STEPS."""

    threshold: float
    positives: list[int]
    negatives: list[int]
    hits: int  # above the model's own threshold
    false_alarms: int
    figure: Markup

    @property
    def misses(self) -> int:
        """Positive images that are not above it."""
        return sum(self.positives) - self.hits

    @property
    def passed(self) -> int:
        """Other images that are not above it."""
        return sum(self.negatives) - self.false_alarms


def explore_thresholds(evidence: EvaluationInputs) -> ThresholdExplorer | None:
    """Of a model with a threshold."""
    model, part = evidence.model, evidence.detailed
    if model.task != "binary":
        return None
    scores = part.outputs.probabilities[:, 1].astype(np.float64)
    by_class = [scores[part.truth == number] for number in (1, 0)]
    positives, negatives = (
        np.bincount(np.ceil(own * STEPS).astype(int).clip(0, STEPS), minlength=STEPS + 1) for own in by_class
    )
    above, below = (np.histogram(own, BARS, (0, 1))[0].astype(np.float64) for own in by_class)
    names = (model.classes[1], model.classes[0])
    said = f"Histogram of scores: {names[0]} upwards, {names[1]} downwards, the threshold as a line"
    return ThresholdExplorer(
        threshold=model.threshold,
        positives=positives.tolist(),
        negatives=negatives.tolist(),
        hits=int((by_class[0] > model.threshold).sum()),
        false_alarms=int((by_class[1] > model.threshold).sum()),
        figure=score_histogram(said, (above, below), names, model.threshold),
    )


SIDE_PX = 112
MOST_IN_CELLS = 240  # images behind the cells of the confusion matrix, all together
MOST_IN_A_CELL = 12


@dataclass(frozen=True, slots=True)
class GalleryCard:
    """An image with its heat map; without pixels where it can no longer be read."""

    name: str
    remark: str
    picture: str | None  # a data URI
    heat: str


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """Images of one class that are taken for one class: how many there are, and the surest of them."""

    truth: int
    said: int
    count: int
    share: float  # of the images of the true class
    cards: list[GalleryCard]


def gallery_cards(evidence: EvaluationInputs, findings: list[NotableImage]) -> list[GalleryCard]:
    """The images of these findings."""
    return [_card(evidence, finding) for finding in findings]


def confusion_cells(evidence: EvaluationInputs) -> list[list[ConfusionCell]]:
    """The confusion matrix, a row for each true class."""
    part, classes = evidence.detailed, len(evidence.model.classes)
    said, sure = evidence.model.predict(part.outputs.probabilities), predicted_probabilities(evidence)
    members = [[np.flatnonzero((part.truth == t) & (said == s)) for s in range(classes)] for t in range(classes)]
    filled = sum(bool(len(cell)) for row in members for cell in row)
    each = min(MOST_IN_A_CELL, max(1, MOST_IN_CELLS // max(filled, 1)))
    left = MOST_IN_CELLS
    matrix = []
    for t, row in enumerate(members):
        total, shown_row = sum(map(len, row)), []
        for s, cell in enumerate(row):
            chosen = cell[np.argsort(-sure[cell], kind="stable")][: min(each, left)]
            left -= len(chosen)
            found = [NotableImage(int(i), f"said by {sure[i]:.3f}") for i in chosen]
            shown_row.append(ConfusionCell(t, s, len(cell), len(cell) / max(total, 1), gallery_cards(evidence, found)))
        matrix.append(shown_row)
    return matrix


def _card(evidence: EvaluationInputs, finding: NotableImage) -> GalleryCard:
    part = evidence.detailed
    path = part.paths[finding.image]
    try:
        pixels = images.decode_file(path, evidence.model.image)
    except ImageError:  # it was there when the network saw it
        picture = None
    else:
        encoded = base64.b64encode(images.encode_thumbnail(pixels, SIDE_PX)).decode("ascii")
        picture = f"data:image/jpeg;base64,{encoded}"
    name = "/".join(path.parts[-2:])  # the class folder and the file: no more of this machine's paths
    [said] = evidence.model.predict(part.outputs.probabilities[[finding.image]])
    places = decision.class_evidence(part.outputs.maps[finding.image], said, binary=evidence.model.task == "binary")
    return GalleryCard(name, finding.remark, picture, html.heat_map_overlay(places))


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
    model, truth = evidence.model, evidence.detailed.truth
    probabilities = evidence.detailed.outputs.probabilities
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


def _above(ranking: ScoreRanking) -> tuple[Reals, Reals]:
    """How many images of the class and of the others are above each cut, from none to all."""
    positives, negatives = ranking.counts()
    return np.append(0, positives[::-1].cumsum()), np.append(0, negatives[::-1].cumsum())


def calibration_charts(evidence: EvaluationInputs) -> list[CaptionedChart]:
    """What probabilities were said, and how often they came true."""
    model, truth = evidence.model, evidence.detailed.truth
    probabilities = evidence.detailed.outputs.probabilities
    sure = metrics.reliability_curve(*metrics.top_label_confidence(truth, probabilities))
    about = "Dots on the dotted line are probabilities that can be taken at their word; bars count images."
    caption = f"The likeliest class: calibration error {sure.error:.3f}, over {metrics.CALIBRATION_BINS} bins. {about}"
    shown = [CaptionedChart(reliability_diagram(caption, sure, "probability of the likeliest class"), caption)]
    if model.task == "binary":
        scores = metrics.reliability_curve(probabilities[:, 1], truth == 1)
        caption = f"The score, as a probability of {model.classes[1]}: calibration error {scores.error:.3f}. {about}"
        shown.append(CaptionedChart(reliability_diagram(caption, scores, f"score ({model.classes[1]})"), caption))
    return shown
