"""The anomaly report: a self-contained page with a gallery, a map and the detectors' agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from astrodetect.anomalies import consensus
from astrodetect.anomalies.results import DISCOVERIES, AnomalyResults, Explanation
from astrodetect.records import Cone, Floats, SkyCell, SkyObject
from astrodetect.reports.html import (
    REPORT_TEMPLATES,
    TILE_PX,
    TILES_PER_ROW,
    NamedThumbnail,
    ThumbnailReader,
    ThumbnailRequest,
    display_name,
    heat_map_overlay,
    read_thumbnails,
    template_environment,
    thumbnail_sprite,
)
from astrodetect.reports.sky_map import SkyMap, SkyMark, draw_sky_map, enclosing_cone, map_order
from astrodetect.reports.svg_charts import Marker, class_markers
from astrodetect.sky.healpix import cells_of
from astrodetect.sky.known_objects import KNOWN_COLUMNS

STYLE = REPORT_TEMPLATES / "report.css"  # shared with the evaluation report
CARD_PX, NEIGHBOUR_PX, SAMPLE_PX = 192, 96, 80  # sides of the images
SAMPLES = 12  # images per detector
SAMPLE_SEED = 0
MAX_TILES = 2000  # images with a preview on the map: a megabyte
MAX_SKIPPED = 200
MAX_FIELD_DEG = 40.0  # images farther apart are on a map of the whole sky
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 1000, 640, 14


@dataclass(frozen=True, slots=True)
class RunDescription:
    """What the run compared, in words, and how its images are read."""

    title: str
    features: str
    comparison: str
    reader: ThumbnailReader


@dataclass(frozen=True, slots=True)
class AnomalyCard:
    """An image of the gallery."""

    rank: int
    picture: NamedThumbnail
    label: str
    review_label: str
    heat: str
    neighbours: list[NamedThumbnail]
    novelty: float
    strength: float
    discovery: bool  # flagged with the run's false discovery rate
    view: str  # the detector that finds it the most unusual
    detector_ranks: list[tuple[str, int, bool]]  # detector, its rank of the image, whether it flags it
    position: tuple[float, float]  # on the map
    sky: SkyObject
    known: Mapping[str, Any]  # the values of KNOWN_COLUMNS; None where not compared

    @property
    def flags(self) -> list[str]:
        """The detectors that flag it, `consensus` if all do, and `flagged` if it is a discovery."""
        names = [detector for detector, _, flagged in self.detector_ranks if flagged]
        consensus = ["consensus"] if len(names) == len(self.detector_ranks) else []
        return [*names, *consensus, *([DISCOVERIES] if self.discovery else [])]


def write_anomaly_report(
    path: Path, results: AnomalyResults, explanations: Sequence[Explanation], run: RunDescription
) -> None:
    """Write the page; `explanations` are of the gallery's images, all of which are on the map."""
    flagged = results.flagged_by()
    samples = {detector: _sample(flags) for detector, flags in flagged.items()}
    thumbnails = read_thumbnails(_thumbnail_requests(results, explanations, samples), run.reader)
    map_size = (MAP_WIDTH - 2 * MAP_MARGIN, MAP_HEIGHT - 2 * MAP_MARGIN)
    xy = np.asarray(results.projection.xy * map_size + MAP_MARGIN, np.float32)
    cards = _cards(results, explanations, thumbnails, xy)
    on_map = results.projection.indices
    markers = class_markers([results.labels[image] for image in on_map], xy)
    by_rank = np.argsort(results.positions[on_map], kind="stable")  # the most unusual first
    text = (
        template_environment(REPORT_TEMPLATES)
        .get_template("anomalies.html")
        .render(
            run=run,
            results=results,
            style=Markup(STYLE.read_text(encoding="utf-8")),  # noqa: S704 - our own
            cards=cards,
            counts={detector: int(flags.sum()) for detector, flags in flagged.items()},
            overlaps=_overlap_rows(results),
            samples=[
                (detector, int(flagged[detector].sum()), [thumbnails[results.paths[i], SAMPLE_PX] for i in sample])
                for detector, sample in samples.items()
            ],
            markers=markers,
            points=_points(results, by_rank, xy, markers, len(cards)),
            sprite=thumbnail_sprite([results.paths[image] for image in on_map[by_rank[:MAX_TILES]]], run.reader),
            tile=TILE_PX,
            tiles=(TILES_PER_ROW, min(MAX_TILES, len(by_rank))),
            size=(MAP_WIDTH, MAP_HEIGHT),
            sky=_sky(results, cards),
            skipped=[(display_name(file), reason) for file, reason in results.skipped[:MAX_SKIPPED]],
        )
    )
    path.write_text(text, encoding="utf-8")


def _thumbnail_requests(
    results: AnomalyResults, explanations: Sequence[Explanation], samples: Mapping[str, list[int]]
) -> list[ThumbnailRequest]:
    return [
        *((results.paths[explanation.image], CARD_PX) for explanation in explanations),
        *((path, NEIGHBOUR_PX) for explanation in explanations for path in explanation.neighbours),
        *((results.paths[image], SAMPLE_PX) for sample in samples.values() for image in sample),
    ]


def _cards(
    results: AnomalyResults,
    explanations: Sequence[Explanation],
    thumbnails: Mapping[ThumbnailRequest, NamedThumbnail],
    xy: Floats,
) -> list[AnomalyCard]:
    novelty, ranks, positions = results.novelty, results.ranks(), results.positions
    map_index = {image: index for index, image in enumerate(results.projection.indices.tolist())}
    return [
        AnomalyCard(
            rank=int(positions[image]),
            picture=thumbnails[results.paths[image], CARD_PX],
            label=results.labels[image],
            review_label=results.review_labels.get(image, ""),
            heat="" if explanation.heat is None else heat_map_overlay(explanation.heat),
            neighbours=[thumbnails[path, NEIGHBOUR_PX] for path in explanation.neighbours],
            novelty=float(novelty.novelty[image]),
            strength=float(novelty.strength[image]),
            discovery=bool(results.discoveries.flagged[image]),
            view=novelty.view(image),
            detector_ranks=[
                (name, int(ranks[name][image]), bool(novelty.flagged[name][image])) for name in results.detectors
            ],
            position=tuple(xy[map_index[image]].tolist()),
            sky=results.sky_object(image),
            known=dict(zip(KNOWN_COLUMNS, results.known[image] if results.known else repeat(None), strict=False)),
        )
        for explanation in explanations
        for image in (explanation.image,)
    ]


def _points(
    results: AnomalyResults, by_rank: NDArray[np.int64], xy: Floats, markers: Sequence[Marker], cards: int
) -> dict[str, Any]:
    """The map's points for the page's script, by rank: position, class, rank and name."""
    images = results.projection.indices[by_rank]
    marker_index = {marker.name: index for index, marker in enumerate(markers)}
    return {
        "xy": np.rint(xy[by_rank]).astype(int).ravel().tolist(),
        "marks": [marker_index.get(results.labels[image], len(markers) - 1) for image in images.tolist()],
        "ranks": results.positions[images].tolist(),
        "names": [display_name(results.paths[image]) for image in images.tolist()],
        "cards": cards,
    }


def _sky(results: AnomalyResults, cards: Sequence[AnomalyCard]) -> SkyMap | None:
    """The map of the sky with all images and the gallery's; None without positions."""
    placed = [item for item in map(results.sky_object, range(len(results))) if item.ra is not None]
    if not placed:
        return None
    ra, dec = np.array([item.ra for item in placed], float), np.array([item.dec for item in placed], float)
    cone: Cone | None = enclosing_cone(ra, dec)
    if cone and cone.radius > MAX_FIELD_DEG:
        cone = None
    cells, counts = np.unique(cells_of(ra, dec, map_order(cone)), return_counts=True)
    marks = [
        SkyMark(card.sky.ra, card.sky.dec, f"#card-{card.rank}", f"{card.rank}, {card.picture.name}", card.discovery)
        for card in reversed(cards)  # the most unusual above the others
        if card.sky.ra is not None and card.sky.dec is not None
    ]
    counted = [SkyCell(cell, count) for cell, count in zip(cells.tolist(), counts.tolist(), strict=True)]
    return draw_sky_map(counted, cone, marks=marks)


def _overlap_rows(results: AnomalyResults) -> list[tuple[str, list[float | None]]]:
    """A row per detector: its Jaccard index with each detector, None with itself."""
    indices = consensus.jaccard_indices(results.novelty.flagged)
    return [
        (name, [indices.get((other, name), indices.get((name, other))) for other in results.detectors])
        for name in results.detectors
    ]


def _sample(flags: NDArray[np.bool_]) -> list[int]:
    sample: list[int] = np.random.default_rng(SAMPLE_SEED).permutation(np.flatnonzero(flags))[:SAMPLES].tolist()
    return sample
