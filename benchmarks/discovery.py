"""`python -m benchmarks.discovery [DATA --unusual CLASS …]`: how well detectors and active learning find anomalies.

Without DATA, images are simulated: ellipticals and discs, with 1 % each of mergers, rings, lenses and satellite trails.
DATA has a folder for each class, or parts that have; --unusual names the anomalous classes. Every seed simulates other
images, or draws another four fifths of DATA. The study's methods get the input that they were made for, the pooled
features of a ResNet50 (untrained unless --model or --weights names one), and, for fairness, our measured features too.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from astrodetect import images
from astrodetect.anomalies import consensus
from astrodetect.anomalies.detectors.registry import FITTABLE_DETECTORS
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.datasets import class_folders
from astrodetect.datasets.simulation import generator
from astrodetect.features.central_object import feature_matrix
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.recipes import RESNET50_STATISTICS
from astrodetect.records import Floats, ImageContract, Pixels
from astrodetect.settings import ROOT, settings
from benchmarks import bar_chart, hardware, study_detectors
from benchmarks.ranking_metrics import RankingMetrics, Truth, hits_with_labels, measure_ranking

USUAL = {"E": 40, "SB": 30, "S": 20, "edge": 10}  # percent of the normal images
UNUSUAL = ("merger", "ring", "lens", "trail")
SHARE = 0.01  # of each class, per normal image
IMAGES, QUICK_IMAGES = 2000, 800  # normal ones
SIDE_PX = 128
FEATURE_BATCH = 32  # images
DRAWN = 0.8  # of the images in a folder, for each seed
EPOCHS, QUICK_EPOCHS = 50, 8  # of the study's autoencoder
NETWORK = ImageContract(size=64, crop=0.7)  # input of the untrained ResNet50
LABELS = (10, 50, 100)
DEFAULT, CONSENSUS, AVERAGE, BLIND = "default ranking", "all agree", "rank average", "default ranking, on the network"
STUDY, STUDY_ON_OURS = "study: ", "study on our shapes: "
PICTURE = ROOT / "docs" / "discovery.svg"


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images, and which of them are anomalies."""

    paths: list[Path]
    unusual: Truth


@dataclass(frozen=True, slots=True)
class Round:
    """The metrics of one seed: of each ranking, and hits among the first 100 per number of labels."""

    rankings: Mapping[str, RankingMetrics]
    labelled: Mapping[str, float]
    images: int
    unusual: int
    noise: float  # share of the normal images that our DBSCAN calls noise


def main() -> None:
    """Measure with every seed; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discovery", description=__doc__)
    add = parser.add_argument
    add("data", type=Path, nargs="?")
    add("--unusual", nargs="+", default=[], metavar="CLASS")
    add("--seeds", type=int, default=5)
    add("--model", help="a trained model, whose features the study's methods get")
    add("--weights", help="imagenet, or a Keras .h5 file of a ResNet50, for those features")
    add("--quick", action="store_true", help="one small simulated set, and fewer epochs of the autoencoder")
    add("--picture", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)}")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    if bool(arguments.data) != bool(arguments.unusual):
        parser.error("DATA and --unusual go together")
    began, epochs = time.monotonic(), QUICK_EPOCHS if arguments.quick else EPOCHS
    network = _Network(arguments.model, arguments.weights)
    rounds = []
    for seed, sky in _skies(arguments):
        rounds.append(search(sky, network, epochs=epochs, seed=seed, thorough=not arguments.quick))
        print(f"seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if arguments.picture:
        draw(rounds)
    figures = summary(rounds) | {"seconds": time.monotonic() - began, "machine": hardware.describe()}
    print(json.dumps(figures) if arguments.json else table(rounds))


def search(sky: LabelledImages, network: "_Network", *, epochs: int, seed: int, thorough: bool) -> Round:
    """All rankings of one set of images."""
    shapes = measure_shapes(sky.paths)
    features = network.features(sky.paths)
    fitted = Novelty.fit(shapes, feature_kind="shapes", names=tuple(FITTABLE_DETECTORS))
    ours = fitted.score_training_images()
    rankings = _ours(sky.unusual, ours)
    theirs = study_detectors.study_scores(features, epochs=epochs, seed=seed)
    rankings |= {STUDY + name: measure_ranking(sky.unusual, scores) for name, scores in theirs.items()}
    if thorough:
        on_network = Novelty.fit(features, feature_kind="network").score_training_images()
        rankings[BLIND] = measure_ranking(sky.unusual, on_network.strength)
        fair = study_detectors.study_scores(shapes, epochs=epochs, seed=seed)
        rankings |= {STUDY_ON_OURS + name: measure_ranking(sky.unusual, scores) for name, scores in fair.items()}
    labelled = {str(labels): hits_with_labels(sky.unusual, ours.vectors, ours.strength, labels) for labels in LABELS}
    noise = float(ours.flagged["dbscan"][~sky.unusual].mean())
    return Round(rankings, labelled, len(sky.paths), int(sky.unusual.sum()), noise)


def _ours(unusual: Truth, result: NoveltyResult) -> dict[str, RankingMetrics]:
    averaged = {name: result.scores[name] for name in ("lof", "knn", "mahalanobis")}
    return {
        DEFAULT: measure_ranking(unusual, result.strength),
        AVERAGE: measure_ranking(unusual, -consensus.average_rank(averaged)),
        CONSENSUS: measure_ranking(unusual, result.consensus.astype(np.float32)),
        **{name: measure_ranking(unusual, scores) for name, scores in result.scores.items()},
    }


def _skies(arguments: argparse.Namespace) -> Iterator[tuple[int, LabelledImages]]:
    if arguments.data:
        items = class_folders.list_dataset(arguments.data)
        labels = np.array([item.label for item in items])
        if missing := sorted({*arguments.unusual} - {*labels.tolist()}):
            sys.exit(f"{arguments.data} has no class {missing[0]}")
        for seed in range(arguments.seeds):
            drawn = np.random.default_rng(seed).permutation(len(items))[: round(DRAWN * len(items))]
            yield seed, LabelledImages([items[i].path for i in drawn], np.isin(labels[drawn], arguments.unusual))
        return
    usual, seeds = (QUICK_IMAGES, 1) if arguments.quick else (IMAGES, arguments.seeds)
    counts = {name: usual * share // 100 for name, share in USUAL.items()} | dict.fromkeys(
        UNUSUAL, round(usual * SHARE)
    )
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            generator.make_dataset(Path(folder), counts, seed=seed, size=SIDE_PX)
            items = class_folders.list_dataset(Path(folder))
            unusual = np.array([item.label in UNUSUAL for item in items])
            yield seed, LabelledImages([Path(item.path) for item in items], unusual)


class _Network:
    """The pooled features of a ResNet50."""

    def __init__(self, model: str | None, weights: str | None) -> None:
        self._engine = (
            Engine(load_verified(settings().models_dir, model, settings().precision)) if model else _untrained(weights)
        )

    def features(self, paths: list[Path]) -> Floats:
        """(n, features)"""
        return self._engine.run_all(_read(paths, self._engine.manifest.image)).features


def _untrained(weights: str | None) -> Engine:
    from astrodetect.learning import network  # noqa: PLC0415 - takes seconds to load
    from astrodetect.learning.export import features_engine  # noqa: PLC0415

    network.set_seed(0)
    model = network.build("resnet50", NETWORK.size, RESNET50_STATISTICS, 1)
    if weights == "imagenet":
        network.load_imagenet_weights(model, "resnet50")
    elif weights:
        network.load_weights_file(model, "resnet50", Path(weights))
    return features_engine(model, NETWORK)


def measure_shapes(paths: list[Path]) -> Floats:
    """(n, features) the measurements of these images."""
    pixels, no_network = _read(paths, ImageContract(size=SIDE_PX)), np.empty((0, 0), np.float32)
    with threadpool_limits(1, user_api="blas"):
        parts = [
            feature_matrix("shapes", pixels[start : start + FEATURE_BATCH], 1.0, no_network)
            for start in range(0, len(pixels), FEATURE_BATCH)
        ]
    return np.concatenate(parts)


def _read(paths: list[Path], contract: ImageContract) -> Pixels:
    with ThreadPoolExecutor(hardware.cores()) as pool:
        return np.stack(list(pool.map(partial(images.decode_file, contract=contract), paths)))


def summary(rounds: list[Round]) -> dict[str, Any]:
    """The main results as means over the seeds, and all rounds."""
    rankings = {
        name: {
            figure: [getattr(round_.rankings[name], figure) for round_ in rounds]
            for figure in RankingMetrics.__dataclass_fields__
        }
        for name in rounds[0].rankings
    }
    means = {name: float(np.mean(figures["auprc"])) for name, figures in rankings.items()}
    return {
        "default_auprc": means[DEFAULT],
        "study_best_auprc": max(value for name, value in means.items() if name.startswith(STUDY)),
        "study_best_auprc_on_our_shapes": max(
            (value for name, value in means.items() if name.startswith(STUDY_ON_OURS)), default=None
        ),
        "found_per_100_default": float(np.mean(rankings[DEFAULT]["per_100"])),
        **{
            f"found_per_100_{labels}_labels": float(np.mean([round_.labelled[str(labels)] for round_ in rounds]))
            for labels in LABELS
        },
        "images": rounds[0].images,
        "unusual": rounds[0].unusual,
        "dbscan_noise": float(np.mean([round_.noise for round_ in rounds])),
        "rounds": [asdict(round_) for round_ in rounds],
    }


def table(rounds: list[Round]) -> str:
    """Markdown: mean (lowest to highest) of each ranking, best first, then hits per number of labels."""
    names = sorted(rounds[0].rankings, key=lambda name: -np.mean([round_.rankings[name].auprc for round_ in rounds]))
    first = rounds[0]
    lines = [
        f"{len(rounds)} seeds, {first.images} images, {first.unusual} unusual; mean (lowest to highest)",
        "",
        "| ranking | AUPRC | AUROC | precision in the top 1 % | found in the first 100 | recall in the first 5 % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        cells = [
            _cell([getattr(round_.rankings[name], figure) for round_ in rounds], form)
            for figure, form in (
                ("auprc", ".3f"),
                ("auroc", ".3f"),
                ("top_percent", ".0%"),
                ("per_100", ".1f"),
                ("recall_5_percent", ".0%"),
            )
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| labels among the first 100 reviewed | anomalies in them |", "| --- | --- |"]
    lines.append(f"| 0 | {_cell([round_.rankings[DEFAULT].per_100 for round_ in rounds], '.1f')} |")
    lines += [
        f"| {labels} | {_cell([round_.labelled[str(labels)] for round_ in rounds], '.1f')} |" for labels in LABELS
    ]
    lines += ["", f"DBSCAN calls {np.mean([round_.noise for round_ in rounds]):.1%} of the normal images noise."]
    return "\n".join(lines)


def _cell(values: list[float], form: str) -> str:
    if len(values) == 1:
        return format(values[0], form)
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def draw(rounds: list[Round]) -> None:
    """Chart the default ranking against each of the study's methods."""
    ours = float(np.mean([round_.rankings[DEFAULT].auprc for round_ in rounds]))
    rows = []
    for name in rounds[0].rankings:
        if name.startswith((STUDY, STUDY_ON_OURS)):
            other = float(np.mean([round_.rankings[name].auprc for round_ in rounds]))
            label = name.replace(STUDY_ON_OURS, "on our features: ")
            rows.append((label, 100 * ours, 100 * other, f"{ours / other:.1f}×"))
    note = "AUPRC in hundredths, mean over seeds; python -m benchmarks.discovery --picture"
    bar_chart.write_bar_chart(
        PICTURE, "Unusual objects: our default ranking beside the study's methods", ("ours", "study"), rows, note
    )


if __name__ == "__main__":
    main()
