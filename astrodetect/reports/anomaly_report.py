"""What was found as one page to read: it needs nothing else and asks nobody for anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from astrodetect.anomalies import consensus
from astrodetect.anomalies.results import AnomalyResults, Explanation
from astrodetect.records import Floats
from astrodetect.reports import html
from astrodetect.reports.html import (
    TILE_PX,
    TILES_A_ROW,
    NamedThumbnail,
    ThumbnailKey,
    ThumbnailReader,
    display_name,
    read_thumbnails,
    template_environment,
    thumbnail_sprite,
)
from astrodetect.reports.svg_charts import MARKER_COLOURS, Marker, class_markers

TEMPLATES = Path(__file__).parent / "templates"
STYLE = TEMPLATES / "report.css"  # shared by all reports
SUBJECT_PX, BESIDE_PX, SAMPLE_PX = 192, 96, 80  # sides of the images on it
SAMPLES = 12  # images of each detector
SEED = 0  # they are drawn by
MOST_TILES = 2000  # images that are seen where the map is pointed at: a megabyte
SKIPPED_SHOWN = 200
MAP_WIDTH, MAP_HEIGHT, MAP_EDGE = 1000, 640, 14


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What the run was, in words, and how its images are read."""

    title: str
    features: str
    comparison: str
    reader: ThumbnailReader


@dataclass(frozen=True, slots=True)
class AnomalyCard:
    """One image of the gallery."""

    rank: int
    picture: NamedThumbnail
    label: str
    told: str
    heat: str
    neighbours: list[NamedThumbnail]
    novelty: float
    strength: float
    opinions: list[tuple[str, int, bool]]  # a detector, its rank of the image, whether it flags it
    at: tuple[float, float]  # on the map

    @property
    def flags(self) -> list[str]:
        """Who flags it, `consensus` where all do."""
        found = [detector for detector, _, flags in self.opinions if flags]
        return [*found, "consensus"] if len(found) == len(self.opinions) else found


def write_anomaly_report(
    place: Path, findings: AnomalyResults, reasons: Sequence[Explanation], about: RunDescription
) -> None:
    """Makes the page; `reasons` are of the images of its gallery, which are all on the map."""
    flagged = findings.flagged_by()
    samples = {detector: _sampled(flags) for detector, flags in flagged.items()}
    small = read_thumbnails(_wanted(findings, reasons, samples), about.reader)
    xy = np.asarray(
        findings.projection.xy * (MAP_WIDTH - 2 * MAP_EDGE, MAP_HEIGHT - 2 * MAP_EDGE) + MAP_EDGE, np.float32
    )
    cards = _cards(findings, reasons, small, xy)
    marks = class_markers([findings.labels[image] for image in findings.projection.indices], xy)
    pointed = np.argsort(findings.positions[findings.projection.indices], kind="stable")  # the most unusual first
    template = template_environment(TEMPLATES).get_template("anomalies.html")
    text = template.render(
        about=about,
        findings=findings,
        style=Markup(STYLE.read_text(encoding="utf-8")),  # noqa: S704 - our own
        cards=cards,
        counts={detector: int(flags.sum()) for detector, flags in flagged.items()},
        overlaps=_overlaps(findings),
        samples=[
            (detector, int(flagged[detector].sum()), [small[findings.paths[image], SAMPLE_PX] for image in some])
            for detector, some in samples.items()
        ],
        marks=marks,
        colours=MARKER_COLOURS,
        points=_points(findings, pointed, xy, marks, len(cards)),
        sheet=thumbnail_sprite(
            [findings.paths[image] for image in findings.projection.indices[pointed[:MOST_TILES]]], about.reader
        ),
        tile=TILE_PX,
        tiles=(TILES_A_ROW, min(MOST_TILES, len(pointed))),
        size=(MAP_WIDTH, MAP_HEIGHT),
        skipped=[(display_name(path), reason) for path, reason in findings.skipped[:SKIPPED_SHOWN]],
    )
    place.write_text(text, encoding="utf-8")


def _wanted(
    findings: AnomalyResults, reasons: Sequence[Explanation], samples: Mapping[str, list[int]]
) -> list[ThumbnailKey]:
    return [
        *((findings.paths[reason.image], SUBJECT_PX) for reason in reasons),
        *((path, BESIDE_PX) for reason in reasons for path in reason.neighbours),
        *((findings.paths[image], SAMPLE_PX) for some in samples.values() for image in some),
    ]


def _cards(
    findings: AnomalyResults, reasons: Sequence[Explanation], small: Mapping[ThumbnailKey, NamedThumbnail], xy: Floats
) -> list[AnomalyCard]:
    looked, ranks, positions = findings.novelty, findings.ranks(), findings.positions
    on_map = {image: number for number, image in enumerate(findings.projection.indices.tolist())}
    return [
        AnomalyCard(
            rank=int(positions[image]),
            picture=small[findings.paths[image], SUBJECT_PX],
            label=findings.labels[image],
            told=findings.review_labels.get(image, ""),
            heat="" if reason.heat is None else html.heat_map_overlay(reason.heat),
            neighbours=[small[path, BESIDE_PX] for path in reason.neighbours],
            novelty=float(looked.novelty[image]),
            strength=float(looked.strength[image]),
            opinions=[
                (each, int(ranks[each][image]), bool(looked.flagged[each][image])) for each in findings.detectors
            ],
            at=tuple(xy[on_map[image]].tolist()),
        )
        for reason in reasons
        for image in (reason.image,)
    ]


def _points(
    findings: AnomalyResults, pointed: NDArray[np.int64], xy: Floats, marks: Sequence[Marker], cards: int
) -> dict[str, Any]:
    """What a script needs to find the image that is pointed at: points by rank, with their class and their name."""
    places = findings.projection.indices[pointed].tolist()
    numbers = {mark.name: number for number, mark in enumerate(marks)}
    return {
        "xy": np.rint(xy[pointed]).astype(int).ravel().tolist(),
        "marks": [numbers.get(findings.labels[image], len(marks) - 1) for image in places],
        "ranks": findings.positions[findings.projection.indices[pointed]].tolist(),
        "names": [display_name(findings.paths[image]) for image in places],
        "cards": cards,
    }


def _overlaps(findings: AnomalyResults) -> list[tuple[str, list[float | None]]]:
    """A row for each detector: how far each one before it flags the same images."""
    found = consensus.jaccard_indices(findings.novelty.flagged)
    return [
        (
            one,
            [
                found.get((other, one), found.get((one, other))) if one != other else None
                for other in findings.detectors
            ],
        )
        for one in findings.detectors
    ]


def _sampled(flags: NDArray[np.bool_]) -> list[int]:
    found = np.flatnonzero(flags)
    some: list[int] = np.random.default_rng(SEED).permutation(found)[:SAMPLES].tolist()
    return some
