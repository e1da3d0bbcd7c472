"""`split`: split labelled images into train, validation and test."""

import argparse
import sys
from collections import Counter

from astrodetect.cli._catalogue import add_catalogue_options, open_catalogue
from astrodetect.cli._options import (
    Subparsers,
    add_planes_option,
    by_class,
    class_count,
    command_parser,
    float_between,
    int_between,
    local_path,
    refuse_unused,
)
from astrodetect.errors import DataError
from astrodetect.storage.references import as_image_path

MAX_IMAGES = 100_000_000  # per class
MAX_SEED = 2**31 - 1
UNREADABLE_LISTED = 10
DESCRIPTION = """split labelled images into train, validation and test, with duplicates in one part

DATA has one folder per class, or parts with class folders (they are split anew), or is a table of path,label[,group].
Every class is split in the same proportions. Duplicates (re-encoded, resized, rotated, mirrored …) and images of one
`group` stay in one part, so that no test image is trained on. Unreadable files are reported and left out. OUTPUT
becomes a folder of train/CLASS, validation/CLASS and test/CLASS, or a table if it ends in .csv. The same seed and data
give the same split.
"""
EXAMPLES = """examples:
  python -m astrodetect split my/images --output data/mine
  python -m astrodetect split my/images --output data/even --limit 1000 --limit galaxy=300 --seed 3
  python -m astrodetect split my/catalogue.csv --output my/split.csv --validation 0.1 --test 0.2
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "split", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", type=as_image_path, metavar="DATA", help="labelled images")
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="FOLDER|FILE.csv", help="output; must not exist yet"
    )
    share = float_between(0.0, 0.9)
    parser.add_argument("--validation", type=share, default=0.15, help="share of each class (default: 0.15)")
    parser.add_argument("--test", type=share, default=0.15, help="share of each class (default: 0.15)")
    parser.add_argument(
        "--limit",
        action="append",
        type=_limit,
        default=[],
        metavar="[CLASS=]N",
        help="maximum number of images of a class, or of every class without a limit of its own; repeatable",
    )
    parser.add_argument(
        "--seed", type=int_between(0, MAX_SEED), default=0, help="random seed; determines the split (default: 0)"
    )
    add_planes_option(parser)
    add_catalogue_options(parser)
    parser.add_argument(
        "--copy", action="store_true", help="copy the images (default: hard links where the file system allows)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Split the images and print the number of images in each part."""
    from astrodetect.datasets import class_folders, health, splits, tables  # noqa: PLC0415 - not needed by the other commands

    if arguments.validation + arguments.test >= 1:
        raise DataError("--validation and --test leave no training images: their sum must be below 1")
    if arguments.output.suffix.lower() == splits.TABLE_SUFFIX:
        refuse_unused(arguments, "copy", "on a .csv")
    splits.check_output(arguments.output)
    limits = by_class(arguments, "limit")
    plan = splits.SplitPlan(
        validation=arguments.validation,
        test=arguments.test,
        limit=limits.pop("", None),
        limits=limits,
        seed=arguments.seed,
    )
    items = class_folders.list_dataset(arguments.data)
    catalogue = open_catalogue(arguments, [arguments.data], (item.path for item in items))
    scan = health.scan_dataset(arguments.data, bands=arguments.planes)
    for file in scan.unreadable[:UNREADABLE_LISTED]:
        print(f"left out {file.item.path}: {file.reason}", file=sys.stderr)
    if len(scan.unreadable) > UNREADABLE_LISTED:
        print(f"left out {len(scan.unreadable) - UNREADABLE_LISTED} more unreadable files", file=sys.stderr)
    groups, duplicate_groups = health.group_duplicates(scan)
    items = splits.split_images([image.item for image in scan.images], groups, plan)
    splits.write_split(items, arguments.output, copy=arguments.copy, catalogue=catalogue)
    counts = Counter((item.part, item.label) for item in items)
    for part in tables.PARTS:
        of_part = ", ".join(f"{count} {label}" for (name, label), count in sorted(counts.items()) if name == part)
        print(f"{part}: {of_part or 'no images'}")
    print(f"groups of duplicates: {len(duplicate_groups)}, each in one part")
    print(arguments.output)
    return 0


def _limit(text: str) -> tuple[str, int]:
    """Option type: N or CLASS=N."""
    name, count = class_count(text) if "=" in text else ("", int_between(1, MAX_IMAGES)(text))
    return name, count
