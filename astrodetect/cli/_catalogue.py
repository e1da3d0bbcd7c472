"""The options of the catalogue that says which objects the images show, shared by the commands."""

import argparse
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from astrodetect.datasets.sources.manifest import CATALOGUE
from astrodetect.datasets.tables import is_table
from astrodetect.errors import DataError
from astrodetect.progress import print_notice
from astrodetect.records import ImagePath
from astrodetect.sky.catalogue import Catalogue, may_have_positions, missing_text, read_catalogue
from astrodetect.sky.catalogue_columns import CatalogueColumns
from astrodetect.storage.references import PARQUET_SUFFIXES, as_image_path, is_shard, is_url, suffix_path

LOOKED_UP = 10_000  # images, before a catalogue counts as one of other images


def add_catalogue_options(parser: argparse.ArgumentParser) -> None:
    """Declare --catalogue and the names of its columns."""
    group = parser.add_argument_group(
        "catalogue",
        "positions, identifiers and every other column of a catalogue, in the tables that are written; without "
        f"--catalogue, of DATA where that is a table with positions, or of the {CATALOGUE} in it, as collect writes it",
    )
    group.add_argument(
        "--catalogue",
        type=as_image_path,
        metavar="FILE",
        help="a .csv, .parquet, FITS table or VOTable with a row for each image, found by its path or its name",
    )
    for name, what in (
        ("ra", "right ascensions"),
        ("dec", "declinations"),
        ("id", "identifiers, which without a column of paths are the names of the files"),
        ("path", "paths, relative to the catalogue"),
    ):
        group.add_argument(f"--{name}", metavar="COLUMN", help=f"column of {what} (default: found by its name or UCD)")


def catalogue_columns(arguments: argparse.Namespace) -> CatalogueColumns:
    """The columns that the options name."""
    return CatalogueColumns(arguments.ra, arguments.dec, arguments.id, arguments.path)


def catalogue_files(arguments: argparse.Namespace, data: Sequence[ImagePath]) -> list[str]:
    """The catalogue that is named, or those that DATA brings along."""
    if arguments.catalogue:
        return [str(arguments.catalogue)]
    tables = [path if is_table(path) or _is_parquet(path) else Path(path, CATALOGUE) for path in data]
    return [str(path) for path in tables if is_url(path) or Path(path).is_file()]


def _is_parquet(path: ImagePath) -> bool:
    """Whether it is a Parquet file, not a folder of that name."""
    return suffix_path(str(path)).endswith(PARQUET_SUFFIXES) and (is_url(path) or Path(path).is_file())


def open_catalogue(
    arguments: argparse.Namespace, data: Sequence[ImagePath], images: Iterable[object]
) -> Catalogue | None:
    """The catalogue of these images; one that was not named counts if it has positions, and its faults are notices."""
    files, columns = catalogue_files(arguments, data), catalogue_columns(arguments)
    named = arguments.catalogue is not None or columns != CatalogueColumns()
    if named and not files:
        raise DataError("--ra, --dec, --id and --path name columns of a catalogue: add --catalogue FILE")
    catalogue = Catalogue()
    if named:
        read_catalogue(files, columns, catalogue)
        _check_matches(catalogue, images)
        return catalogue
    for file in files:
        try:
            if may_have_positions(file, columns) and read_catalogue([file], columns).has_positions:
                read_catalogue([file], columns, catalogue)
        except DataError as error:
            print_notice(f"no positions: {error}")
    return catalogue if len(catalogue) else None


def _check_matches(catalogue: Catalogue, references: Iterable[object]) -> None:
    """DataError where none of the images has a row, so that nothing is computed in vain."""
    looked_up = list(islice(references, LOOKED_UP))
    if not any(catalogue.find(path) is not None or is_shard(str(path)) for path in looked_up):
        first = looked_up[0] if looked_up else "no image"
        raise DataError(
            f"the catalogue has no row for {first}, nor for any other image: name its columns with --path, or --id"
        )


def missing_rows(catalogue: Catalogue, paths: Iterable[object]) -> str | None:
    """How many images are not in the catalogue, in words."""
    has_row = [catalogue.find(path) is not None for path in paths]
    return missing_text(has_row.count(False), len(has_row))
