"""`python -m benchmarks.views DATA --unusual CLASS …`: what each view adds to the default ranking of unusual images.

DATA has a folder for each class, or parts that have. Its images are split into two halves, class by class: what the
ranking consists of was chosen on draws of the first half alone, and is judged on draws of the second. Each draw has
4/5 of the half's ordinary images, and half of its unusual ones; `--all` draws 1,600 and 29 of all images instead.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from astrodetect.anomalies import adaptation
from astrodetect.anomalies.conformal import TailScore
from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.registry import RANKING_WEIGHTS, VIEWS
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.whitening import FeatureBlock, WhitenedSpace
from astrodetect.datasets import class_folders
from astrodetect.features.central_object import MEASURED_WIDTHS, as_earlier_features
from astrodetect.features.extraction import measured_contract
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats

SPLIT_SEED = 17
DRAWS = 10
HALVES = ("chosen on", "judged on")
ALL, ALL_ORDINARY, ALL_UNUSUAL = "all", 1600, 29
EARLIER_DIMENSIONS = (20, 40)


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--unusual", nargs="+", required=True, metavar="CLASS")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    items = sorted(class_folders.list_dataset(arguments.data), key=lambda item: str(item.path))
    measured = adaptation.measure_files(items, measured_contract(), read_ahead, str(arguments.data))
    labels = np.array([item.label for item in measured.items])
    unusual = np.isin(labels, arguments.unusual)
    results: dict[str, dict[str, list[float]]] = {}
    for group in [ALL] if arguments.all else HALVES:
        for drawn in draws(labels, unusual, group):
            for name, strength in rankings(measured.features[drawn]).items():
                precision = float(average_precision_score(unusual[drawn], strength))
                results.setdefault(name, {}).setdefault(group, []).append(precision)
    print(json.dumps(results) if arguments.json else table(results))


def draws(labels: NDArray[np.str_], unusual: NDArray[np.bool_], group: str) -> Iterator[NDArray[np.int64]]:
    """The images of each draw from a half, or from all."""
    half, random = np.zeros(len(labels), np.int64), np.random.default_rng(SPLIT_SEED)
    for name in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == name))
        half[members[: len(members) // 2]] = 1
    chosen = np.ones(len(labels), np.bool_) if group == ALL else half == HALVES.index(group)
    ordinary, odd = np.flatnonzero(~unusual & chosen), np.flatnonzero(unusual & chosen)
    counts = (ALL_ORDINARY, ALL_UNUSUAL) if group == ALL else (4 * len(ordinary) // 5, len(odd) // 2)
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        yield np.concatenate([random.permutation(ordinary)[: counts[0]], random.permutation(odd)[: counts[1]]])


def rankings(features: Floats) -> dict[str, Floats]:
    """The default ranking, that of earlier versions, each view, and the default without each."""
    result = Novelty.fit(features, feature_kind="shapes").score_training_images()
    tails = {name: TailScore.fit(result.scores[name]).transform(result.scores[name]) for name in VIEWS}
    weighted = {name: RANKING_WEIGHTS[name] * tail for name, tail in tails.items()}
    return {
        "default ranking": result.strength,
        "earlier default: LOF of object and cutout": _earlier(features),
        **{f"{name} alone": result.scores[name] for name in VIEWS},
        **{f"without {name}": _sum(weighted, without=name) for name in VIEWS},
        "equal weights": _sum(tails),
    }


def _sum(tails: Mapping[str, NDArray[np.float64]], without: str = "") -> Floats:
    return np.asarray(np.sum([tail for name, tail in tails.items() if name != without], axis=0), np.float32)


def _earlier(features: Floats) -> Floats:
    earlier = as_earlier_features(features)
    blocks = [FeatureBlock(*block) for block in zip(MEASURED_WIDTHS[:2], EARLIER_DIMENSIONS, strict=True)]
    reference = ReferencePoints(WhitenedSpace.fit(earlier, blocks).transform(earlier))
    images = DetectorInput(earlier, reference.points, reference, leave_one_out=True)
    return Lof.fit(images).score(images)


def table(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Markdown: mean AUPRC (lowest to highest) of each ranking."""
    groups = list(next(iter(results.values())))
    lines = [f"AUPRC, mean of {DRAWS} draws (lowest to highest)", "", f"| ranking | {' | '.join(groups)} |"]
    lines.append("| --- " * (len(groups) + 1) + "|")
    for name, by_group in results.items():
        cells = [f"{np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for v in by_group.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
