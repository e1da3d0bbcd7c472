"""Tables of objects as columns of values: CSV, FITS, VOTable and Parquet; cells without a value are None."""

import csv
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from astrodetect.errors import DataError, StorageError
from astrodetect.storage import objects, parquet_shards
from astrodetect.storage.references import PARQUET_SUFFIXES, printable_url, suffix_path

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz")
VOTABLE_SUFFIXES = (".vot", ".votable", ".xml")
CSV_SUFFIXES = (".csv",)
MAX_HEADER_BYTES = 1_000_000
TABLE_SUFFIXES = (*CSV_SUFFIXES, *FITS_SUFFIXES, *VOTABLE_SUFFIXES, *PARQUET_SUFFIXES)


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """The columns of a table, with what its format says of them."""

    columns: Mapping[str, Sequence[Any]]  # texts of a CSV; else values
    ucds: Mapping[str, str] = field(default_factory=dict)  # by the column: what it measures, in the words of the IVOA
    units: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)


def read_object_table(reference: str) -> ObjectTable:
    """The table in a local file or at a URL; DataError says why it cannot be read."""
    suffix, name = suffix_path(reference), printable_url(reference)
    reader = next((read for suffixes, read in READERS.items() if suffix.endswith(suffixes)), None)
    if reader is None:
        raise DataError(f"the catalogue {name} ends in none of {' '.join(TABLE_SUFFIXES)}")
    try:
        if reader is _read_parquet:
            return _read_parquet(reference)
        with objects.open_reader(reference) as source:
            return reader(source)
    except StorageError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
        raise DataError(f"the catalogue {name} cannot be read: {reason}") from error
    except DataError as error:
        raise DataError(f"the catalogue {name} {error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the catalogue {name} is no CSV in UTF-8: {error}") from error
    except Exception as error:  # astropy raises almost any exception for damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"the catalogue {name} cannot be read: {reason}") from error


def read_column_names(reference: str) -> list[str]:
    """The names of the columns of a CSV or Parquet file; none of one that cannot be read."""
    try:
        if suffix_path(reference).endswith(PARQUET_SUFFIXES):
            return [name.strip() for name in parquet_shards.column_names(reference)]
        with objects.open_reader(reference) as source:
            line = source.readline(MAX_HEADER_BYTES).decode("utf-8-sig", "replace")
        return [name.strip() for name in next(csv.reader([line]), [])]
    except (StorageError, OSError, csv.Error):
        return []


def read_csv_table(source: BinaryIO) -> ObjectTable:
    """A CSV with a header; its cells are texts."""
    text = source.read().decode("utf-8-sig", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(rows, [])]
    if len(set(names)) < len(names):
        raise csv.Error("it names a column twice")
    width = len(names)
    columns = list(zip(*((row + [""] * width)[:width] for row in rows if row), strict=True))
    return ObjectTable(dict(zip(names, columns or [()] * width, strict=True)))


def _read_parquet(reference: str) -> ObjectTable:
    names = parquet_shards.column_names(reference)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in parquet_shards.read_table_rows(reference, names):
        for name, value in row.items():
            columns[name].append(_cell(value))
    return ObjectTable({name: values for name, values in columns.items() if _is_scalar(values)})


def _read_fits(source: BinaryIO) -> ObjectTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astropy.io import fits  # noqa: PLC0415 - slow to import

        with fits.open(io.BytesIO(source.read()), memmap=False) as hdus:
            hdu = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
            if hdu is None:
                raise DataError("has no table")
            columns, ucds, units = {}, {}, {}
            for number, column in enumerate(hdu.columns, start=1):
                values = hdu.data.field(column.name)
                if values.ndim == 1:
                    null = None if column.null in {None, ""} else int(column.null)
                    columns[column.name] = [None if cell == null else _cell(cell) for cell in values.tolist()]
                    ucds[column.name] = str(hdu.header.get(f"TUCD{number}", ""))
                    units[column.name] = column.unit or ""
    return ObjectTable(columns, ucds, units)


def _read_votable(source: BinaryIO) -> ObjectTable:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astropy.io import votable  # noqa: PLC0415 - slow to import

        table = votable.parse(io.BytesIO(source.read()), verify="ignore").get_first_table()
        columns = {
            column.name: [_cell(cell) for cell in table.array[column.ID].tolist()]
            for column in table.fields
            if table.array[column.ID].ndim == 1
        }
    return ObjectTable(
        {name: values for name, values in columns.items() if _is_scalar(values)},
        {column.name: column.ucd or "" for column in table.fields},
        {column.name: str(column.unit or "") for column in table.fields},
    )


def _cell(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.rstrip() or None if isinstance(value, str) else value


def _is_scalar(values: Sequence[Any]) -> bool:
    """Whether a CSV can hold these values."""
    return all(value is None or isinstance(value, str | int | float) for value in values)


READERS: dict[tuple[str, ...], Callable[[Any], ObjectTable]] = {
    CSV_SUFFIXES: read_csv_table,
    FITS_SUFFIXES: _read_fits,
    VOTABLE_SUFFIXES: _read_votable,
    PARQUET_SUFFIXES: _read_parquet,
}
