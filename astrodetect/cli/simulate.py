"""Makes simulated sky images."""

import argparse
from pathlib import Path

from astrodetect import images
from astrodetect.cli._options import Subparsers, class_count, command_parser, int_between
from astrodetect.datasets.simulation import generator
from astrodetect.errors import DataError
from astrodetect.settings import settings

MOST_IMAGES = 10_000_000  # of a class in one go
LARGEST_SIZE_PX = 4096
LARGEST_SEED = 2**31 - 1

EXAMPLES = """examples:
  python -m astrodetect simulate
  python -m astrodetect simulate data/sample --train 700 --test 200 --classes E SB
  python -m astrodetect simulate data/odd --count E=990 --count merger=5 --count lens=5 --seed 7
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "simulate", "make labelled sky images, as a survey would show them", EXAMPLES, run)
    many = int_between(0, MOST_IMAGES)
    sample = settings().data_dir / "sample"
    option("folder", type=Path, nargs="?", default=sample, help="where to (default: data/sample)")
    option("--train", type=many, default=700, help="images a class in FOLDER/train (default: 700)")
    option("--test", type=many, default=200, help="images a class in FOLDER/test (default: 200)")
    kinds = ", ".join(generator.CLASSES)
    option("--classes", nargs="+", default=["E", "SB"], metavar="CLASS", help=f"of {kinds} (default: E SB)")
    option(
        "--count", action="append", type=_count, metavar="CLASS=N", help="instead: N images in FOLDER/CLASS, repeatable"
    )
    option(
        "--size",
        type=int_between(images.MIN_SIDE_PX, LARGEST_SIZE_PX),
        default=227,
        help="side of an image, pixels (default: 227)",
    )
    option("--seed", type=int_between(0, LARGEST_SEED), default=0, help="the same seed, the same images (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Makes simulated sky images, and says where."""
    folder, seed, size = arguments.folder, arguments.seed, arguments.size
    try:
        if arguments.count:
            generator.make_dataset(folder, dict(arguments.count), seed=seed, size=size)
        else:
            classes = tuple(arguments.classes)
            generator.make_sample(folder, arguments.train, arguments.test, classes=classes, seed=seed, size=size)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    print(folder)
    return 0


def _count(text: str) -> tuple[str, int]:
    name, count = class_count(text)
    return name, int_between(0, MOST_IMAGES)(str(count))
