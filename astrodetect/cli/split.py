"""Deals labelled images out to train, validation and test."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from astrodetect.cli._options import Subparsers, class_count, command_parser, float_between, int_between
from astrodetect.errors import DataError

MOST_IMAGES = 100_000_000  # of a class
LARGEST_SEED = 2**31 - 1
UNREADABLE_SHOWN = 10
MEANING = """deal labelled images out to train, validation and test, copies of one picture together

DATA has a folder for each class, or parts that have (they are dealt out anew), or is a .csv of path,label[,group].
Every class is dealt out in the same shares. Copies of one picture (re-encoded, resized, turned, mirrored …) and images
of one `group` stay in one part, so that nothing that is learnt from is tested on. Files that are no images are left
out and told. OUTPUT becomes a folder of train/CLASS, validation/CLASS and test/CLASS, or a catalogue where it ends in
.csv. The same seed and data give the same split.
"""
EXAMPLES = """examples:
  python -m astrodetect split my/images --output data/mine
  python -m astrodetect split my/images --output data/even --limit 1000 --limit galaxy=300 --seed 3
  python -m astrodetect split my/catalogue.csv --output my/split.csv --validation 0.1 --test 0.2
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "split", MEANING, EXAMPLES, run)
    option("data", type=Path, metavar="DATA", help="labelled images")
    option("--output", type=Path, required=True, metavar="FOLDER|FILE.csv", help="where to; not there yet")
    share = float_between(0.0, 0.9)
    option("--validation", type=share, default=0.15, help="share of each class (default: 0.15)")
    option("--test", type=share, default=0.15, help="share of each class (default: 0.15)")
    option(
        "--limit",
        action="append",
        type=_limit,
        default=[],
        metavar="[CLASS=]N",
        help="most images of that class, or of every class that has no limit of its own; repeatable",
    )
    option("--seed", type=int_between(0, LARGEST_SEED), default=0, help="the same seed, the same split (default: 0)")
    option("--copy", action="store_true", help="copy the images; else they are hard links where the disk allows")


def run(arguments: argparse.Namespace) -> int:
    """Splits the images, and says what came out."""
    from astrodetect.datasets import dataset, health, splits  # noqa: PLC0415 - the other verbs need none of this

    if arguments.validation + arguments.test >= 1:
        raise DataError("--validation and --test leave nothing to learn from")
    splits.check_output(arguments.output)
    limits = dict(arguments.limit)
    plan = splits.SplitPlan(
        validation=arguments.validation,
        test=arguments.test,
        limit=limits.pop("", None),
        limits=limits,
        seed=arguments.seed,
    )
    seen = health.scan_dataset(arguments.data)
    for file in seen.unreadable[:UNREADABLE_SHOWN]:
        print(f"left out {file.item.path}: {file.reason}", file=sys.stderr)
    if len(seen.unreadable) > UNREADABLE_SHOWN:
        print(f"left out {len(seen.unreadable) - UNREADABLE_SHOWN} more that cannot be read", file=sys.stderr)
    items = [look.item for look in seen.images]
    groups, copies = health.group_duplicates(seen)
    dealt = splits.split_images(items, groups, plan)
    splits.write_split(dealt, arguments.output, copy=arguments.copy)
    counts = Counter((item.part, item.label) for item in dealt)
    for part in dataset.PARTS:
        said = ", ".join(f"{count} {label}" for (of, label), count in sorted(counts.items()) if of == part)
        print(f"{part}: {said or 'nothing'}")
    print(f"pictures that are there more than once: {len(copies)}, each in one part")
    print(arguments.output)
    return 0


def _limit(text: str) -> tuple[str, int]:
    """A parser of N and CLASS=N."""
    name, count = class_count(text) if "=" in text else ("", int_between(0, MOST_IMAGES)(text))
    return name, count
