"""The images of a training, by its options: read, split, and searched for copies."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from astrodetect.cli.train_options import DEFAULT_VALIDATION
from astrodetect.datasets import class_folders, dataset, health, listing, splits, tables
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import DataError
from astrodetect.progress import print_notice as echo
from astrodetect.records import ImageContract
from astrodetect.settings import settings
from astrodetect.storage.references import join_reference

SKIPPED_FILES_SHOWN = 10
MAX_LEAK_SEARCH_IMAGES = 5000  # 2 ms each; `explore` searches larger data sets


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The images to train on, to select and calibrate with, and to test on."""

    train: Dataset
    validation: Dataset
    test: Dataset
    summary: dict[str, Any]  # for the manifest

    @property
    def held_out(self) -> dict[str, Dataset]:
        """The parts that metrics are computed on."""
        return {"validation": self.validation, "test": self.test}


def read_training_data(arguments: argparse.Namespace, contract: ImageContract) -> TrainingData:
    """Read and split the images; unreadable files are reported and skipped."""
    source, test_source = (arguments.data or arguments.train), (arguments.data or arguments.test)
    classes = [arguments.negative, arguments.positive]  # in the order of their labels: the anomaly is 1
    if arguments.classes:
        classes = class_folders.class_names(source) if arguments.classes == ["all"] else arguments.classes
    class_folders.check_classes(source, classes)
    parts = class_folders.part_names(arguments.data) if arguments.data else []
    if arguments.validation is not None and arguments.data and (not parts or "validation" in parts):
        remedy = (
            "has that part: leave it out" if parts else "has no parts: leave it out, or use python -m astrodetect split"
        )
        raise DataError(f"--validation: {arguments.data} {remedy}")
    if arguments.data and not parts:
        source = test_source = arguments.data = _hold_out(arguments, classes)
        parts = list(tables.PARTS)
    if arguments.data and not {"train", "test"} <= set(parts):
        raise DataError(f"{arguments.data} has no parts train and test: create them with python -m astrodetect split")
    training_images = _read_part("training", source, classes, contract, "train" if parts else None)
    for name, limit in arguments.limit:
        training_images = training_images.limit_class(name, limit, arguments.seed)
    test = _read_part("test", test_source, classes, contract, "test" if parts else None)
    summary = {"train": _part_summary(training_images), "test": _part_summary(test)}
    for name, count in training_images.counts().items():
        if count < dataset.MIN_IMAGES_PER_CLASS:
            raise DataError(
                f"{join_reference(str(source), name)} has {count} readable images: "
                f"at least {dataset.MIN_IMAGES_PER_CLASS} are needed"
            )
    if "validation" in parts:
        validation = _read_part("validation", source, classes, contract, "validation")
        summary["validation"] = _part_summary(validation)
        return TrainingData(training_images, validation, test, summary)
    share = DEFAULT_VALIDATION if arguments.validation is None else arguments.validation
    train_part, validation = training_images.split(share, arguments.seed)
    return TrainingData(train_part, validation, test, summary)


def _hold_out(arguments: argparse.Namespace, classes: list[str]) -> Path:
    """Split images without parts, copies of an image in one part, and return the table of the split."""
    present = class_folders.class_names(arguments.data)
    for name in classes:
        if name not in present:
            raise DataError(f"{arguments.data} has no class {name}: its classes are {', '.join(present)}")
    table: Path = settings().data_dir / "splits" / f"{arguments.output.stem}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    scan = health.scan_dataset(arguments.data, bands=arguments.bands)
    groups, _ = health.group_duplicates(scan)
    items = splits.split_images([image.item for image in scan.images], groups, splits.SplitPlan(seed=arguments.seed))
    splits.write_split(items, table, replace=True)
    echo(f"split into training, validation and test images: {table}")
    return table


def _read_part(title: str, source: Path, classes: list[str], contract: ImageContract, part: str | None) -> Dataset:
    """Read one part of the images, reporting skipped files and the number of images per class."""
    images = dataset.read_dataset(source, classes, title=f"{title} images", part=part, contract=contract)
    for skipped in images.skipped[:SKIPPED_FILES_SHOWN]:
        echo(f"skipped {skipped.path}: {skipped.reason}")
    if len(images.skipped) > SKIPPED_FILES_SHOWN:
        echo(f"skipped {len(images.skipped) - SKIPPED_FILES_SHOWN} more; the model's manifest will list all")
    echo(f"{title} images: " + ", ".join(f"{count} {name}" for name, count in images.counts().items()))
    return images


def leakage_remarks(data: TrainingData, contract: ImageContract) -> list[str]:
    """Remarks for the report on validation and test images that are near-duplicates of training images."""
    parts = data.held_out.values()
    held_out = replace(
        data.test,
        paths=[path for part in parts for path in part.paths],
        labels=np.concatenate([part.labels for part in parts]),
        groups=[],
    )
    searched = len(data.train) + len(held_out)
    if searched > MAX_LEAK_SEARCH_IMAGES:
        return [f"{searched} images: not searched for copies; python -m astrodetect explore searches so many"]
    leaks = health.find_leaks(data.train, held_out, contract.bands)
    if not leaks:
        return []
    counts = {name: sum(leak.test in {*part.paths} for leak in leaks) for name, part in data.held_out.items()}
    copies = " and ".join(f"{count} {name}" for name, count in counts.items() if count)
    example = f"{leaks[0].test} shows what {leaks[0].train} shows"
    remark = f"{copies} images are copies of training images, which inflates the metrics; {example}"
    echo(f"{remark}: python -m astrodetect explore lists them, split keeps them together")
    return [remark]


def _part_summary(part: Dataset) -> dict[str, Any]:
    """The manifest's entry for a part of the data."""
    skipped = [{"path": str(skipped.path), "reason": skipped.reason} for skipped in part.skipped]
    return {
        "images": part.counts(),
        "fingerprint": part.fingerprint,
        "skipped": skipped,
        "simulated": listing.count_simulated(part.paths),
    }
