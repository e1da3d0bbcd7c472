"""The health report of a data set: a self-contained page, and everything it found as JSON beside it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from astrodetect import atomic_files, images
from astrodetect.datasets.health import SCAN_CONTRACT, DatasetHealth, DoubtfulLabel, DuplicateGroup, ScannedImage
from astrodetect.datasets.tables import is_table
from astrodetect.errors import DataError, ImageError
from astrodetect.records import ImageContract, ImagePath
from astrodetect.reports.html import REPORT_TEMPLATES, jpeg_uri, template_environment
from astrodetect.storage.references import base_name, parent_folder, relative_name

PAGE_NAME, JSON_NAME = "explore.html", "explore.json"
# Limits of the page, about 3 kB per image; the JSON lists everything.
MAX_GROUPS, MAX_GROUP_IMAGES = 30, 5  # duplicate groups per section, images per group
MAX_DOUBTFUL = 120
SAMPLES, MAX_SAMPLED_CLASSES = 12, 24  # images per class, classes
MAX_UNREADABLE = 200
MAX_TALLY_ROWS = 8
THUMBNAIL_PX = 104
HISTOGRAM_BINS = 40
MAX_IMBALANCE = 3.0  # ratio of the largest to the smallest class above which it is reported
FEW_IMAGES = 50  # of a class, below which it is reported
DOUBTFUL_CONTRACT = replace(SCAN_CONTRACT, crop=0.6)  # shows the galaxy itself


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A problem of the data set and what to do about it."""

    finding: str
    action: str
    anchor: str  # the section of the page that shows it


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A thumbnail with its captions."""

    data: str  # a data URI; empty if the file can no longer be read
    caption: str
    lines: tuple[str, ...] = ()


def write_health_report(health: DatasetHealth, folder: Path, *, by: str) -> Path:
    """Write the page and the JSON; returns the path of the page. `by` names the features labels were checked with."""
    page = _render(health, by)  # takes seconds, in which another process may write its own files
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(folder / JSON_NAME, json.dumps(health_as_json(health, by=by), indent=1) + "\n")
        atomic_files.write_text(folder / PAGE_NAME, page)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / PAGE_NAME


def recommendations(health: DatasetHealth) -> list[Recommendation]:
    """The problems of the data set, the most important first."""
    items = []
    if leaks := health.leaks:
        parts = " and ".join(sorted({image.item.part for group in leaks for image in health.members(group)}))
        finding = f"{_counted(len(leaks), 'image is', 'images are')} in more than one of {parts}"
        action = "metrics of the test part would be too good: split again, keeping copies together"
        items.append(Recommendation(finding, action, "leaks"))
    if conflicts := health.conflicts:
        finding = f"{_counted(len(conflicts), 'image has', 'images have')} more than one label"
        items.append(Recommendation(finding, "choose one label, and remove the other copies", "conflicts"))
    if unreadable := len(health.unreadable):
        finding = f"{_counted(unreadable, 'file', 'files')} cannot be read"
        items.append(Recommendation(finding, "fetch again or remove; training skips them", "unreadable"))
    if doubtful := len(health.doubtful_labels):
        share = doubtful / len(health.scan)
        finding = f"{_counted(doubtful, 'label is', 'labels are')} doubtful ({share:.1%})"
        items.append(Recommendation(finding, "review them, the most doubtful first", "doubts"))
    if redundant := sum(len(group.indices) - 1 for group in health.duplicates):
        finding = f"{_counted(redundant, 'image is a duplicate', 'images are duplicates')}"
        items.append(Recommendation(finding, "keep one of each", "duplicates"))
    return items + _class_count_recommendations(health)


def _class_count_recommendations(health: DatasetHealth) -> list[Recommendation]:
    items, counts = [], health.counts()
    for part in health.parts:
        by_class = {name: counts.get((part, name), 0) for name in health.classes}
        largest = max(by_class, key=lambda name: by_class[name])
        smallest = min(by_class, key=lambda name: by_class[name])
        where = f" in {part}" if part else ""
        if by_class[smallest] == 0:
            finding = f"no image of {smallest}{where}"
            items.append(Recommendation(finding, "add some, or leave the class out", "counts"))
        elif by_class[largest] > MAX_IMBALANCE * by_class[smallest]:
            ratio = by_class[largest] / by_class[smallest]
            finding = f"{ratio:.0f} times as many {largest} as {smallest}{where}"
            action = "balance with split --limit, or let training weight the classes"
            items.append(Recommendation(finding, action, "counts"))
        if part != "test" and 0 < by_class[smallest] < FEW_IMAGES:
            items.append(Recommendation(f"only {by_class[smallest]} images of {smallest}{where}", "add more", "counts"))
    if "test" not in health.parts:
        items.append(Recommendation("there is no test part", "make one with python -m astrodetect split", "counts"))
    return items


def health_as_json(health: DatasetHealth, *, by: str) -> dict[str, object]:
    """Everything that was found; images by their paths relative to the data set."""
    counts = health.counts()

    def as_json(groups: Sequence[DuplicateGroup]) -> list[dict[str, object]]:
        return [
            {
                "kind": group.kind,
                "images": [
                    {"path": _relative(health, image.item.path), "label": image.item.label, "part": image.item.part}
                    for image in health.members(group)
                ],
            }
            for group in groups
        ]

    return {
        "data": str(health.path),
        "images": len(health.scan),
        "verdict": [{"found": item.finding, "do": item.action} for item in recommendations(health)],
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
        "leaks": as_json(health.leaks),
        "conflicts": as_json(health.conflicts),
        "copies": as_json(health.duplicate_groups),
        "doubts_by": by,
        "doubts": [
            {
                "path": _relative(health, doubtful.image.item.path),
                "label": doubtful.image.item.label,
                "part": doubtful.image.item.part,
                "suggested": doubtful.suggested,
                "probability": round(doubtful.probability, 4),
                "own_probability": round(doubtful.label_probability, 4),
            }
            for doubtful in health.doubtful_labels
        ],
        "files": [
            {
                "path": _relative(health, image.item.path),
                "label": image.item.label,
                "part": image.item.part,
                "sha256": image.sha256,
                "kind": image.kind,
                "width": image.width,
                "height": image.height,
                "brightness": round(image.brightness, 4),
                "contrast": round(image.contrast, 4),
            }
            for image in health.scan.images
        ],
    }  # fmt: skip


def _render(health: DatasetHealth, by: str) -> str:
    counts, scanned = health.counts(), health.scan.images
    largest = max(counts.values())
    return (
        template_environment(REPORT_TEMPLATES)
        .get_template("health.html")
        .render(
            name=base_name(str(health.path)) or str(health.path),
            images=len(scanned),
            recommendations=recommendations(health),
            parts=health.parts,
            rows=[
                (name, [(counts.get((part, name), 0), counts.get((part, name), 0) / largest) for part in health.parts])
                for name in health.classes
            ],
            sizes=_tally(f"{image.width} × {image.height}" for image in scanned),
            kinds=_tally(image.kind for image in scanned),
            distributions=[
                ("Brightness", "mean of the pixels, black 0, white 1", _histograms(health, "brightness")),
                ("Contrast", "standard deviation of the pixels", _histograms(health, "contrast")),
            ],
            sections=[
                (anchor, title, meaning, len(groups), [_group(health, group) for group in groups[:MAX_GROUPS]])
                for anchor, title, meaning, groups in (
                    ("leaks", "In more than one part", "Training images are also tested on.", health.leaks),
                    ("conflicts", "More than one label", "The same image is in several classes.", health.conflicts),
                    ("duplicates", "Duplicates", "The same image, in one class and one part.", health.duplicates),
                )
            ],
            by=by,
            doubtful_count=len(health.doubtful_labels),
            doubtful=[_doubtful_image(health, doubtful) for doubtful in health.doubtful_labels[:MAX_DOUBTFUL]],
            unreadable=[
                (_relative(health, file.item.path), file.reason) for file in health.unreadable[:MAX_UNREADABLE]
            ],
            unreadable_count=len(health.unreadable),
            samples=_samples(health),
            json_name=JSON_NAME,
        )
    )


def _samples(health: DatasetHealth) -> list[tuple[str, list[CaptionedImage]]]:
    """Evenly spaced images of each class."""
    samples = []
    for name in health.classes[:MAX_SAMPLED_CLASSES]:
        members = [image for image in health.scan.images if image.item.label == name]
        samples.append((name, [_captioned_image(health, image) for image in _evenly_spaced(members, SAMPLES)]))
    return samples


def _group(health: DatasetHealth, group: DuplicateGroup) -> tuple[str, int, list[CaptionedImage]]:
    """(kind, number of images not shown, thumbnails) of a duplicate group."""
    members = sorted(health.members(group), key=lambda image: (image.item.part, image.item.label))
    thumbnails = [
        _captioned_image(health, image, " · ".join(filter(None, (image.item.part, image.item.label))))
        for image in _evenly_spaced(members, MAX_GROUP_IMAGES)
    ]
    return group.kind, len(members) - len(thumbnails), thumbnails


def _evenly_spaced(scanned: Sequence[ScannedImage], limit: int) -> list[ScannedImage]:
    """At most `limit` images, the first and the last among them."""
    count = min(limit, len(scanned))
    return [scanned[round(position)] for position in np.linspace(0, len(scanned) - 1, count)] if count else []


def _doubtful_image(health: DatasetHealth, doubtful: DoubtfulLabel) -> CaptionedImage:
    return _captioned_image(
        health,
        doubtful.image,
        f"labelled {doubtful.image.item.label} ({doubtful.label_probability:.0%})",
        f"looks like {doubtful.suggested} ({doubtful.probability:.0%})",
        contract=DOUBTFUL_CONTRACT,
    )


def _captioned_image(
    health: DatasetHealth, image: ScannedImage, *lines: str, contract: ImageContract = SCAN_CONTRACT
) -> CaptionedImage:
    name = _relative(health, image.item.path)
    try:
        pixels = images.decode_file(image.item.path, replace(contract, bands=health.bands))
        thumbnail = images.encode_thumbnail(pixels, THUMBNAIL_PX)
    except ImageError:
        return CaptionedImage("", name, lines)
    return CaptionedImage(jpeg_uri(thumbnail), name, lines)


def _histograms(health: DatasetHealth, attribute: str) -> list[tuple[str, str, str]]:
    """(class, SVG path of its histogram in a box of HISTOGRAM_BINS × 20, quantiles in words)."""
    histograms = []
    for name in health.classes:
        values = np.array([getattr(image, attribute) for image in health.scan.images if image.item.label == name])
        if not len(values):
            continue
        heights, _ = np.histogram(values, HISTOGRAM_BINS, (0, 1))
        tops = 20 - 19 * heights / heights.max()
        steps = " ".join(f"V{top:.1f}H{index + 1}" for index, top in enumerate(tops))
        low, median, high = np.quantile(values, (0.05, 0.5, 0.95))
        words = f"median {median:.2f}; 90 % between {low:.2f} and {high:.2f}"
        histograms.append((name, f"M0 20{steps}V20Z", words))
    return histograms


def _tally(values: Iterable[str]) -> list[tuple[str, int]]:
    """The most frequent values with their counts, and the rest together."""
    names, counts = np.unique(list(values), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [(str(names[index]), int(counts[index])) for index in order[:MAX_TALLY_ROWS]]
    rest = int(counts.sum()) - sum(count for _, count in shown)
    return shown + ([(f"{len(names) - MAX_TALLY_ROWS} others", rest)] if rest else [])


def _relative(health: DatasetHealth, path: ImagePath) -> str:
    root = parent_folder(str(health.path)) if is_table(health.path) else health.path
    relative = relative_name(path, root)
    return relative.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"
