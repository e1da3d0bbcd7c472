"""`labels`: export and import the labels that people gave to images."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect import atomic_files, labels
from astrodetect.cli._options import Subparsers, command_parser, local_path
from astrodetect.errors import DataError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from database import Database

DESCRIPTION = """export the labels of images to a CSV file, or import them

Columns: id, prediction_id, image_name, image_sha256, label, who, note, timestamp. An import needs label (interesting,
ordinary, artefact, or a name of your own) and image_sha256 or prediction_id. A label is assigned to the newest
prediction of the image with that SHA-256, whichever database it comes from; without a SHA-256, to the prediction with
that id (and that name, if given). Labels that exist already are skipped; a file with an invalid line is not imported at
all. Names that begin with = + - or @ are written unchanged: spreadsheets must open the file as text.
"""
EXAMPLES = """examples:
  python -m astrodetect labels export labels.csv
  python -m astrodetect labels import labels.csv
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "labels", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("action", choices=("export", "import"), metavar="export|import")
    parser.add_argument("file", type=local_path, metavar="FILE.csv")


def run(arguments: argparse.Namespace) -> int:
    """Export or import, and print the number of labels."""
    return _export(arguments.file) if arguments.action == "export" else _import(arguments.file)


def _export(path: Path) -> int:
    """Replace the file atomically."""
    from database import open_database  # noqa: PLC0415 - slow to import, not needed by the other commands

    count = 0

    def pages(database: "Database") -> Iterator[list[labels.StoredLabel]]:
        nonlocal count
        for page in database.label_pages():
            count += len(page)
            yield page

    try:
        with (
            open_database(settings(), connections=1) as database,
            atomic_files.replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(labels.to_csv(pages(database)))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"{path}: {count:,} labels")
    return 0


def _import(path: Path) -> int:
    """Import all labels of the file, or none if a line is invalid; importing again has no effect."""
    from database import open_database  # noqa: PLC0415

    rows = labels.read_table_labels(path)
    with open_database(settings(), connections=1) as database:
        imported = database.import_labels(rows)
    print(
        f"{path}: {imported.new:,} new, {imported.known:,} known, "
        f"{imported.unmatched:,} of images without a prediction in the database"
    )
    return 0
