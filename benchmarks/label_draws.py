"""`python -m benchmarks.label_draws DATA --unusual CLASS … [--half 0]`: what labels find, among few unusual images.

DATA has a folder for each class, or parts that have. Each draw has 1,600 ordinary and 29 unusual images, and a reviewer
who labels what the queue shows, one image or ten at a time. Choices are made with `--half 0`, the images whose SHA-256
is even, and judged with `--half 1`, whose draws have half the size, and on draws of all images. With `--teach` a
network is taught by the labels of each draw, as the command `teach` does it, which takes minutes.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.teaching import TeachingSet
from astrodetect.datasets import class_folders
from astrodetect.datasets.dataset import Dataset
from astrodetect.datasets.tables import ListedImage
from astrodetect.features.extraction import measured_contract
from astrodetect.images import ORIENTATIONS
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
from astrodetect.records import Floats
from benchmarks import hardware
from benchmarks.discovery import measure_shapes
from benchmarks.views import ALL_ORDINARY, ALL_UNUSUAL

REVIEWED = 100
LABELS = (10, 50, 100)


@dataclass(frozen=True, slots=True)
class DrawResult:
    """Interesting images found in one draw among the first REVIEWED."""

    seed: int
    ranking: int  # by the ranking alone
    labelled: dict[int, int]  # by the number of labels among these images
    reranked: int  # of the list after REVIEWED labels, where labelled interesting images come first
    taught: int | None = None  # the same, by a network too


def main() -> None:
    """Measure every draw; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_draws", description=__doc__)
    add = parser.add_argument
    add("data", type=Path)
    add("--unusual", nargs="+", required=True, metavar="CLASS")
    add("--artefact", metavar="CLASS", help="of the unusual ones: labelled artefact, not interesting")
    add("--half", type=int, choices=(0, 1), help="draw half as many from one half of the images")
    add("--seeds", type=int, default=10, metavar="N", help="draws (default: 10)")
    add("--first", type=int, default=0, metavar="SEED", help="the first draw's seed, to run draws in pieces")
    add("--batch", type=int, default=1, help="images labelled before the queue is ordered again")
    add("--teach", action="store_true", help="rank by a network too, after all labels")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    items = class_folders.list_dataset(arguments.data)
    paths, classes = [Path(item.path) for item in items], np.array([item.label for item in items])
    shapes, unusual = measure_shapes(paths), np.isin(classes, arguments.unusual)
    kinds = np.where(unusual, INTERESTING, ORDINARY).astype(object)
    kinds[classes == arguments.artefact] = ARTEFACT
    pool, share = np.ones(len(paths), np.bool_), 1.0
    if arguments.half is not None:
        halves = [hashlib.sha256(path.read_bytes()).digest()[-1] % 2 for path in paths]
        pool, share = np.array(halves) == arguments.half, 0.5
    results = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        drawn = _draw(seed, pool, unusual, share)
        novelty = Novelty.fit(shapes[drawn], feature_kind="shapes")
        teach = partial(_taught_scores, [paths[image] for image in drawn], seed) if arguments.teach else None
        results.append(_review(seed, novelty, kinds[drawn], share, arguments.batch, teach=teach))
        print(results[-1], file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"draws": [asdict(result) for result in results], "machine": hardware.describe()}))
    else:
        print(_table(results))


def _draw(seed: int, pool: NDArray[np.bool_], unusual: NDArray[np.bool_], share: float) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    parts = [
        random.permutation(np.flatnonzero(pool & chosen))[: round(share * count)]
        for chosen, count in ((~unusual, ALL_ORDINARY), (unusual, ALL_UNUSUAL))
    ]
    return np.asarray(random.permutation(np.concatenate(parts)))


def _taught_scores(paths: Sequence[Path], seed: int, labels: Mapping[int, str]) -> Floats:
    """The score of each image by a network that learnt from these labels."""
    from astrodetect.learning import label_network, training  # noqa: PLC0415 - imports Keras

    images = TeachingSet.draw(labels, len(paths), seed)
    items = [ListedImage(paths[row], "") for row in images.rows]
    backbone = label_network.describe_images(items, measured_contract(), ORIENTATIONS, f"draw {seed}")
    taught = label_network.teach_network(backbone, images, len(labels))
    dataset = Dataset((ORDINARY, INTERESTING), list(paths), np.zeros(len(paths), np.int64), "")
    views = training.predict_dataset(taught.model, dataset, measured_contract(), "all images", views=ORIENTATIONS)
    return np.asarray(views[..., 1].mean(axis=0), np.float32)


def _review(
    seed: int,
    novelty: Novelty,
    kinds: NDArray[np.object_],
    share: float,
    batch: int,
    *,
    teach: Callable[[Mapping[int, str]], Floats] | None,
) -> DrawResult:
    result, reviewed = novelty.score_training_images(), round(REVIEWED * share)
    ranked = partial(active_learning.review_orders, result.vectors, result.strength, blocks=novelty.block_dimensions)
    interesting = kinds == INTERESTING
    labels: dict[int, str] = {}
    found = {}
    for labelled in LABELS:
        while len(labels) < round(share * labelled):
            count = min(batch, round(share * labelled) - len(labels))
            for image in ranked(labels=labels, count=count)["interest"]:
                labels[image] = str(kinds[image])
        rest = ranked(labels=labels, count=reviewed - len(labels))["interest"]
        found[labelled] = int(interesting[[*labels, *rest]].sum())
    rank = partial(active_learning.rank_by_labels, result.vectors, result.strength, labels)
    rank = partial(rank, blocks=novelty.block_dimensions)

    def count_first(interest: Floats) -> int:
        return int(interesting[np.argsort(-interest, kind="stable")[:reviewed]].sum())

    return DrawResult(
        seed,
        count_first(result.strength),
        found,
        count_first(rank().interest),
        count_first(rank(network=teach(labels)).interest) if teach else None,
    )


def _table(results: Sequence[DrawResult]) -> str:
    lines = [
        "| draw | ranking alone | "
        + " | ".join(f"{labels} labels" for labels in LABELS)
        + " | list after 100 labels |"
        + (" with a network |" if results[0].taught is not None else ""),
    ]
    rows = [
        [
            result.ranking,
            *result.labelled.values(),
            result.reranked,
            *([] if result.taught is None else [result.taught]),
        ]
        for result in results
    ]
    lines.append("| --- " * (len(rows[0]) + 1) + "|")
    lines += [f"| {result.seed} | {' | '.join(map(str, row))} |" for result, row in zip(results, rows, strict=True)]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{mean:.1f}" for mean in np.mean(rows, axis=0)) + " |"])


if __name__ == "__main__":
    main()
