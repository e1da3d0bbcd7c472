"""`collect`: collect images from NASA's library, Galaxy10 or sky surveys into class folders."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._options import Subparsers, command_parser, int_between, local_path
from astrodetect.errors import AstrodetectError, DataError
from astrodetect.progress import print_notice
from astrodetect.settings import settings

if TYPE_CHECKING:
    from astrodetect.datasets.sources.manifest import CollectionManifest
    from astrodetect.datasets.sources.nasa import SearchQuery

MAX_IMAGES = 1_000_000
MIN_CUTOUT_PX, MAX_CUTOUT_PX = 64, 2048  # limits of the cutout services
MIN_PXSCALE, MAX_PXSCALE = 0.01, 100.0  # arcseconds
DESCRIPTION = """collect images from the network into class folders

Images are saved to OUTPUT/CLASS; OUTPUT/catalogue.csv records the source, licence and SHA-256 of each. Unusable images
are listed in OUTPUT/skipped.csv with the reason. Where there is a database (DATABASE_URL, or the embedded one once it
was used), the rows of catalogue.csv are stored there too: `crossmatch list` shows them.

Requests are sent one at a time, at most three per second (ASTRODETECT_COLLECT_REQUESTS_PER_S), and retried after
transient errors. After Ctrl-C or a crash, run the same command again to continue: collected images are not requested
again.
"""
EXAMPLES = """examples:
  python -m astrodetect collect nasa --class galaxy="spiral galaxy" --class nebula=nebula --limit 200
  python -m astrodetect collect galaxy10 --limit 500
  python -m astrodetect collect cutouts my.csv --source legacy --side 256
"""
NASA_EXAMPLES = """examples:
  python -m astrodetect collect nasa --class galaxy="spiral galaxy" --class nebula=nebula --limit 200
  python -m astrodetect collect nasa --class planet=jupiter --class planet=saturn --output data/planets --side 640
"""
GALAXY10_EXAMPLES = """examples:
  python -m astrodetect collect galaxy10
  python -m astrodetect collect galaxy10 --file Galaxy10_DECals.h5 --limit 500 --output data/few
"""
CUTOUTS_EXAMPLES = """examples:
  python -m astrodetect collect cutouts my.csv --source legacy --side 256 --pxscale 0.262
  python -m astrodetect collect cutouts my.csv --source legacy --format fits
  python -m astrodetect collect cutouts my.csv --source hips --layer CDS/P/PanSTARRS/DR1/color-z-zg-g --ra RAJ2000
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options of every source."""
    parser = command_parser(subparsers, "collect", DESCRIPTION, EXAMPLES)
    sources = parser.add_subparsers(required=True, metavar="SOURCE")
    _add_nasa(sources)
    _add_galaxy10(sources)
    _add_cutouts(sources)


def _add_nasa(sources: Subparsers) -> None:
    parser = command_parser(sources, "nasa", "search NASA's image and video library", NASA_EXAMPLES, collect_nasa)
    parser.add_argument(
        "--class",
        dest="queries",
        action="append",
        required=True,
        type=_query,
        metavar="CLASS=WORDS",
        help="class and search words; repeatable; an image found for two classes is saved in the first",
    )
    _add_limit(parser, "images per class (default: 100)", default=100)
    parser.add_argument(
        "--side",
        type=int_between(1, 100_000),
        default=640,
        metavar="PX",
        help="preferred longer side in pixels; usually 640, 1280 and 1920 are available (default: 640)",
    )
    _add_output(parser, "nasa")


def _add_galaxy10(sources: Subparsers) -> None:
    description = "Galaxy10 DECaLS: 17,736 galaxies in ten classes"
    parser = command_parser(sources, "galaxy10", description, GALAXY10_EXAMPLES, collect_galaxy10)
    parser.add_argument("--file", type=Path, help="local Galaxy10_DECals.h5 (default: download it, 2.5 GB)")
    _add_limit(parser, "images per class (default: all)")
    _add_output(parser, "galaxy10")


def _add_cutouts(sources: Subparsers) -> None:
    description = "survey images around the positions in a CSV file"
    parser = command_parser(sources, "cutouts", description, CUTOUTS_EXAMPLES, collect_cutouts)
    parser.add_argument(
        "catalogue",
        type=local_path,
        metavar="CATALOGUE.csv",
        help="RA and Dec in degrees, optionally a label and a name",
    )
    parser.add_argument("--source", required=True, choices=("legacy", "sdss", "hips"), help="cutout service")
    parser.add_argument(
        "--format", choices=("jpg", "fits"), default="jpg", help="fits: with legacy and hips (default: jpg)"
    )
    parser.add_argument(
        "--side",
        type=int_between(MIN_CUTOUT_PX, MAX_CUTOUT_PX),
        default=256,
        metavar="PX",
        help="side of a cutout in pixels (default: 256)",
    )
    parser.add_argument(
        "--pxscale",
        type=_pxscale,
        metavar="ARCSEC",
        help="pixel scale (default: legacy 0.262, sdss 0.396, hips 1)",
    )
    parser.add_argument(
        "--layer", help="layer of legacy, or HiPS identifier (default: ls-dr10, CDS/P/DSS2/color, for FITS …/red)"
    )
    for column in ("ra", "dec", "label", "name"):
        parser.add_argument(f"--{column}", metavar="COLUMN", help="column name (default: found by its usual names)")
    _add_limit(parser, "only the first N rows (default: all)")
    _add_output(parser, "cutouts")


def collect_nasa(arguments: argparse.Namespace) -> int:
    """Collect search results of NASA's library."""
    from astrodetect.datasets.sources.nasa import NasaLibrary  # noqa: PLC0415 - not needed by the other commands

    with _open_output(arguments.output) as manifest:
        NasaLibrary(settings()).collect(manifest, arguments.queries, limit=arguments.limit, side=arguments.side)
    return 0


def collect_galaxy10(arguments: argparse.Namespace) -> int:
    """Unpack Galaxy10, downloaded if there is no local file."""
    from astrodetect.datasets.sources import galaxy10  # noqa: PLC0415

    with _open_output(arguments.output) as manifest:
        path = arguments.file or galaxy10.download_galaxy10(arguments.output, settings())
        galaxy10.unpack(manifest, path, limit=arguments.limit)
    return 0


def collect_cutouts(arguments: argparse.Namespace) -> int:
    """Collect cutouts of a survey."""
    from astrodetect.datasets.sources import cutouts  # noqa: PLC0415

    survey, image_format = cutouts.SURVEYS[arguments.source], arguments.format
    if image_format not in survey.layers:
        raise DataError(f"{arguments.source} has no {image_format}: leave --format out, or choose another --source")
    columns = {name: getattr(arguments, name) for name in ("ra", "dec", "label", "name")}
    positions = cutouts.read_positions(arguments.catalogue, **columns)[: arguments.limit]
    layer, pxscale = arguments.layer or survey.layers[image_format], arguments.pxscale or survey.pxscale
    request = cutouts.CutoutRequest(arguments.source, image_format, arguments.side, pxscale, layer)
    with _open_output(arguments.output) as manifest:
        cutouts.download_cutouts(manifest, positions, request, settings())
    return 0


@contextmanager
def _open_output(folder: Path) -> "Iterator[CollectionManifest]":
    """The manifest of the output folder; prints a summary at the end."""
    from astrodetect.datasets.sources.manifest import SKIPPED, open_manifest  # noqa: PLC0415

    try:
        with open_manifest(folder) as manifest:
            yield manifest
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    summary = [f"{label} {count}" for label, count in sorted(manifest.counts.items())]
    if manifest.in_other_class:
        summary.append(f"{manifest.in_other_class} also found for another class: each is saved in its first class only")
    if manifest.skipped:
        summary.append(f"{manifest.skipped} skipped, see {folder / SKIPPED}")
    print("; ".join(summary) or "no images found", file=sys.stderr)
    if not manifest.counts:
        raise DataError(f"no image was collected into {folder}")
    _record_collection(folder.absolute())
    print(folder)


def _record_collection(folder: Path) -> None:
    """Store the rows of catalogue.csv, where there is a database; a failure is a notice, for the images are there."""
    from astrodetect.datasets.sources.manifest import CATALOGUE  # noqa: PLC0415

    config, path = settings(), folder / CATALOGUE
    if not (config.database_url or config.postgres_dir.exists()):
        return
    from astrodetect.cli._known import open_catalogues  # noqa: PLC0415
    from astrodetect.sky.known_objects import KnownColumns, read_known_objects  # noqa: PLC0415
    from database import database_url  # noqa: PLC0415

    try:
        with database_url(config) as url:
            open_catalogues(url).replace(
                str(folder), "collected", str(path), read_known_objects(str(path), KnownColumns())
            )
    except AstrodetectError as error:
        print_notice(f"not recorded in the database: {error}; later: crossmatch import {path} --name NAME")


def _add_output(parser: argparse.ArgumentParser, source: str) -> None:
    folder = settings().data_dir / source
    parser.add_argument("--output", type=local_path, default=folder, help=f"output folder (default: data/{source})")


def _add_limit(parser: argparse.ArgumentParser, description: str, *, default: int | None = None) -> None:
    parser.add_argument("--limit", type=int_between(1, MAX_IMAGES), default=default, metavar="N", help=description)


def _query(text: str) -> "SearchQuery":
    from astrodetect.datasets.sources.nasa import SearchQuery  # noqa: PLC0415

    label, equals, words = (part.strip() for part in text.partition("="))
    if not (label and equals and words):
        raise argparse.ArgumentTypeError(f'CLASS=WORDS such as galaxy="spiral galaxy", not {text}')
    return SearchQuery(label, words)


def _pxscale(text: str) -> float:
    if not MIN_PXSCALE <= float(text) <= MAX_PXSCALE:
        raise argparse.ArgumentTypeError(f"from {MIN_PXSCALE} to {MAX_PXSCALE} arcseconds, not {text}")
    return float(text)
