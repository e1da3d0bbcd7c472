"""`recall`: which rare objects the ranking would have missed."""

import argparse
from pathlib import Path

from astrodetect.cli._options import (
    Subparsers,
    add_reading_options,
    check_writable_folder,
    command_parser,
    float_between,
    int_at_least,
    local_path,
)
from astrodetect.datasets import listing
from astrodetect.datasets.simulation.planting import KINDS
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, folder_name

BRIGHTNESS = (0.01, 10.0)
DESCRIPTION = """plant simulated rarities into your images, and report which the ranking would have found

DATA is one or more folders of images, or what else anomalies takes. Rings, lensed arcs, mergers and satellite trails of
stated brightness are planted into images of yours, one at a time, and ranked among them as anomalies would, by
detectors that have not seen the image. Brightness is the peak of what is planted, divided by that of the object at the
centre. The output folder holds recall.html, and recall.json with the share found among the first N by kind and
brightness, its 95 % interval, and all ranks. Nothing is written beside your images.
"""
EXAMPLES = """examples:
  python -m astrodetect recall my/images
  python -m astrodetect recall my/images --first 500 --kinds arc,ring --brightness 0.05,0.1,0.2 --planted 200
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "recall", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", nargs="+", type=as_image_path, metavar="DATA", help="images, most of them ordinary")
    parser.add_argument(
        "--first", type=int_at_least(1), default=100, metavar="N", help="images you would look at (default: 100)"
    )
    parser.add_argument(
        "--kinds", type=_kinds, default=list(KINDS), metavar="KIND,…", help=f"of {', '.join(KINDS)} (default: all)"
    )
    parser.add_argument(
        "--brightness",
        type=_brightnesses,
        default=[0.1, 0.2, 0.4, 0.8],
        metavar="B,…",
        help="peaks relative to that of the object at the centre (default: 0.1,0.2,0.4,0.8)",
    )
    parser.add_argument(
        "--planted",
        type=int_at_least(1),
        default=50,
        metavar="N",
        help="images of each kind and brightness (default: 50)",
    )
    parser.add_argument("--seed", type=int_at_least(0), default=0, help="draws images and rarities (default: 0)")
    add_reading_options(parser, "central share of the frame to use (default: 0.5)")
    parser.add_argument(
        "--output", type=local_path, default=Path("recall"), metavar="FOLDER", help="output folder (default: ./recall)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Plant, rank, write the report and print the table."""
    from astrodetect.anomalies import adaptation, recall  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.features.extraction import measured_contract, measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import read_ahead  # noqa: PLC0415
    from astrodetect.reports import recall_report  # noqa: PLC0415

    check_writable_folder(arguments.output)
    config, extractor = settings(), measured_extractor(measured_contract(arguments.crop, arguments.planes))
    title = " ".join(map(folder_name, arguments.data))
    extracted = adaptation.measure_files(listing.list_images(arguments.data), extractor.contract, read_ahead, title)
    result = recall.measure_recall(
        extracted,
        extractor,
        kinds=arguments.kinds,
        brightnesses=arguments.brightness,
        planted=arguments.planted,
        first=arguments.first,
        seed=arguments.seed,
        max_pixels=config.max_image_pixels,
    )
    page = recall_report.write_recall_report(result, arguments.output, title)
    for line in recall_report.recall_lines(result):
        print(line)
    print(page)
    return 0


def _kinds(text: str) -> list[str]:
    """Option type: kinds of rarities, separated by commas."""
    kinds = list(dict.fromkeys(text.split(",")))
    if not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"a list of {', '.join(KINDS)}, not {text}")
    return kinds


def _brightnesses(text: str) -> list[float]:
    """Option type: positive numbers, separated by commas."""
    return sorted({float_between(*BRIGHTNESS)(part) for part in text.split(",")})
