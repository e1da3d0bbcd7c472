"""The evaluation report: one page that needs nothing else, and its figures in a file beside it."""

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from astrodetect import atomic_files
from astrodetect.errors import DataError
from astrodetect.evaluation import notable_images
from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.evaluation.metric_specs import GAINS, METRIC_SPECS, interval_text
from astrodetect.evaluation.summary import PreviousRun, Summary, read_previous
from astrodetect.evaluation.threshold_explorer import explore_thresholds
from astrodetect.reports import evaluation_charts, gallery
from astrodetect.reports.jinja import template_environment
from astrodetect.reports.svg_charts import interval_bar

TEMPLATES = Path(__file__).parent / "templates"
MOST_IN_A_GALLERY = 24
LONGEST_VALUE = 300  # characters of a setting


def write_evaluation_report(evidence: EvaluationInputs, summary: Summary, page: Path) -> Path:
    """Makes NAME.html and NAME.metrics.json, an earlier run's replaced; returns the path of the page."""
    figures, part = page.with_suffix(".metrics.json"), evidence.shown
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
        shown=summary.parts[evidence.shown.title],
        kinds=METRIC_SPECS,
        gains=[kind for kind in METRIC_SPECS if kind.name in GAINS],
        previous=previous,
        remarks=_remarks(evidence),
        counts=_counts(evidence),
        cells=gallery.confusion_cells(evidence),
        errors=gallery.gallery_cards(evidence, found.errors),
        unusual=gallery.gallery_cards(evidence, found.unusual),
        mislabelled=gallery.gallery_cards(evidence, found.mislabelled),
        training=evaluation_charts.training_charts(model.settings.get("history")),
        discrimination=evaluation_charts.discrimination_charts(evidence),
        calibration=evaluation_charts.calibration_charts(evidence),
        chooser=explore_thresholds(evidence),
        settings=as_table_rows({name: value for name, value in model.settings.items() if name != "history"}),
        versions=as_table_rows(model.versions),
    )


def _moment(text: str) -> str:
    """As people read it; everything that is kept is in UTC."""
    return f"{text[:10]} {text[11:16]} UTC"


def _remarks(evidence: EvaluationInputs) -> list[str]:
    learnt_from = evidence.model.data.get("train")
    own = isinstance(learnt_from, dict) and learnt_from.get("fingerprint") == evidence.shown.fingerprint
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
