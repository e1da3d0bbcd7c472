"""`python -m benchmarks.label_draws DATA --unusual CLASS … [--half 0]`: what labels find, among few unusual images.

DATA has a folder for each class, or parts that have. Each draw has 1,600 ordinary and 29 unusual images, and a reviewer
who labels what the queue shows, one image or ten at a time. Choices are made with `--half 0`, the images whose SHA-256
is even, and judged with `--half 1`, whose draws have half the size, and on draws of all images.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets import class_folders
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
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


def main() -> None:
    """Measure every draw; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_draws", description=__doc__)
    add = parser.add_argument
    add("data", type=Path)
    add("--unusual", nargs="+", required=True, metavar="CLASS")
    add("--artefact", metavar="CLASS", help="of the unusual ones: labelled artefact, not interesting")
    add("--half", type=int, choices=(0, 1), help="draw half as many from one half of the images")
    add("--seeds", type=int, default=10)
    add("--batch", type=int, default=1, help="images labelled before the queue is ordered again")
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
    for seed in range(arguments.seeds):
        drawn = _draw(seed, pool, unusual, share)
        novelty = Novelty.fit(shapes[drawn], feature_kind="shapes")
        results.append(_review(seed, novelty, kinds[drawn], share, arguments.batch))
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


def _review(seed: int, novelty: Novelty, kinds: NDArray[np.object_], share: float, batch: int) -> DrawResult:
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
    interest = active_learning.rank_by_labels(
        result.vectors, result.strength, labels, blocks=novelty.block_dimensions
    ).interest
    return DrawResult(
        seed,
        int(interesting[np.argsort(-result.strength, kind="stable")[:reviewed]].sum()),
        found,
        int(interesting[np.argsort(-interest, kind="stable")[:reviewed]].sum()),
    )


def _table(results: Sequence[DrawResult]) -> str:
    lines = [
        "| draw | ranking alone | "
        + " | ".join(f"{labels} labels" for labels in LABELS)
        + " | list after 100 labels |",
        "| --- " * (len(LABELS) + 3) + "|",
    ]
    rows = [[result.ranking, *result.labelled.values(), result.reranked] for result in results]
    lines += [f"| {result.seed} | {' | '.join(map(str, row))} |" for result, row in zip(results, rows, strict=True)]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{mean:.1f}" for mean in np.mean(rows, axis=0)) + " |"])


if __name__ == "__main__":
    main()
