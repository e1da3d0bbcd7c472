"""The state of a data set as one page to read, and as JSON beside it."""

import base64
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from astrodetect import atomic_files, images
from astrodetect.datasets.health import SCAN_CONTRACT, DatasetHealth, DoubtfulLabel, DuplicateGroup, ScannedImage
from astrodetect.errors import DataError, ImageError
from astrodetect.records import ImageContract
from astrodetect.reports.html import template_environment

TEMPLATES = Path(__file__).parent / "templates"
PAGE, FIGURES = "explore.html", "explore.json"
# What the page shows at most, some 3 kB an image; the JSON lists everything.
COPIES_SHOWN, MEMBERS_SHOWN = 30, 5  # groups in each section, images in each
DOUBTS_SHOWN = 120
SAMPLES, CLASSES_SAMPLED = 12, 24  # images a class, classes
UNREADABLE_SHOWN = 200
SIZES_SHOWN = 8
THUMBNAIL_PX = 104
BINS = 40
UNBALANCED = 3.0  # the largest class to the smallest, from which it is told
DOUBTED_AS = replace(SCAN_CONTRACT, crop=0.6)  # the galaxy itself
FEW = 50  # images of a class, below which it is told


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One line of the verdict: what was found, and what to do about it."""

    found: str
    do: str
    anchor: str  # the section that shows it


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A small image with its captions."""

    data: str  # a data URI; empty where the file has gone meanwhile
    caption: str
    lines: tuple[str, ...] = ()


def write_health_report(health: DatasetHealth, folder: Path, *, by: str) -> Path:
    """Writes both into the folder and returns the page; `by` says what the labels were judged by."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(folder / FIGURES, json.dumps(health_as_json(health, by=by), indent=1) + "\n")
        atomic_files.write_text(folder / PAGE, _render(health, by))
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / PAGE


def recommendations(health: DatasetHealth) -> list[Recommendation]:
    """What to do, the most important first; nothing where nothing stands in the way."""
    lines = []
    if leaks := health.leaks:
        parts = " and ".join(sorted({look.item.part for copies in leaks for look in health.members(copies)}))
        found = f"{_many(len(leaks), 'picture is', 'pictures are')} in more than one of {parts}"
        lines.append(
            Recommendation(found, "figures of the test part would flatter: split anew, copies together", "leaks")
        )
    if conflicts := health.conflicts:
        found = f"{_many(len(conflicts), 'picture bears', 'pictures bear')} more than one label"
        lines.append(Recommendation(found, "decide for one, and remove the others", "conflicts"))
    if bad := len(health.unreadable):
        lines.append(
            Recommendation(
                f"{_many(bad, 'file', 'files')} cannot be read",
                "fetch again or remove; training passes over",
                "unreadable",
            )
        )
    if doubts := len(health.doubtful_labels):
        found = f"{_many(doubts, 'label is', 'labels are')} doubtful ({doubts / len(health.scan):.1%})"
        lines.append(Recommendation(found, "look at them, the surest first", "doubts"))
    if spare := sum(len(copies.indices) - 1 for copies in health.duplicates):
        lines.append(
            Recommendation(f"{_many(spare, 'image is', 'images are')} there again", "keep one of each", "duplicates")
        )
    return lines + _of_counts(health)


def _of_counts(health: DatasetHealth) -> list[Recommendation]:
    lines, counts = [], health.counts()
    for part in health.parts:
        by_class = {name: counts.get((part, name), 0) for name in health.classes}
        most, least = max(by_class, key=lambda name: by_class[name]), min(by_class, key=lambda name: by_class[name])
        where = f" in {part}" if part else ""
        if by_class[least] == 0:
            lines.append(Recommendation(f"no image of {least}{where}", "add some, or leave the class out", "counts"))
        elif by_class[most] > UNBALANCED * by_class[least]:
            times = by_class[most] / by_class[least]
            found = f"{times:.0f} times as many {most} as {least}{where}"
            lines.append(
                Recommendation(found, "balance with split --limit, or let training weigh the classes", "counts")
            )
        if part != "test" and 0 < by_class[least] < FEW:
            lines.append(Recommendation(f"only {by_class[least]} images of {least}{where}", "add more", "counts"))
    if "test" not in health.parts:
        lines.append(
            Recommendation("no part is kept for a test", "make one with python -m astrodetect split", "counts")
        )
    return lines


def health_as_json(health: DatasetHealth, *, by: str) -> dict[str, object]:
    """Everything that was found, for programs; images go by their paths, seen from the data set."""
    counts = health.counts()

    def copies(found: Sequence[DuplicateGroup]) -> list[dict[str, object]]:
        return [
            {
                "kind": group.kind,
                "images": [
                    {"path": _name(health, look), "label": look.item.label, "part": look.item.part}
                    for look in health.members(group)
                ],
            }
            for group in found
        ]

    return {
        "data": str(health.path),
        "images": len(health.scan),
        "verdict": [{"found": line.found, "do": line.do} for line in recommendations(health)],
        "counts": [
            {"part": part, "label": name, "images": counts.get((part, name), 0)}
            for part in health.parts for name in health.classes
        ],
        "unreadable": [
            {
                "path": _relative(health, file.item.path),
                "label": file.item.label,
                "part": file.item.part,
                "reason": file.reason,
            }
            for file in health.unreadable
        ],
        "leaks": copies(health.leaks),
        "conflicts": copies(health.conflicts),
        "copies": copies(health.duplicate_groups),
        "doubts_by": by,
        "doubts": [
            {
                "path": _name(health, doubt.image),
                "label": doubt.image.item.label,
                "part": doubt.image.item.part,
                "suggested": doubt.suggested,
                "probability": round(doubt.probability, 4),
                "own_probability": round(doubt.label_probability, 4),
            }
            for doubt in health.doubtful_labels
        ],
        "files": [
            {
                "path": _name(health, look),
                "label": look.item.label,
                "part": look.item.part,
                "sha256": look.sha256,
                "kind": look.kind,
                "width": look.width,
                "height": look.height,
                "brightness": round(look.brightness, 4),
                "contrast": round(look.contrast, 4),
            }
            for look in health.scan.images
        ],
    }  # fmt: skip


def _render(health: DatasetHealth, by: str) -> str:
    counts, seen = health.counts(), health.scan.images
    largest = max(counts.values())
    return (
        template_environment(TEMPLATES)
        .get_template("health.html")
        .render(
            name=health.path.name or str(health.path),
            images=len(seen),
            verdict=recommendations(health),
            parts=health.parts,
            rows=[
                (name, [(counts.get((part, name), 0), counts.get((part, name), 0) / largest) for part in health.parts])
                for name in health.classes
            ],
            sizes=_tally((f"{look.width} × {look.height}" for look in seen), SIZES_SHOWN),
            kinds=_tally((look.kind for look in seen), SIZES_SHOWN),
            spreads=[
                ("Brightness", "the mean of an image's pixels, black 0, white 1", _spread(health, "brightness")),
                ("Contrast", "the standard deviation of an image's pixels", _spread(health, "contrast")),
            ],
            sections=[
                (anchor, title, meaning, len(found), [_pictures(health, group) for group in found[:COPIES_SHOWN]])
                for anchor, title, meaning, found in (
                    ("leaks", "In more than one part", "What is learnt from is also tested on.", health.leaks),
                    ("conflicts", "More than one label", "The same picture lies in several classes.", health.conflicts),
                    ("duplicates", "There again", "The same picture, one class, one part.", health.duplicates),
                )
            ],
            by=by,
            doubted=len(health.doubtful_labels),
            doubts=[_doubted(health, doubt) for doubt in health.doubtful_labels[:DOUBTS_SHOWN]],
            unreadable=[
                (_relative(health, file.item.path), file.reason) for file in health.unreadable[:UNREADABLE_SHOWN]
            ],
            unreadables=len(health.unreadable),
            samples=_samples(health),
            figures=FIGURES,
        )
    )


def _samples(health: DatasetHealth) -> list[tuple[str, list[CaptionedImage]]]:
    """Some images of each class, evenly out of their order."""
    found = []
    for name in health.classes[:CLASSES_SAMPLED]:
        members = [look for look in health.scan.images if look.item.label == name]
        found.append((name, [_picture(health, look) for look in _spaced(members, SAMPLES)]))
    return found


def _pictures(health: DatasetHealth, copies: DuplicateGroup) -> tuple[str, int, list[CaptionedImage]]:
    members = health.members(copies)
    shown = sorted(members, key=lambda look: (look.item.part, look.item.label))
    pictures = [
        _picture(health, look, " · ".join(filter(None, (look.item.part, look.item.label))))
        for look in _spaced(shown, MEMBERS_SHOWN)
    ]
    return copies.kind, len(members) - len(pictures), pictures


def _spaced(seen: Sequence[ScannedImage], most: int) -> list[ScannedImage]:
    """The first, the last and some between."""
    count = min(most, len(seen))
    return [seen[round(place)] for place in np.linspace(0, len(seen) - 1, count)] if count else []


def _doubted(health: DatasetHealth, doubt: DoubtfulLabel) -> CaptionedImage:
    return _picture(
        health,
        doubt.image,
        f"labelled {doubt.image.item.label} ({doubt.label_probability:.0%})",
        f"looks like {doubt.suggested} ({doubt.probability:.0%})",
        seen_as=DOUBTED_AS,
    )


def _picture(
    health: DatasetHealth, look: ScannedImage, *lines: str, seen_as: ImageContract = SCAN_CONTRACT
) -> CaptionedImage:
    try:
        small = images.encode_thumbnail(images.decode_file(look.item.path, seen_as), THUMBNAIL_PX)
    except ImageError:
        return CaptionedImage("", _name(health, look), lines)
    return CaptionedImage(f"data:image/jpeg;base64,{base64.b64encode(small).decode()}", _name(health, look), lines)


def _spread(health: DatasetHealth, what: str) -> list[tuple[str, str, str]]:
    """(class, outline of its histogram in a box of BINS × 20, what it says in words)."""
    found = []
    for name in health.classes:
        values = np.array([getattr(look, what) for look in health.scan.images if look.item.label == name])
        if not len(values):
            continue
        heights, _ = np.histogram(values, BINS, (0, 1))
        tops = 20 - 19 * heights / heights.max()
        steps = " ".join(f"V{top:.1f}H{number + 1}" for number, top in enumerate(tops))
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
        found.append((name, f"M0 20{steps}V20Z", f"median {middle:.2f}; nine in ten from {low:.2f} to {high:.2f}"))
    return found


def _tally(values: Iterable[str], most: int) -> list[tuple[str, int]]:
    names, counts = np.unique(list(values), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [(str(names[place]), int(counts[place])) for place in order[:most]]
    rest = int(counts.sum()) - sum(count for _, count in shown)
    return shown + ([(f"{len(names) - most} others", rest)] if rest else [])


def _name(health: DatasetHealth, look: ScannedImage) -> str:
    return _relative(health, look.item.path)


def _relative(health: DatasetHealth, path: Path) -> str:
    home = health.path.parent if health.path.is_file() else health.path
    return (
        Path(os.path.relpath(path, home)).as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
    )


def _many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
