"""`python -m benchmarks.domain TRAIN OTHER …`: false alarms and detections of the domain check.

TRAIN and each OTHER is a folder with class folders; `FOLDER:CLASS,CLASS` takes some of the classes. The detectors are
fitted as in training, with the image contract of the options, on four fifths of TRAIN; the last fifth and all of the
OTHER images are judged, each fifth in turn. Batches are drawn from the judged images of one set without replacement.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import domain
from astrodetect.anomalies.domain import LatestImages
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.datasets.listing import list_images
from astrodetect.evaluation.metrics import wilson_interval
from astrodetect.features.extraction import extract_features, measured_extractor
from astrodetect.inference.pipeline import read_ahead
from astrodetect.records import Floats, ImageContract
from astrodetect.settings import settings
from benchmarks import hardware

FOLDS = 5
BATCHES = 200  # of each set and fold
SEED = 11


@dataclass(frozen=True, slots=True)
class DomainCounts:
    """A set of images: how many are out of domain, on average of the folds, and how many batches raise the notice."""

    name: str
    images: int
    outside: float
    batches: int
    raised: int


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.domain", description=__doc__)
    add = parser.add_argument
    add("train", metavar="TRAIN")
    add("others", nargs="*", metavar="OTHER")
    add("--size", type=int, default=64, help="side of the model's input, pixels (default: 64)")
    add("--crop", type=float, default=0.7, help="central share of the frame (default: 0.7)")
    add("--images", type=int, help="fit on so many images of TRAIN only")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    contract = ImageContract(arguments.size, arguments.crop)
    train = read_features(arguments.train, contract)
    others = {name: read_features(name, contract) for name in arguments.others}
    rows = measure(arguments.train, train, others, arguments.images)
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "sets": [asdict(row) for row in rows]}))
        return
    print("| images | number | out of domain | batches of 50 with the notice |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row.name} | {row.images:,} | {share(row.outside, row.images)} | {share(row.raised, row.batches)} |")


def read_features(name: str, contract: ImageContract) -> Floats:
    """The measured features of the images of a folder, or of some of its classes."""
    folder, _, classes = name.partition(":")
    extracted = extract_features(
        list_images([Path(folder) / part for part in classes.split(",")]),
        measured_extractor(contract),
        settings().descriptions_dir,
        run_batches=read_ahead,
        title=name,
        max_pixels=settings().max_image_pixels,
    )
    return extracted.features


def measure(name: str, train: Floats, others: dict[str, Floats], limit: int | None) -> list[DomainCounts]:
    """Every set, judged with each fold held out."""
    random = np.random.default_rng(SEED)
    folds = np.array_split(random.permutation(len(train)), FOLDS)
    sizes = [len(train), *map(len, others.values())]
    judged: dict[str, list[NoveltyResult]] = {key: [] for key in (f"{name}, held out", *others)}
    for fold in folds:
        rest = random.permutation(np.setdiff1d(np.arange(len(train)), fold))[:limit]
        novelty = domain.calibrate_domain(Novelty.fit(train[rest], feature_kind="shapes"))
        for key, features in zip(judged, (train[fold], *others.values()), strict=True):
            judged[key].append(novelty.score(features))
    return [count(key, results, images, random) for (key, results), images in zip(judged.items(), sizes, strict=True)]


def count(name: str, results: list[NoveltyResult], images: int, random: np.random.Generator) -> DomainCounts:
    """The images out of domain and the batches with the notice, over all folds."""
    outside = images * float(np.mean(np.concatenate([~known(result) for result in results])))
    batches = [
        random.choice(result.novelty, min(domain.LATEST_IMAGES, len(result.novelty)), replace=False)
        for result in results
        for _ in range(BATCHES)
    ]
    raised = sum(LatestImages.of(batch.tolist()).mostly_out_of_domain for batch in batches)
    return DomainCounts(name, images, outside, len(batches), raised)


def known(result: NoveltyResult) -> NDArray[np.bool_]:
    """Whether each image is in domain, of detectors that know."""
    assert result.in_domain is not None  # noqa: S101 - they are calibrated
    return result.in_domain


def share(part: float, whole: int) -> str:
    """A percentage with its 95 % interval."""
    estimate = wilson_interval(part, whole)
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


if __name__ == "__main__":
    main()
