"""Tables that list images: CSV or Parquet, local or at a URL, with a column of paths or URLs."""

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrodetect.errors import DataError, StorageError
from astrodetect.records import ImagePath
from astrodetect.sky.catalogue_columns import PATH_COLUMNS
from astrodetect.storage import objects, parquet_shards
from astrodetect.storage.references import (
    PARQUET_SUFFIXES,
    as_reference,
    is_url,
    join_reference,
    parent_folder,
    printable_url,
    split_member,
    suffix_path,
)

PARTS = ("train", "validation", "test")
NO_PART = ""  # of images whose path names no part
PART_SYNONYMS = {"val": "validation", "valid": "validation"}
CSV_SUFFIX = ".csv"


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as listed in a data set, not yet read."""

    path: ImagePath
    label: str
    part: str = NO_PART
    group: str = ""  # images of one group stay in one part of a split


def is_table(path: ImagePath) -> bool:
    """Whether it is a .csv, or a .parquet without images, that lists images."""
    suffix = suffix_path(str(path))
    if not is_url(str(path)) and os.path.isdir(path):  # noqa: PTH112 - of names of any length
        return False
    if suffix.endswith(PARQUET_SUFFIXES):
        return not parquet_shards.has_images(str(path))
    return suffix.endswith(CSV_SUFFIX)


def read_table(path: ImagePath, *, labelled: bool = True) -> Iterator[ListedImage]:
    """The rows of a table with a column of paths, relative to the table, and label (if labelled), part and group."""
    table, first_row = str(path), 1
    try:
        with objects.open_reader(table) as source:
            rows: Iterable[Mapping[str, Any]]
            if suffix_path(table).endswith(PARQUET_SUFFIXES):
                columns = parquet_shards.column_names(table)
                rows = parquet_shards.read_table_rows(table, (*PATH_COLUMNS, "label", "part", "group"))
            else:
                text = io.TextIOWrapper(source, newline="", encoding="utf-8-sig", errors="surrogateescape")
                rows = reader = csv.DictReader(text)
                columns, first_row = list(reader.fieldnames or ()), 2
            path_column = next((name for name in PATH_COLUMNS if name in columns), None)
            missing = [*(["path"] if path_column is None else []), *({"label"} - {*columns} if labelled else [])]
            if path_column is None or missing:
                where = " in its first line" if first_row > 1 else ""
                raise DataError(f"{printable_url(table)} has no column {' and no column '.join(missing)}{where}")
            for number, row in enumerate(rows, start=first_row):
                yield _parse_row(path, number, row, path_column, labelled=labelled)
    except StorageError as error:
        cause = error.__cause__
        system_reason = cause.strerror if isinstance(cause, OSError) else None
        raise type(error)(f"{printable_url(table)} cannot be read: {system_reason or error}") from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{printable_url(table)} cannot be read: {reason}") from error


def _parse_row(
    table: ImagePath, number: int, row: Mapping[str, Any], path_column: str, *, labelled: bool
) -> ListedImage:
    path, label, part, group = (
        "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value).strip()
        for value in map(row.get, (path_column, "label", "part", "group"))
    )
    part = PART_SYNONYMS.get(part.lower(), part.lower())
    place = f"row {number} of {printable_url(str(table))}"
    if not path or (labelled and not label):
        raise DataError(f"{place} has no {'label' if path else 'path'}")
    if "\0" in path:
        raise DataError(f"{place} has an invalid path (it contains a NUL character)")
    if part and part not in PARTS:
        raise DataError(f"{place} has the part {part}: use one of {', '.join(PARTS)}")
    return ListedImage(_row_path(table, path, place), label, part or NO_PART, group)


def _row_path(table: ImagePath, path: str, place: str) -> ImagePath:
    """What the row names, relative to its table; a string unless it is a local file."""
    if is_url(path):
        try:
            return as_reference(path)
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
    if is_url(str(table)):
        if path.startswith("/"):
            raise DataError(f"{place} has the absolute path {path}: a table at a URL lists URLs or relative paths")
        return join_reference(parent_folder(str(table)), path)
    local = Path(table).parent / path
    return local if split_member(str(local)) is None else str(local)
