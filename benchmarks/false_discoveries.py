"""`python -m benchmarks.false_discoveries [DATA --unusual CLASS …]`: does the stated false discovery rate hold?

Every draw takes other ordinary images and judges them twice: compared with each other, and compared with as many other
ordinary images. Then the same with unusual images among those that are judged. Without DATA, images are simulated.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import adaptation
from astrodetect.anomalies.conformal import FALSE_DISCOVERY_RATE, Discoveries
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets import class_folders
from astrodetect.datasets.simulation import generator
from astrodetect.features.extraction import measured_contract
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats
from benchmarks import hardware
from benchmarks.discovery import SIDE_PX, UNUSUAL, USUAL

DRAWS = 20
SIZES = (100, 200, 400, 800)  # ordinary images of a draw
UNUSUAL_SHARE = 0.02
SIMULATED, SIMULATED_UNUSUAL = 4_000, 60  # ordinary images, and of each unusual class
SIMULATION_SEED = 11


@dataclass(frozen=True, slots=True)
class DiscoveryCounts:
    """All draws of one size: what was flagged among ordinary images alone, and with unusual ones among them."""

    images: int
    compared_with: str
    draws_with_flags: int
    flagged: int
    planted: int
    found: int  # unusual images flagged
    found_wrongly: int  # ordinary images flagged beside them
    false_discovery_rate: float  # the mean share of ordinary images among those flagged there


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.false_discoveries", description=__doc__)
    add = parser.add_argument
    add("data", type=Path, nargs="?")
    add("--unusual", nargs="+", default=UNUSUAL, metavar="CLASS")
    add("--sizes", nargs="+", type=int, default=SIZES, metavar="N")
    add("--draws", type=int, default=DRAWS)
    add("--fdr", type=float, default=FALSE_DISCOVERY_RATE)
    add("--json", action="store_true")
    arguments = parser.parse_args()
    with _folder(arguments.data) as folder:
        ordinary, unusual = read_features(folder, arguments.unusual)
    rows = [row for size in arguments.sizes for row in measure(ordinary, unusual, size, arguments.draws, arguments.fdr)]
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "rows": [asdict(row) for row in rows]}))
        return
    print(
        f"| images | compared with | of {arguments.draws} draws without unusual images, with flags | flagged there | "
        "unusual images found | ordinary ones flagged beside them | their mean share |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )
    for row in rows:
        found = f"{row.found} of {row.planted}"
        print(
            f"| {row.images} | {row.compared_with} | {row.draws_with_flags} | {row.flagged} | {found} "
            f"| {row.found_wrongly} | {row.false_discovery_rate:.1%} |"
        )


def read_features(folder: Path, unusual: list[str]) -> tuple[Floats, Floats]:
    """The measurements of the ordinary and of the unusual images."""
    items = class_folders.list_dataset(folder)
    measured = adaptation.measure_files(items, measured_contract(), read_ahead, folder.name)
    is_unusual = np.array([item.label in unusual for item in measured.items])
    return measured.features[~is_unusual], measured.features[is_unusual]


def measure(ordinary: Floats, unusual: Floats, size: int, draws: int, rate: float) -> Iterator[DiscoveryCounts]:
    """Draws of this size, compared with each other and with others."""
    planted = max(3, round(UNUSUAL_SHARE * size))
    flags: dict[str, list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = {"each other": [], "others": []}
    for draw in range(draws):
        random = np.random.default_rng(draw)
        order, odd = random.permutation(len(ordinary)), unusual[random.permutation(len(unusual))[:planted]]
        judged, others = ordinary[order[:size]], ordinary[order[size : 2 * size]]
        flags["each other"].append((flag(judged, None, rate), flag(np.concatenate([judged, odd]), None, rate)))
        if len(others) == size:
            normal = Novelty.fit(others, feature_kind="shapes").calibrated()
            flags["others"].append((flag(judged, normal, rate), flag(np.concatenate([judged, odd]), normal, rate)))
    for compared_with, pairs in flags.items():
        if pairs:
            alone, mixed = (np.array(part) for part in zip(*pairs, strict=True))
            yield DiscoveryCounts(
                images=size,
                compared_with=compared_with,
                draws_with_flags=int(alone.any(axis=1).sum()),
                flagged=int(alone.sum()),
                planted=planted * len(pairs),
                found=int(mixed[:, size:].sum()),
                found_wrongly=int(mixed[:, :size].sum()),
                false_discovery_rate=float(np.mean(mixed[:, :size].sum(axis=1) / np.maximum(1, mixed.sum(axis=1)))),
            )


def flag(features: Floats, normal: Novelty | None, rate: float) -> NDArray[np.bool_]:
    """What `anomalies` flags."""
    if normal:
        return Discoveries.find(normal.score(features).strength, rate, normal.images).flagged
    result = Novelty.fit(features, feature_kind="shapes").score_training_images()
    return Discoveries.find(result.strength, rate, len(features)).flagged


@contextmanager
def _folder(data: Path | None) -> Iterator[Path]:
    if data:
        yield data
        return
    counts = {name: SIMULATED * share // 100 for name, share in USUAL.items()}
    with tempfile.TemporaryDirectory() as name:
        yield generator.make_dataset(
            Path(name) / "simulated",
            counts | dict.fromkeys(UNUSUAL, SIMULATED_UNUSUAL),
            seed=SIMULATION_SEED,
            size=SIDE_PX,
        )


if __name__ == "__main__":
    main()
