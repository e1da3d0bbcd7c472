"""Tables of results in the formats of the Virtual Observatory, chosen by the ending of their name."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from astrodetect import atomic_files
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType, write_parquet
from astrodetect.progress import print_notice
from astrodetect.sky.fits_table import write_fits_table
from astrodetect.sky.hats import write_hats
from astrodetect.sky.votable import write_votable
from astrodetect.storage import objects
from astrodetect.storage.references import is_url

CSV, HATS = ".csv", ".hats"
Columns = Mapping[str, ColumnType]
Rows = Iterable[Sequence[object]]


def _write_parquet(file: BinaryIO, columns: Columns, rows: Rows, _title: str) -> None:
    write_parquet(file, columns, rows)


WRITERS: Mapping[str, Callable[[BinaryIO, Columns, Rows, str], None]] = {
    ".parquet": _write_parquet,
    ".vot": write_votable,
    ".fits": write_fits_table,
}
ENDINGS = (CSV, *WRITERS, HATS)
TABLE_FORMATS = tuple(suffix.removeprefix(".") for suffix in ENDINGS)


def ending(name: str) -> str | None:
    """The ending that says which format a table has; None of others."""
    return next((suffix for suffix in ENDINGS if name.lower().endswith(suffix)), None)


def write_table(target: str, columns: Columns, rows: Rows, title: str) -> None:
    """A table of values of the columns' types, atomically; not as CSV. HATS is a folder."""
    suffix = ending(target) or ""
    if suffix == HATS:
        _write_hats(Path(target), columns, rows, title)
        return
    with objects.open_writer(target) as file:
        WRITERS[suffix](file, columns, rows, title)


def check_hats(target: str) -> None:
    """DataError unless a catalogue of HATS can be written there."""
    if is_url(target):
        raise DataError(f"{target}: HATS is written to a local folder; copy it from there")
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{target}: PyArrow writes HATS to names in UTF-8 only, name another output") from error
    if Path(target).is_file() or (Path(target).is_dir() and not _is_hats(Path(target))):
        raise DataError(f"{target} exists, and is no catalogue of HATS: name another output")


def _write_hats(folder: Path, columns: Columns, rows: Rows, title: str) -> None:
    check_hats(str(folder))
    atomic_files.remove_abandoned(folder)
    staged = atomic_files.part_path(folder)
    staged.mkdir()
    try:
        left_out = write_hats(staged, columns, rows, title)
        shutil.rmtree(folder, ignore_errors=True)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    if left_out:
        print_notice(f"{left_out:,} rows have no position, and are not in {folder}")


def _is_hats(folder: Path) -> bool:
    return (folder / "hats.properties").is_file() or not any(folder.iterdir())
