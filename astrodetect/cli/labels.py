"""Takes what people called images out of the log, and into it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect import atomic_files, labels
from astrodetect.cli._options import Subparsers, command_parser
from astrodetect.errors import DataError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from database import Database

MEANING = """export what people called images, or import it

The columns of the file: id, prediction_id, image_name, image_sha256, label, who, note, timestamp. What is imported
needs label (interesting, ordinary or artefact), and image_sha256 or prediction_id. A label goes to the newest
prediction of the image with that sum, whichever database it comes from; only where there is no sum, to the prediction
of that id, and of that name where there is one. What is there already is passed over; of a file with a bad line nothing
is imported. Names that begin with = + - or @ stand as they are: open the file as text, not as formulas.
"""
EXAMPLES = """examples:
  python -m astrodetect labels export labels.csv
  python -m astrodetect labels import labels.csv
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "labels", MEANING, EXAMPLES, run)
    option("what", choices=("export", "import"), metavar="export|import", help="out of the log, or into it")
    option("file", type=Path, metavar="FILE.csv")


def run(arguments: argparse.Namespace) -> int:
    """Exports or imports, and says how many."""
    return _export(arguments.file) if arguments.what == "export" else _import(arguments.file)


def _export(place: Path) -> int:
    """The file is there whole, or as it was."""
    count = 0

    def pages(database: "Database") -> Iterator[list[labels.StoredLabel]]:
        nonlocal count
        for page in database.label_pages():
            count += len(page)
            yield page

    try:
        with (
            _log() as database,
            atomic_files.replacing(place) as part,
            part.open("w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(labels.to_csv(pages(database)))
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror or error}") from error
    print(f"{place}: {count:,} labels")
    return 0


def _import(place: Path) -> int:
    """A file with a bad line is refused before anything is written; a run that was cut short is simply run again."""
    found = labels.read_table_labels(place)
    with _log() as database:
        done = database.import_labels(found)
    print(f"{place}: {done.new:,} new, {done.known:,} known, {done.unmatched:,} of images that are not in the log")
    return 0


@contextmanager
def _log() -> "Iterator[Database]":
    """The log of the settings."""
    from database import Database, database_url  # noqa: PLC0415 - this file is a program, but needs it for this alone

    with database_url(settings()) as url:
        database = Database(url, connections=1, timeout_s=settings().database_timeout_s)
        try:
            database.check()
            yield database
        finally:
            database.close()
