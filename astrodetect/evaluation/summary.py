"""The figures of a report as a file beside it: what another program reads, and what the next run is compared with."""

import datetime as dt
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from astrodetect.evaluation import intervals, metrics
from astrodetect.evaluation.inputs import EvaluatedModel, EvaluatedPart, EvaluationInputs
from astrodetect.evaluation.intervals import ClassMetrics, Estimate

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
        truth = evidence.shown.truth
        one_view = metrics.headline_metrics(truth, evidence.one_view, model.decides(evidence.one_view))
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
    said = model.decides(probabilities)
    found = metrics.confusion(part.truth, said, len(model.classes))
    return PartMetrics(
        images=len(part.truth),
        fingerprint=part.fingerprint,
        figures=intervals.estimate_headline_metrics(part.truth, probabilities, said),
        classes=intervals.per_class_metrics(found, model.classes),
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
