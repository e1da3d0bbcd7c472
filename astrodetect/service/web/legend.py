"""How the images on the map are told apart: by class, by what people called them, by how unusual they are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.active_learning import LABELS, LabelValue
from astrodetect.reports.svg_charts import MARKER_COLOURS, MARKER_SHAPES, MAX_MARKED_CLASSES, OTHER_CLASSES
from astrodetect.service.projection_store import StoredProjection

UNLABELLED = "not labelled"
BOUNDS = np.array([0.5, 0.9, 0.99, 1.0], np.float32)  # between steps of novelty
MAPS = 2  # whose legends are remembered: the one that is there, and the one that comes


@dataclass(frozen=True, slots=True)
class Group:
    """Images that look alike on the map."""

    name: str
    count: int
    tone: str  # its colour, by its name in page.css
    shape: str  # as an SVG path draws it from its middle, some 8 units wide


@dataclass(frozen=True, slots=True, eq=False)
class Legend:
    """One way to tell images apart."""

    by: str
    groups: list[Group]
    of: NDArray[np.uint8]  # the number of each image's group


def legends(map_: StoredProjection, labels: Sequence[LabelValue | None]) -> list[Legend]:
    """All ways there are."""
    return [_by_class(map_), _by_label(labels), _by_novelty(map_)]


@lru_cache(maxsize=MAPS)
def _by_class(map_: StoredProjection) -> Legend:
    """The largest ones first; those beyond the marks that there are share the last one."""
    classes = map_.classes
    counts = Counter(classes)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    number_of = {name: min(number, MAX_MARKED_CLASSES - 1) for number, name in enumerate(names)}
    shown = names if len(names) <= MAX_MARKED_CLASSES else [*names[: MAX_MARKED_CLASSES - 1], OTHER_CLASSES]
    marks = [
        (name, f"mark-{number % MARKER_COLOURS}", MARKER_SHAPES[number % len(MARKER_SHAPES)])
        for number, name in enumerate(shown)
    ]
    return _legend("class", marks, [number_of[name] for name in classes])


def _by_label(labels: Sequence[LabelValue | None]) -> Legend:
    _, square, triangle, _, cross, _ = MARKER_SHAPES
    marks = [
        (UNLABELLED, "step-0", _disc(2.2)),
        *zip(LABELS, ("mark-1", "mark-0", "mark-3"), (triangle, square, cross), strict=True),
    ]
    numbers = {None: 0} | {label: number for number, label in enumerate(LABELS, start=1)}
    return _legend("label", marks, [numbers[label] for label in labels])


@lru_cache(maxsize=MAPS)
def _by_novelty(map_: StoredProjection) -> Legend:
    """In steps, for most images of a survey are as usual as those learnt from: what is unusual is warmer and larger."""
    marks = [
        ("less than half", "step-0", _disc(1.8)),
        ("50 to 90 %", "step-1", _disc(2.2)),
        ("90 to 99 %", "step-2", _disc(2.8)),
        ("99 % and more", "step-3", _disc(3.5)),
        ("all of them", "step-4", MARKER_SHAPES[2]),
    ]
    return _legend("novelty", marks, np.searchsorted(BOUNDS, map_.novelty, side="right").tolist())


def _legend(by: str, marks: Sequence[tuple[str, str, str]], numbers: Sequence[int]) -> Legend:
    of = np.array(numbers, np.uint8)
    counts = np.bincount(of, minlength=len(marks)).tolist()
    return Legend(by, [Group(mark[0], count, *mark[1:]) for mark, count in zip(marks, counts, strict=True)], of)


def _disc(radius: float) -> str:
    return f"m-{radius} 0a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0-{2 * radius} 0"
