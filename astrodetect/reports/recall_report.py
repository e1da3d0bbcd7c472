"""The recall report: which planted rarities would have been found, as a self-contained page and as JSON."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from astrodetect import atomic_files
from astrodetect.anomalies.recall import PlantedGroup, RecallResult
from astrodetect.errors import DataError
from astrodetect.evaluation.metrics import Estimate, wilson_interval
from astrodetect.reports.html import REPORT_TEMPLATES, NamedThumbnail, display_name, pixels_uri, template_environment
from astrodetect.reports.svg_charts import interval_bar

PAGE_NAME, JSON_NAME = "recall.html", "recall.json"
KIND_NAMES = {"ring": "rings", "arc": "lensed arcs", "merger": "mergers", "trail": "satellite trails"}
EXAMPLES = 6  # of each kind and brightness: spread over their ranks


@dataclass(frozen=True, slots=True)
class RecallRow:
    """The recall of one kind and brightness."""

    kind: str
    brightness: float
    planted: int
    found: int
    recall: Estimate
    bar: Markup
    median_rank: float
    view: str  # most often the one that finds them the most unusual
    examples: list[tuple[NamedThumbnail, int, bool]]  # image, rank, whether it is found


def write_recall_report(result: RecallResult, folder: Path, title: str) -> Path:
    """Write the page and the JSON; returns the path of the page."""
    rows = recall_rows(result)
    page = (
        template_environment(REPORT_TEMPLATES)
        .get_template("recall.html")
        .render(
            title=title,
            result=result,
            style=Markup((REPORT_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own
            kinds=[
                (KIND_NAMES[kind], [row for row in rows if row.kind == kind])
                for kind in dict.fromkeys(row.kind for row in rows)
            ],
        )
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(folder / JSON_NAME, json.dumps(recall_as_json(result), indent=1) + "\n")
        atomic_files.write_text(folder / PAGE_NAME, page)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / PAGE_NAME


def recall_rows(result: RecallResult) -> list[RecallRow]:
    """A row of each group that has images."""
    return [_row(group, result.first) for group in result.groups if group.images]


def _row(group: PlantedGroup, first: int) -> RecallRow:
    found, ranks = group.found(first), np.array([image.rank for image in group.images])
    recall = wilson_interval(found, len(ranks))
    by_rank = np.argsort(ranks, kind="stable")
    spread = by_rank[np.unique(np.linspace(0, len(ranks) - 1, EXAMPLES).astype(np.int64))]
    examples = [
        (
            NamedThumbnail(display_name(group.images[i].host), pixels_uri(group.images[i].pixels)),
            round(ranks[i]),
            bool(ranks[i] <= first),
        )
        for i in spread.tolist()
    ]
    return RecallRow(
        group.kind,
        group.brightness,
        len(ranks),
        found,
        recall,
        interval_bar(recall),
        float(np.median(ranks)),
        Counter(image.view for image in group.images).most_common(1)[0][0],
        examples,
    )


def recall_as_json(result: RecallResult) -> dict[str, object]:
    """For programs: a record of each kind and brightness, with the ranks."""
    return {
        "images": result.images,
        "first": result.first,
        "by_chance": min(1.0, result.first / result.images),
        "seed": result.seed,
        "groups": [
            {
                "kind": row.kind,
                "brightness": row.brightness,
                "planted": row.planted,
                "found": row.found,
                "recall": row.recall.value,
                "low": row.recall.low,
                "high": row.recall.high,
                "median_rank": row.median_rank,
                "view": row.view,
                "ranks": sorted(round(image.rank) for image in group.images),
            }
            for row, group in zip(recall_rows(result), (group for group in result.groups if group.images), strict=True)
        ],
    }


def recall_lines(result: RecallResult) -> list[str]:
    """The recall by kind and brightness as a table for the terminal."""
    rows = recall_rows(result)
    brightnesses = sorted({row.brightness for row in rows})
    cells = {(row.kind, row.brightness): _cell(row.recall) for row in rows}
    lines = [
        f"found in the first {result.first:,} of {result.images:,} images (by chance "
        f"{100 * min(1.0, result.first / result.images):.0f} %), by the brightness of the planted peak:",
        f"{'':18}" + "".join(f"{brightness:>20g}" for brightness in brightnesses),
    ]
    for kind in dict.fromkeys(row.kind for row in rows):
        texts = [cells.get((kind, brightness), "") for brightness in brightnesses]
        lines.append(f"{KIND_NAMES[kind]:18}" + "".join(f"{text:>20}" for text in texts))
    return lines


def _cell(recall: Estimate) -> str:
    return f"{100 * recall.value:.0f} % ({100 * recall.low:.0f} to {100 * recall.high:.0f})"
