"""The options of mosaics, whose objects are cut out in memory, shared by the commands."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._catalogue import catalogue_columns
from astrodetect.cli._options import float_between, int_between, refuse_unused
from astrodetect.errors import DataError
from astrodetect.records import ImageContract, ImagePath
from astrodetect.sky.catalogue import ObjectCatalogue, read_objects
from astrodetect.sky.cutouts import Cutout, CutoutSize, CutoutSource, cut_out_objects
from astrodetect.sky.mosaics import MosaicFiles
from astrodetect.sky.source_detection import DEPTH_SIGMA, MIN_AREA_PX, SOURCE_COLUMNS, DetectionOptions, detect_sources
from astrodetect.sky.table_readers import TABLE_SUFFIXES
from astrodetect.storage import objects
from astrodetect.storage.references import is_url

if TYPE_CHECKING:
    from astrodetect.sky.cutouts import CutoutMaker

MAX_AREA_PX = 100_000
SOURCES_SUFFIX = "-sources.fits"  # of the catalogue of detected sources, beside the output


def add_mosaic_options(parser: argparse.ArgumentParser) -> None:
    """Declare --mosaic, and how objects are cut out and found."""
    group = parser.add_argument_group(
        "mosaics",
        "cutouts of the objects of --catalogue, made in memory and stored nowhere; without a catalogue, of the sources "
        f"that are found in the mosaics, whose catalogue is written beside OUTPUT, as OUTPUT{SOURCES_SUFFIX}",
    )
    group.add_argument(
        "--mosaic",
        nargs="+",
        metavar="FILE",
        help="FITS images with a WCS, or URLs of such, instead of images; FILE[HDU] names an HDU",
    )
    group.add_argument(
        "--bands",
        type=lambda text: tuple(text.split(",")),
        metavar="NAME,…",
        help="bands by increasing wavelength: each an HDU, or files, of this name or filter (default: the planes of "
        "each file's first image)",
    )
    group.add_argument(
        "--size", type=_size, metavar="8arcsec", help="side of the square cutouts: in arcsec, arcmin or px"
    )
    group.add_argument(
        "--depth",
        type=float_between(0.1, 1000.0),
        default=None,
        metavar="SIGMA",
        help=f"how far sources are above the noise, in standard deviations (default: {DEPTH_SIGMA:g})",
    )
    group.add_argument(
        "--min-area",
        type=int_between(1, MAX_AREA_PX),
        default=None,
        metavar="PIXELS",
        help=f"how many neighbouring pixels of a source are above --depth (default: {MIN_AREA_PX})",
    )


@dataclass(frozen=True, slots=True)
class MosaicImages:
    """The cutouts of a run, their catalogue, and a summary of both."""

    cutouts: list[Cutout]
    catalogue: ObjectCatalogue
    summary: list[str]


def check_inputs(arguments: argparse.Namespace, data: Sequence[ImagePath], name: str) -> None:
    """DataError unless there are images or mosaics, with their options."""
    if arguments.mosaic is None:
        given = [option for option in ("bands", "size", "depth", "min_area") if getattr(arguments, option) is not None]
        if given:
            raise DataError(f"--{given[0].replace('_', '-')} is of mosaics: add --mosaic FILES")
        if not data:
            raise DataError(f"no images: name a {name}, or --mosaic FILES")
        return
    if data:
        raise DataError(f"{data[0]} and --mosaic: give either images or mosaics")
    if arguments.size is None:
        raise DataError("--mosaic needs the --size of the cutouts, such as --size 8arcsec")
    if arguments.catalogue is None:
        refuse_unused(arguments, "ra dec id", "without --catalogue")
    if arguments.path is not None:
        raise DataError("--path names images, and the objects of mosaics have none: leave it out")
    if arguments.catalogue is not None and (arguments.depth is not None or arguments.min_area is not None):
        raise DataError("--depth and --min-area find sources where there is no --catalogue")


def open_mosaics(arguments: argparse.Namespace, contract: Callable[[], ImageContract]) -> MosaicImages | None:
    """The cutouts that the options name, which fit the model's contract; None without --mosaic."""
    if arguments.mosaic is None:
        return None
    files = tuple(file if is_url(file) else str(Path(file).absolute()) for file in arguments.mosaic)
    source = CutoutSource(MosaicFiles(files, arguments.bands or ()), arguments.size)
    maker = source.open()
    source.mosaics.check_contract(maker.plane_count, contract())
    summary = list[str]()
    if arguments.catalogue is None:
        sources = _write_sources(arguments, maker)
        catalogue = read_objects(sources)
        summary.append(f"{len(catalogue):,} sources found: {sources}")
    else:
        catalogue = read_objects(arguments.catalogue, catalogue_columns(arguments))
    cutouts, counts = cut_out_objects(source, catalogue)
    return MosaicImages(cutouts, catalogue, [*summary, counts])


def _write_sources(arguments: argparse.Namespace, maker: "CutoutMaker") -> str:
    """Find sources and write their catalogue; returns its file."""
    from astrodetect.sky.fits_table import write_fits_table  # noqa: PLC0415 - not needed with a catalogue

    options = DetectionOptions(arguments.depth or DEPTH_SIGMA, arguments.min_area or MIN_AREA_PX)
    output = str(arguments.output)
    suffix = Path(output).suffix
    file = (output.removesuffix(suffix) if suffix in TABLE_SUFFIXES else output.rstrip("/")) + SOURCES_SUFFIX
    rows = detect_sources(maker, options)
    try:
        with objects.open_writer(file) as target:
            write_fits_table(target, SOURCE_COLUMNS, rows, "Sources")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror or error}") from error
    return file


def _size(text: str) -> CutoutSize:
    """Option type: 8arcsec, 0.5arcmin or 64px."""
    try:
        return CutoutSize.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
