"""Tables of objects as columns of values: CSV, FITS, VOTable and Parquet; cells without a value are None."""

import csv
import gzip
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError, StorageError
from astrodetect.sky.fits_reader import fits_reader
from astrodetect.storage import objects, parquet_shards
from astrodetect.storage.references import PARQUET_SUFFIXES, printable_url, suffix_path

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz")
VOTABLE_SUFFIXES = (".vot", ".votable", ".xml")
CSV_SUFFIXES = (".csv",)
MAX_HEADER_BYTES = 1_000_000
# What a table may declare, however small its file is: a cell costs some 50 bytes of memory.
MAX_COLUMNS, MAX_CELLS = 10_000, 100_000_000
MAX_UNPACKED_BYTES = 2_000_000_000  # of a .fits.gz
CHARS_PER_CELL = 16  # of texts and arrays whose length a VOTable declares, which astropy allocates for every row
FITS_START, GZIP_START = b"SIMPLE", b"\x1f\x8b"
OLD_EQUINOX = re.compile(r"(?<!\d)(1875|1900|1950)(\.0)?$")  # at the end of a column's name
J2000 = re.compile(r"J?2000(\.0*)?", re.IGNORECASE)
TABLE_SUFFIXES = (*CSV_SUFFIXES, *FITS_SUFFIXES, *VOTABLE_SUFFIXES, *PARQUET_SUFFIXES)


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """The columns of a table, with what its format says of them."""

    columns: Mapping[str, Sequence[Any]]  # texts of a CSV; else values
    ucds: Mapping[str, str] = field(default_factory=dict)  # by the column: what it measures, in the words of the IVOA
    units: Mapping[str, str] = field(default_factory=dict)
    frames: Mapping[str, str] = field(default_factory=dict)  # by the column: where positions are neither ICRS nor J2000
    shard: str = ""  # the Parquet file, where it holds an image in each row

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)

    def other_frame(self, column: str | None) -> str:
        """The frame of a column of positions that is neither ICRS nor J2000, by the table or by the column's name."""
        old = OLD_EQUINOX.search(column or "")
        return self.frames.get(column or "") or (f"B{old[1]}" if old else "")


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


def read_csv_table(source: BinaryIO, max_cells: int = MAX_CELLS) -> ObjectTable:
    """A CSV with a header; its cells are texts."""
    text = source.read().decode("utf-8-sig", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""))
    names = [name.strip() for name in next(reader, [])]
    width, rows = len(names), list[list[str]]()
    for row in reader:
        if row:
            rows.append(row)
            _check_size(width, len(rows), max_cells)
    _check_size(width, len(rows), max_cells)
    if len(set(names)) < width:
        raise csv.Error("it names a column twice")
    columns = ([row[index] if index < len(row) else "" for row in rows] for index in range(width))
    return ObjectTable(dict(zip(names, columns, strict=True)))


def _check_size(columns: int, rows: int, max_cells: int = MAX_CELLS) -> None:
    """Small files may declare, or repeat, far more than fits into memory."""
    if columns > MAX_COLUMNS:
        raise DataError(f"has more than {MAX_COLUMNS:,} columns: keep those that are needed")
    if columns * rows > max_cells:
        raise DataError(f"has more than {max_cells:,} cells: keep the columns and rows that are needed")


def _read_parquet(reference: str) -> ObjectTable:
    names = parquet_shards.column_names(reference)
    _check_size(len(names), parquet_shards.count_rows(reference))
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for row in parquet_shards.read_table_rows(reference, names):
        for name, value in row.items():
            columns[name].append(_cell(value))
    shard = reference if parquet_shards.has_images(reference) else ""
    return ObjectTable({name: values for name, values in columns.items() if _is_scalar(values)}, shard=shard)


def _read_fits(source: BinaryIO) -> ObjectTable:
    data = source.read()
    if data.startswith(GZIP_START):
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise DataError(f"unpacks to more than {MAX_UNPACKED_BYTES:,} bytes: keep the columns that are needed")
    if not data.startswith(FITS_START):  # astropy would unpack other archives
        raise DataError("is no FITS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = fits_reader()
        with fits.open(io.BytesIO(data), memmap=False) as hdus:
            hdu = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
            if hdu is None:
                raise DataError("has no table")
            _check_size(hdu.header["TFIELDS"], hdu.header["NAXIS2"])
            frame = _other_frame(*(hdu.header.get(card) for card in ("RADESYS", "EQUINOX")))
            columns, ucds, units = {}, {}, {}
            for number, column in enumerate(hdu.columns, start=1):
                values = hdu.data.field(column.name)
                if values.ndim == 1:
                    defined = _defined(hdu.data, column, values)
                    cells = [
                        _cell(cell) if at else None for cell, at in zip(values.tolist(), defined.tolist(), strict=True)
                    ]
                    columns[column.name] = cells
                    ucds[column.name] = str(hdu.header.get(f"TUCD{number}", ""))
                    units[column.name] = column.unit or ""
    scalars = {name: values for name, values in columns.items() if _is_scalar(values)}
    return ObjectTable(scalars, ucds, units, dict.fromkeys(columns, frame))


def _defined(rows: Any, column: Any, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells of a FITS column have a value, by what the file stores: astropy scales and replaces the others."""
    is_logical = values.dtype == np.bool_
    if column.null in {None, ""} and not is_logical:
        return np.ones(len(values), bool)
    stored = rows.view(np.ndarray)[column.name]
    if is_logical:
        return np.asarray(stored != 0)
    if stored.dtype.kind == "S":  # of a table in ASCII
        return np.asarray(np.char.strip(stored) != str(column.null).strip().encode())
    return np.asarray(stored != int(column.null))


def read_votable_table(source: BinaryIO) -> ObjectTable:
    data = source.read()
    _check_votable(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astropy.io import votable  # noqa: PLC0415 - slow to import

        file = votable.parse(io.BytesIO(data), verify="ignore")
        table = file.get_first_table()
        frames = {system.ID: _other_frame(system.system, system.equinox) for system in file.iter_coosys()}
        columns = {
            column.name: [_cell(cell) for cell in table.array[column.ID].tolist()]
            for column in table.fields
            if table.array[column.ID].ndim == 1
        }
    return ObjectTable(
        {name: values for name, values in columns.items() if _is_scalar(values)},
        {column.name: column.ucd or "" for column in table.fields},
        {column.name: str(column.unit or "") for column in table.fields},
        {column.name: frames.get(column.ref, "") for column in table.fields},
    )


def _other_frame(system: object, equinox: object) -> str:
    """The name of a frame that is neither ICRS nor J2000; empty for these, and where none is given."""
    names, year = str(system or "").upper(), "" if equinox is None else str(equinox)
    other = "FK4" in names or ("ICRS" not in names and year and not J2000.fullmatch(year))
    return f"{system or 'equinox'} {year}".strip() if other else ""


def _check_votable(data: bytes) -> None:
    """What astropy would do without asking: open the URL or file of a stream, and allocate what is declared."""
    columns = width = rows = declared = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal columns, width, rows, declared
        name = tag.rpartition(":")[2]
        if name == "STREAM" and "href" in attributes:
            raise DataError("has its values in another file: download it with them, as TABLEDATA or BINARY2")
        if name == "TABLE":
            columns = width = rows = 0
            declared = int(attributes.get("nrows") or 0)
        elif name == "FIELD":
            columns += 1
            lengths = attributes.get("arraysize", "").replace("*", "").split("x")
            width += max(1, math.prod(int(length) for length in lengths if length.strip()) // CHARS_PER_CELL)
        elif name == "TR":
            rows += 1
        else:
            return
        _check_size(columns, 0)
        _check_size(1, width * max(rows, declared, 1))

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.Parse(data, True)


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
    VOTABLE_SUFFIXES: read_votable_table,
    PARQUET_SUFFIXES: _read_parquet,
}
