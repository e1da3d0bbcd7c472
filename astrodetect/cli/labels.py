"""`labels`: export and import the labels that people gave to images, or write the images as a training set."""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect import atomic_files, labels
from astrodetect.cli._options import Subparsers, command_parser, float_between, int_between, local_path, refuse_unused
from astrodetect.errors import DataError
from astrodetect.settings import settings

if TYPE_CHECKING:
    from database import Database

MAX_SEED = 2**31 - 1
DESCRIPTION = """export the labels of images to a CSV file, import them, or write a training set

Columns: id, prediction_id, image_name, image_sha256, label, who, note, timestamp, role, tags. An import needs label
(interesting, ordinary, artefact, or a name of your own) or tags (separated by ;), and image_sha256 or prediction_id.
The role is which of the three a name of your own counts as. A label is assigned to the newest prediction of the image
with that SHA-256, whichever database it comes from; without a SHA-256, to the prediction with that id (and that name,
if given). Labels and tags that exist already are skipped; a file with an invalid line is not imported at all. Names
that begin with = + - or @ are written unchanged: spreadsheets must open the file as text.

`folders` writes train/LABEL and test/LABEL folders of the images by their newest labels, with duplicates in one part.
It takes the files of --images that have the SHA-256 of a labelled image, as hard links where the file system allows;
of all others the pictures that the service stored, JPEGs of at most ASTRODETECT_THUMBNAIL_PX.
"""
EXAMPLES = """examples:
  python -m astrodetect labels export labels.csv
  python -m astrodetect labels import labels.csv
  python -m astrodetect labels folders data/labelled --images my/images
  python train_model.py --data data/labelled --classes all
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "labels", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("action", choices=("export", "import", "folders"), metavar="export|import|folders")
    parser.add_argument("file", type=local_path, metavar="FILE.csv|FOLDER")
    parser.add_argument("--images", type=local_path, metavar="FOLDER", help="of folders: where the images are")
    parser.add_argument(
        "--test", type=float_between(0.0, 0.9), default=0.2, help="of folders: share of each label (default: 0.2)"
    )
    parser.add_argument(
        "--seed", type=int_between(0, MAX_SEED), default=0, help="of folders: of the split (default: 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, import or write folders, and print what was done."""
    if arguments.action == "folders":
        return _write_folders(arguments)
    refuse_unused(arguments, "images test seed", f"with {arguments.action}")
    return _export(arguments.file) if arguments.action == "export" else _import(arguments.file)


def _export(path: Path) -> int:
    """Replace the file atomically."""
    from database import open_database  # noqa: PLC0415 - slow to import, not needed by the other commands

    if path.is_dir():
        raise DataError(f"{path} is a folder: name a .csv file")
    count = 0

    def pages(database: "Database") -> Iterator[list[labels.Label]]:
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


def _write_folders(arguments: argparse.Namespace) -> int:
    """The labelled images as a training set."""
    from astrodetect.datasets.labelled import labels_by_sha256, write_labelled_folders  # noqa: PLC0415
    from astrodetect.datasets.splits import SplitPlan  # noqa: PLC0415
    from database import open_database  # noqa: PLC0415

    with open_database(settings(), connections=1) as database:
        written = write_labelled_folders(
            labels_by_sha256(database.current_labels()),
            database.thumbnail,
            arguments.file,
            folder=arguments.images,
            plan=SplitPlan(validation=0.0, test=arguments.test, seed=arguments.seed),
        )
    counts = Counter((item.part, item.label) for item in written.items)
    for part in ("train", "test"):
        of_part = ", ".join(f"{count} {label}" for (name, label), count in sorted(counts.items()) if name == part)
        print(f"{part}: {of_part or 'no images'}")
    pictures = len(written.items) - written.files
    print(f"{written.files:,} files, {pictures:,} stored pictures, {written.missing:,} images have neither")
    print(arguments.file)
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
        + (f"; {imported.tags:,} new tags" if imported.tags else "")
    )
    return 0
