"""`simulate`: generate labelled sky images."""

import argparse

from astrodetect import images
from astrodetect.cli._options import (
    Subparsers,
    by_class,
    class_count,
    command_parser,
    int_between,
    local_path,
    model_name,
    refuse_unused,
)
from astrodetect.datasets.simulation import generator
from astrodetect.errors import DataError
from astrodetect.model_store import store
from astrodetect.model_store.training_progress import report_progress
from astrodetect.settings import settings

MAX_IMAGES = 10_000_000  # per class
MAX_SIZE_PX = 4096
MAX_SEED = 2**31 - 1

EXAMPLES = """examples:
  python -m astrodetect simulate
  python -m astrodetect simulate data/sample --train 700 --test 200 --classes E SB
  python -m astrodetect simulate data/rare --count E=990 --count merger=5 --count lens=5 --seed 7
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "simulate", "simulate labelled survey images", EXAMPLES, run)
    count = int_between(0, MAX_IMAGES)
    sample = settings().data_dir / "sample"
    parser.add_argument(
        "folder", type=local_path, nargs="?", default=sample, help="output folder (default: data/sample)"
    )
    parser.add_argument("--train", type=count, default=700, help="images per class in FOLDER/train (default: 700)")
    parser.add_argument("--test", type=count, default=200, help="images per class in FOLDER/test (default: 200)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=["E", "SB"],
        metavar="CLASS",
        help=f"from {', '.join(generator.CLASSES)} (default: E SB)",
    )
    parser.add_argument(
        "--count", action="append", type=_count, metavar="CLASS=N", help="instead: N images in FOLDER/CLASS; repeatable"
    )
    parser.add_argument(
        "--size",
        type=int_between(images.MIN_SIDE_PX, MAX_SIZE_PX),
        default=227,
        help="side of an image in pixels (default: 227)",
    )
    parser.add_argument(
        "--seed", type=int_between(0, MAX_SEED), default=0, help="random seed; determines the images (default: 0)"
    )

    parser.add_argument(
        "--model",
        type=model_name,
        metavar="NAME",
        help="model that will be trained on the images: the service shows the progress as the start of its training",
    )


def run(arguments: argparse.Namespace) -> int:
    """Generate the images and print the folder."""
    folder, models = arguments.folder, settings().models_dir
    if arguments.count:
        refuse_unused(arguments, "train test classes", "with --count")
    try:
        if arguments.model:
            with store.exclusive_lock(models, arguments.model), report_progress(models, arguments.model, keep=True):
                _generate(arguments)
        else:
            _generate(arguments)
    except OSError as error:
        raise DataError(f"cannot write to {error.filename or folder}: {error.strerror}") from error
    print(folder)
    return 0


def _generate(arguments: argparse.Namespace) -> None:
    folder, seed, size = arguments.folder, arguments.seed, arguments.size
    if arguments.count:
        generator.make_dataset(folder, by_class(arguments, "count"), seed=seed, size=size)
    else:
        classes = tuple(arguments.classes)
        generator.make_sample(folder, arguments.train, arguments.test, classes=classes, seed=seed, size=size)


def _count(text: str) -> tuple[str, int]:
    name, count = class_count(text)
    return name, int_between(0, MAX_IMAGES)(str(count))
