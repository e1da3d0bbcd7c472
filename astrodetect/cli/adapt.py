"""`adapt`: make given images the ordinary ones of a model."""

import argparse

from astrodetect.cli._options import Subparsers, command_parser, model_name, print_warnings
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, folder_name

DESCRIPTION = """make these images the ordinary ones of a model

Detectors are fitted on the images, and published with MODEL as a new version: novelty and in_domain then compare with
these images instead of the training images. The network stays as it is, so classes and scores do not change: where they
are wrong on your images, train a model on them.

A running service loads the new version within seconds and describes what is in the log anew, in the background; scores
and labels stay. `models rollback MODEL` restores the replaced version. DATA is one or more folders of images, or a .csv
of paths; the images should be ordinary, but a few unusual ones among them do no harm. Give 100 or more: with fewer,
in_domain is unknown. After Ctrl-C nothing is changed, and the same command continues.
"""
EXAMPLES = """examples:
  python -m astrodetect adapt resnet50_model my/survey
  python -m astrodetect models rollback resnet50_model
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "adapt", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("model", type=model_name, metavar="MODEL", help="a trained model")
    parser.add_argument("data", nargs="+", type=as_image_path, metavar="DATA", help="ordinary images")


def run(arguments: argparse.Namespace) -> int:
    """Fit the detectors, publish them and print the new version."""
    from astrodetect.anomalies import adaptation, domain  # noqa: PLC0415 - slow to import
    from astrodetect.datasets.listing import list_images  # noqa: PLC0415
    from astrodetect.inference.pipeline import read_ahead  # noqa: PLC0415
    from astrodetect.model_store import store  # noqa: PLC0415

    folder, name = settings().models_dir, arguments.model
    before = store.read_current(folder, name)
    source = " ".join(map(folder_name, arguments.data))
    measured = adaptation.measure_files(list_images(arguments.data), before.image, read_ahead, source)
    novelty = adaptation.fit_ordinary(measured.features)
    count = len(measured.items)
    ordinary = adaptation.describe_source(source, count)
    adapted = store.attach_detectors(folder, name, novelty.save, ordinary=ordinary, contract=before.image)
    bad = f"; {len(measured.skipped):,} bad files" if measured.skipped else ""
    print(f"{name}: version {adapted.version}, novelty compares with {count:,} images{bad}")
    if novelty.limit is None:
        print(f"in_domain is unknown: it takes {domain.MIN_DOMAIN_IMAGES} images or more")
    print_warnings(adapted)
    if before.version != adapted.version:
        print(f"to undo: python -m astrodetect models rollback {name} {before.version}")
    return 0
