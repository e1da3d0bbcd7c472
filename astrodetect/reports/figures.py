"""Figures for papers, made with Matplotlib: colour-blind safe, in the widths of a column and a page, text as text."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from astrodetect import atomic_files
from astrodetect.anomalies.results import AnomalyResults
from astrodetect.datasets.health import DatasetHealth
from astrodetect.errors import DataError
from astrodetect.evaluation import metrics
from astrodetect.evaluation.curves import ClassCurves, TrainingHistory, class_curves, training_history
from astrodetect.evaluation.metrics import Reals, ReliabilityCurve
from astrodetect.evaluation.summary import EvaluationInputs
from astrodetect.progress import print_notice
from astrodetect.reports.anomaly_report import SAMPLE_SEED
from astrodetect.reports.html import ThumbnailReader

FigureFormat = Literal["png", "svg", "pdf"]
COLUMN, PAGE = 3.5, 7.2  # widths in inches: one column and both of a journal's page
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY = "#888888"
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
FIGURE_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.dpi": 300,
    "text.parse_math": False,  # a class name may have dollar signs
    "pdf.fonttype": 42,  # fonts are embedded as TrueType, as publishers ask for
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "astrodetect",  # the same figure gives the same file
}
NO_DATE: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
MAX_NUMBERED_CLASSES = 12  # of a confusion matrix whose cells have numbers
SAMPLES_PER_ROW = 8
FIGURE_SAMPLE_PX = 128
MAX_CLASS_COLOURS = len(OKABE_ITO) - 1  # the last colour is for the other classes

DrawFigure = Callable[[], Figure]


def write_figures(figures: Mapping[str, DrawFigure], folder: Path, figure_format: FigureFormat) -> list[Path]:
    """Draw each figure and write it to the folder under its name, and say so; returns the paths."""
    paths = []
    with mpl.rc_context(FIGURE_STYLE):
        for name, draw in figures.items():
            path = folder / f"{name}.{figure_format}"
            figure = draw()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                atomic_files.remove_abandoned(path)
                with atomic_files.replacing(path, sync=False) as part:
                    figure.savefig(part, format=figure_format, metadata=NO_DATE[figure_format])
            except OSError as error:
                raise DataError(f"cannot write figures to {folder}: {error.strerror or error}") from error
            paths.append(path)
    print_notice(f"figures: {', '.join(map(str, paths))}")
    return paths


def evaluation_figures(inputs: EvaluationInputs) -> dict[str, DrawFigure]:
    """The figures of an evaluation, by name."""
    model, part = inputs.model, inputs.detailed
    probabilities = part.outputs.probabilities
    matrix = metrics.confusion(part.truth, model.predict(probabilities), len(model.classes))
    top_label = metrics.reliability_curve(*metrics.top_label_confidence(part.truth, probabilities))
    figures: dict[str, DrawFigure] = {
        "confusion_matrix": partial(_confusion_matrix, matrix, model.classes),
        "calibration": partial(_calibration, top_label, "probability of the most probable class"),
        "class_imbalance": partial(_class_imbalance, _class_counts(inputs)),
    }
    if model.task == "binary":
        score = metrics.reliability_curve(probabilities[:, 1], part.truth == 1)
        figures["calibration_score"] = partial(_calibration, score, f"score (probability of {model.classes[1]})")
    if curves := class_curves(inputs):
        figures |= {"roc": partial(_roc, curves), "precision_recall": partial(_precision_recall, curves)}
    if history := training_history(model.settings.get("history")):
        figures["training"] = partial(_training, history)
    return figures


def anomaly_figures(results: AnomalyResults, reader: ThumbnailReader) -> dict[str, DrawFigure]:
    """The figures of an anomaly search, by name."""
    return {
        "sampled_anomalies": partial(_sampled_anomalies, results, reader),
        "latent_space": partial(_latent_space, results),
    }


def dataset_figures(health: DatasetHealth) -> dict[str, DrawFigure]:
    """The figures of a labelled data set, by name."""
    counts: dict[str, dict[str, int]] = {part or "images": {} for part in health.parts}
    for (part, label), count in sorted(health.counts().items()):
        counts[part or "images"][label] = count
    return {"class_imbalance": partial(_class_imbalance, counts)}


def _confusion_matrix(matrix: Reals, classes: Sequence[str]) -> Figure:
    """Images by labelled and predicted class, shaded by the share of the labelled class."""
    count = len(classes)
    side = min(PAGE, max(2.6, 0.45 * count + 1.2))
    figure, axes = _axes(side, side)
    shares = np.nan_to_num(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="labelled", xticks=range(count), yticks=range(count))
    axes.set_xticklabels(classes, rotation=90 if max(map(len, classes)) > 4 and count > 3 else 0)
    axes.set_yticklabels(classes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if count <= MAX_NUMBERED_CLASSES:
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.5 else "black"
            text = f"{matrix[row, column]:,.0f}\n{share:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure


def _roc(curves: Sequence[ClassCurves]) -> Figure:
    """ROC curves of each class against the rest."""
    figure, axes = _axes(COLUMN, COLUMN)
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":", label="chance")
    for index, curve in enumerate(curves):
        label = f"{curve.name} (AUC {curve.auc:.3f})"
        axes.plot(curve.false_positive_rate, curve.true_positive_rate, label=label, **_line_style(index))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    return figure


def _precision_recall(curves: Sequence[ClassCurves]) -> Figure:
    """Precision–recall curves of each class against the rest."""
    figure, axes = _axes(COLUMN, COLUMN)
    for index, curve in enumerate(curves):
        style = _line_style(index)
        axes.plot(curve.recall, curve.precision, label=f"{curve.name} (AP {curve.average_precision:.3f})", **style)
        axes.axhline(curve.base_rate, **style | {"linewidth": 0.6, "linestyle": ":"})
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(0, 1.01))
    axes.legend(
        loc="lower left", title="horizontal: share of the class", title_fontsize=7, frameon=True, edgecolor="none"
    )
    return figure


def _calibration(curve: ReliabilityCurve, label: str) -> Figure:
    """Reliability diagram, with the number of images in each bin below."""
    figure = Figure(figsize=(COLUMN, COLUMN * 1.25), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    filled = curve.counts > 0
    upper.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":", label="calibrated")
    upper.plot(curve.mean_probability[filled], curve.frequency[filled], marker="o", markersize=3.5, color=OKABE_ITO[0])
    upper.set(ylabel="observed frequency", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    upper.text(0.03, 0.95, f"ECE {curve.error:.3f}", transform=upper.transAxes, va="top")
    upper.legend(loc="lower right")
    edges = np.linspace(0, 1, len(curve.counts) + 1)
    lower.bar(edges[:-1], curve.counts, width=np.diff(edges), align="edge", color=OKABE_ITO[0], edgecolor="white")
    lower.set(xlabel=label, ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


def _training(history: TrainingHistory) -> Figure:
    """Losses and validation metrics by epoch; a line marks the chosen epoch."""
    figure = Figure(figsize=(PAGE, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "o" if len(history.epochs) <= 20 else None
    for axes, lines in (
        (left, (("training images", history.train_loss), ("validation images", history.validation_loss))),
        (right, (("accuracy", history.accuracy), ("AUC", history.auc))),
    ):
        for index, (label, values) in enumerate(lines):
            axes.plot(history.epochs, values, label=label, marker=marker, markersize=3, **_line_style(index))
        axes.axvline(history.chosen, color=GREY, linewidth=0.8, linestyle=":", label=f"chosen: epoch {history.chosen}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    left.set(ylabel="loss")
    left.set_ylim(bottom=0)
    right.set(ylabel="validation images")
    return figure


def _class_imbalance(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Images of each class in each part of the data."""
    classes = list(dict.fromkeys(name for part in counts.values() for name in part))
    figure, axes = _axes(PAGE if len(classes) * len(counts) > 10 else COLUMN, 2.6)
    width = 0.8 / max(len(counts), 1)
    for index, (part, by_class) in enumerate(counts.items()):
        positions = np.arange(len(classes)) - 0.4 + width * (index + 0.5)
        values = [by_class.get(name, 0) for name in classes]
        bars = axes.bar(positions, values, width * 0.95, label=part, color=OKABE_ITO[index % len(OKABE_ITO)])
        axes.bar_label(bars, [f"{value:,}" for value in values], fontsize=6, padding=1)
    axes.set(ylabel="images", xticks=range(len(classes)))
    if max(map(len, classes)) > 6 and len(classes) > 4:
        axes.set_xticklabels(classes, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticklabels(classes)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(y=0.12)
    if len(counts) > 1:
        figure.legend(loc="outside upper center", ncols=len(counts))
    return figure


def _latent_space(results: AnomalyResults) -> Figure:
    """The map of the images, coloured by class; rings mark those that every detector flags."""
    figure, axes = _axes(PAGE, PAGE * 0.75)
    images, xy = results.projection.indices, results.projection.xy
    labels = np.array([results.labels[image] or "images" for image in images.tolist()])
    names, counts = np.unique(labels, return_counts=True)
    shown = [str(name) for name in names[np.argsort(-counts, kind="stable")]][:MAX_CLASS_COLOURS]
    for index, name in enumerate([*shown, "other classes"]):
        of_class = labels == name if index < len(shown) else ~np.isin(labels, shown)
        if of_class.any():
            style: dict[str, Any] = {"marker": MARKERS[index], "color": OKABE_ITO[index], "linewidths": 0, "alpha": 0.7}
            style |= {"s": 9, "label": f"{name} ({of_class.sum():,})", "rasterized": True}  # thousands of points
            axes.scatter(xy[of_class, 0], xy[of_class, 1], **style)
    flagged = results.novelty.consensus[images]
    if flagged.any():
        ring: dict[str, Any] = {"s": 30, "facecolors": "none", "edgecolors": "black", "linewidths": 0.6}
        axes.scatter(xy[flagged, 0], xy[flagged, 1], label=f"flagged by all detectors ({flagged.sum():,})", **ring)
    axes.set(xlabel="latent dimension 1", ylabel="latent dimension 2", xticks=[], yticks=[])
    axes.invert_yaxis()  # as on the page
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
    return figure


def _sampled_anomalies(results: AnomalyResults, reader: ThumbnailReader) -> Figure:
    """Random images that each detector flags, and that all of them flag, a row each, with their novelty."""
    flagged = results.flagged_by()
    side = PAGE / (SAMPLES_PER_ROW + 1)
    figure = Figure(figsize=(PAGE, len(flagged) * (side + 0.22)), layout="constrained")
    grid = figure.subplots(len(flagged), SAMPLES_PER_ROW, squeeze=False)
    for row, (detector, flags) in zip(grid, flagged.items(), strict=True):
        sample = np.random.default_rng(SAMPLE_SEED).permutation(np.flatnonzero(flags))[:SAMPLES_PER_ROW].tolist()
        for axes, image in zip(row, [*sample, *[None] * (SAMPLES_PER_ROW - len(sample))], strict=True):
            axes.set_axis_off()
            pixels = None if image is None else reader.read(results.paths[image], FIGURE_SAMPLE_PX)
            if pixels is not None and image is not None:
                axes.imshow(pixels)
                name = f"{results.labels[image]}, " if results.labels[image] else ""
                axes.set_title(f"{name}{results.novelty.novelty[image]:.3f}", fontsize=6, pad=2)
        title = "all detectors" if detector == "consensus" else detector
        text = f"{title}\n{int(flags.sum()):,} of {len(flags):,}"
        row[0].text(-0.12, 0.5, text, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=7)
    figure.supxlabel("above each image: its class, and its novelty (the share of images that are less unusual)", size=7)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _line_style(index: int) -> dict[str, Any]:
    """Colour and dashes, which also tell lines apart in print without colour."""
    return {"color": OKABE_ITO[index % len(OKABE_ITO)], "linestyle": DASHES[index % len(DASHES)]}


def _class_counts(inputs: EvaluationInputs) -> dict[str, dict[str, int]]:
    """Images of each class in the parts at training and, after it, in those evaluated that are not among them."""
    model = inputs.model
    at_training = {
        title: part
        for title, part in model.data.items()
        if isinstance(part, dict) and isinstance(part.get("images"), dict)  # a number, of adapted models
    }
    counts = {
        title: {name: int(part["images"].get(name, 0)) for name in model.classes} for title, part in at_training.items()
    }
    for part in inputs.parts if inputs.training is None or not at_training else ():
        if at_training.get(part.title, {}).get("fingerprint") != part.fingerprint:
            values = np.bincount(part.truth, minlength=len(model.classes)).tolist()
            title = f"{part.title}, evaluated" if part.title in counts else part.title
            counts[title] = dict(zip(model.classes, values, strict=True))
    return counts
