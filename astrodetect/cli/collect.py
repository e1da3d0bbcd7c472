"""Collects images from NASA's library, Galaxy10 or sky surveys into class folders."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astrodetect.cli._options import Subparsers, command_parser, int_between
from astrodetect.errors import DataError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from astrodetect.datasets.sources.manifest import CollectionManifest
    from astrodetect.datasets.sources.nasa import SearchQuery

MOST_IMAGES = 1_000_000
SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 64, 2048  # what the services of cutouts give
SMALLEST_PXSCALE, LARGEST_PXSCALE = 0.01, 100.0  # arcseconds
MEANING = """collect images from the network into class folders

Each image stands in OUTPUT/CLASS with its row in OUTPUT/catalogue.csv: where it came from, under which terms, its
sha256. What cannot be used is listed in OUTPUT/skipped.csv with the reason. Requests are sent one at a time, three a
second at most (ASTRODETECT_COLLECT_REQUESTS_PER_S), and again where that may help. After Ctrl-C or a crash the same
command goes on where it was; what is there and whole is not asked for again.
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


def add(verbs: Subparsers) -> None:
    """Its command lines, one a source."""
    first, _, _ = MEANING.partition("\n")
    parser = verbs.add_parser(
        "collect",
        help=first,
        description=MEANING,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sources = parser.add_subparsers(required=True, metavar="SOURCE")
    _add_nasa(sources)
    _add_galaxy10(sources)
    _add_cutouts(sources)


def _add_nasa(sources: Subparsers) -> None:
    option = command_parser(sources, "nasa", "search NASA's image and video library", NASA_EXAMPLES, nasa)
    option(
        "--class",
        dest="queries",
        action="append",
        required=True,
        type=_query,
        metavar="CLASS=WORDS",
        help="what to search for and the class it is, repeatable; an image found twice stays in the first class",
    )
    option("--limit", type=int_between(1, MOST_IMAGES), default=100, metavar="N", help="images a class (default: 100)")
    option(
        "--side",
        type=int_between(1, 100_000),
        default=640,
        metavar="PX",
        help="longer side that is wanted, pixels: 640, 1280 and 1920 are usually there (default: 640)",
    )
    _add_output(option, "nasa")


def _add_galaxy10(sources: Subparsers) -> None:
    option = command_parser(
        sources, "galaxy10", "Galaxy10 DECaLS: 17,736 galaxies in ten classes", GALAXY10_EXAMPLES, galaxy10
    )
    option("--file", type=Path, help="Galaxy10_DECals.h5 if it is here (default: it is fetched, 2.5 GB)")
    option("--limit", type=int_between(1, MOST_IMAGES), metavar="N", help="images a class (default: all)")
    _add_output(option, "galaxy10")


def _add_cutouts(sources: Subparsers) -> None:
    meaning = "images of a survey around the positions in a CSV file"
    option = command_parser(sources, "cutouts", meaning, CUTOUTS_EXAMPLES, cutouts)
    option("catalogue", type=Path, metavar="CATALOGUE.csv", help="RA and Dec in degrees, a label and a name if it has")
    option("--source", required=True, choices=("legacy", "sdss", "hips"), help="who cuts")
    option("--format", choices=("jpg", "fits"), default="jpg", help="fits: of legacy and hips (default: jpg)")
    option(
        "--side",
        type=int_between(SMALLEST_SIDE_PX, LARGEST_SIDE_PX),
        default=256,
        metavar="PX",
        help="of a cutout, pixels (default: 256)",
    )
    option("--pxscale", type=_pxscale, metavar="ARCSEC", help="of a pixel (default: legacy 0.262, sdss 0.396, hips 1)")
    option("--layer", help="of legacy, or the survey of hips (default: ls-dr10, CDS/P/DSS2/color, in FITS …/red)")
    for column in ("ra", "dec", "label", "name"):
        option(f"--{column}", metavar="COLUMN", help="by its usual names where it is not given")
    option("--limit", type=int_between(1, MOST_IMAGES), metavar="N", help="only the first rows (default: all)")
    _add_output(option, "cutouts")


def nasa(arguments: argparse.Namespace) -> int:
    """Collects what NASA's library finds."""
    from astrodetect.datasets.sources.nasa import NasaLibrary  # noqa: PLC0415 - the other verbs need no network

    with _ledger(arguments.output) as ledger:
        NasaLibrary(settings()).collect(ledger, arguments.queries, limit=arguments.limit, side=arguments.side)
    return 0


def galaxy10(arguments: argparse.Namespace) -> int:
    """Unpacks Galaxy10, fetched first where it is not here."""
    from astrodetect.datasets.sources import galaxy10  # noqa: PLC0415 - as above

    with _ledger(arguments.output) as ledger:
        file = arguments.file or galaxy10.download_galaxy10(arguments.output, settings())
        galaxy10.unpack(ledger, file, limit=arguments.limit)
    return 0


def cutouts(arguments: argparse.Namespace) -> int:
    """Collects cutouts of a survey."""
    from astrodetect.datasets.sources import cutouts  # noqa: PLC0415 - as above

    survey, kind = cutouts.SURVEYS[arguments.source], arguments.format
    if kind not in survey.layers:
        raise DataError(f"{arguments.source} has no {kind}: leave --format out, or take another --source")
    columns = {name: getattr(arguments, name) for name in ("ra", "dec", "label", "name")}
    places = cutouts.read_positions(arguments.catalogue, **columns)[: arguments.limit]
    layer, pxscale = arguments.layer or survey.layers[kind], arguments.pxscale or survey.pxscale
    cut = cutouts.CutoutRequest(arguments.source, kind, arguments.side, pxscale, layer)
    with _ledger(arguments.output) as ledger:
        cutouts.collect_cutouts(ledger, places, cut, settings())
    return 0


@contextmanager
def _ledger(folder: Path) -> "Iterator[CollectionManifest]":
    """What is collected into the folder, told at the end."""
    from astrodetect.datasets.sources import manifest  # noqa: PLC0415 - as above

    try:
        with manifest.open_manifest(folder) as book:
            yield book
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    said = [f"{label} {count}" for label, count in sorted(book.counts.items())]
    if book.in_other_class:
        said.append(f"{book.in_other_class} found for another class too: each stays in its first")
    if book.skipped:
        said.append(f"{book.skipped} skipped, the reasons in {folder / manifest.SKIPPED}")
    print("; ".join(said) or "nothing was found", file=sys.stderr)
    if not book.counts:
        raise DataError(f"no image came into {folder}")
    print(folder)


def _add_output(option: Callable[..., Any], source: str) -> None:
    option("--output", type=Path, default=settings().data_dir / source, help=f"where to (default: data/{source})")


def _query(text: str) -> "SearchQuery":
    from astrodetect.datasets.sources.nasa import SearchQuery  # noqa: PLC0415 - as above

    label, equals, words = (part.strip() for part in text.partition("="))
    if not (label and equals and words):
        raise argparse.ArgumentTypeError(f'CLASS=WORDS such as galaxy="spiral galaxy", not {text}')
    return SearchQuery(label, words)


def _pxscale(text: str) -> float:
    found = float(text)
    if not SMALLEST_PXSCALE <= found <= LARGEST_PXSCALE:
        raise argparse.ArgumentTypeError(f"from {SMALLEST_PXSCALE} to {LARGEST_PXSCALE} arcseconds, not {text}")
    return found
