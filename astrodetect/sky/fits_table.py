"""FITS binary tables, written in bounded memory: rows wait in a temporary file until the widths of texts are known."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from astrodetect.parquet_table import ColumnType, write_parquet
from astrodetect.sky.votable import NO_INTEGER, UCDS
from astrodetect.sky.wcs import quiet

MEDIA_TYPE = "application/fits"
BLOCK_BYTES = 2880
MAX_TEXT = 4096  # characters of a cell: each row has the width of the longest, and clients choose names
BUFFER_BYTES = 4_000_000  # of rows in memory
QUOTE = "'"
MAX_NAME = 68  # characters of a text in one card of a header, of which a quote takes two; astropy refuses longer names
FORMS: dict[ColumnType, str] = {"number": "D", "integer": "K", "boolean": "L"}
DTYPES: dict[ColumnType, str] = {"number": ">f8", "integer": ">i8", "boolean": "u1"}
TRUE, FALSE, UNKNOWN = ord("T"), ord("F"), 0  # of logical columns


def write_fits_table(
    file: BinaryIO, columns: Mapping[str, ColumnType], rows: Iterable[Sequence[object]], title: str
) -> None:
    """A table of values in the order of the columns, with UCDs and units of the usual ones; None is no value.

    FITS holds ASCII: other characters are written as \\xe9 or \\u03b1. A text of more than MAX_TEXT ends in "...".
    """
    texts = [index for index, kind in enumerate(columns.values()) if kind in {"text", "bytes"}]
    widths, count = dict.fromkeys(texts, 1), 0

    def measured() -> Iterator[Sequence[object]]:
        nonlocal count
        for row in rows:
            count += 1
            cells = [*row]
            for index in texts:
                if cells[index] is not None:
                    cells[index] = _ascii(cells[index])
                    widths[index] = max(widths[index], len(str(cells[index])))
            yield cells

    with tempfile.TemporaryFile() as spooled:
        write_parquet(spooled, {str(index): kind for index, kind in enumerate(columns.values())}, measured())
        dtype = np.dtype([(str(i), DTYPES.get(kind) or f"S{widths[i]}") for i, kind in enumerate(columns.values())])
        header = _header(columns, widths, dtype.itemsize, count, title)
        file.write(header)
        for block in _blocks(spooled, [*columns.values()], dtype):
            file.write(block.tobytes())
        file.write(bytes(-dtype.itemsize * count % BLOCK_BYTES))


def _header(columns: Mapping[str, ColumnType], widths: Mapping[int, int], width: int, count: int, title: str) -> bytes:
    with quiet():
        from astropy.io.fits import Header, PrimaryHDU  # noqa: PLC0415 - slow to import

        header = Header()
        cards: dict[str, Any] = {
            "XTENSION": "BINTABLE", "BITPIX": 8, "NAXIS": 2, "NAXIS1": width, "NAXIS2": count, "PCOUNT": 0, "GCOUNT": 1,
            "TFIELDS": len(columns), "EXTNAME": title,
        }  # fmt: skip
        for number, (name, kind) in enumerate(columns.items(), start=1):
            cards[f"TTYPE{number}"] = _column_name(name, number)
            cards[f"TFORM{number}"] = FORMS.get(kind) or f"{widths[number - 1]}A"
            if kind == "integer":
                cards[f"TNULL{number}"] = NO_INTEGER
            for card, value in zip(("TUCD", "TUNIT"), UCDS.get(name, ()), strict=False):
                cards[f"{card}{number}"] = value
        for card, value in cards.items():
            header[card] = value
        primary = PrimaryHDU()
        primary.header["EXTEND"] = True
        return f"{primary.header.tostring()}{header.tostring()}".encode("ascii")


def _blocks(spooled: BinaryIO, kinds: Sequence[ColumnType], dtype: np.dtype[Any]) -> Iterator[NDArray[np.void]]:
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - takes a tenth of a second

    with ParquetFile(spooled) as table:
        for values in table.iter_batches(max(1, BUFFER_BYTES // dtype.itemsize)):
            block = np.zeros(values.num_rows, dtype)
            for index, kind in enumerate(kinds):
                block[str(index)] = [_stored(value, kind) for value in values.column(index).to_pylist()]
            yield block


def _stored(value: Any, kind: ColumnType) -> Any:
    if kind == "number":
        return np.nan if value is None else value
    if kind == "integer":
        return NO_INTEGER if value is None else value
    if kind == "boolean":
        return UNKNOWN if value is None else TRUE if value else FALSE
    return b"" if value is None else value if isinstance(value, bytes) else value.encode("ascii")


def _column_name(name: str, number: int) -> str:
    """The name as a header holds it: of one that is too long, its beginning and the column's number."""
    text = _ascii(name)
    if len(text.replace(QUOTE, 2 * QUOTE)) <= MAX_NAME:
        return text
    return f"{text.replace(QUOTE, '_')[: MAX_NAME - 5]}~{number}"


def _ascii(value: object) -> str:
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    raw = text.encode("ascii", "backslashreplace").decode("ascii")
    escaped = "".join(character if character.isprintable() else repr(character)[1:-1] for character in raw)
    return escaped if len(escaped) <= MAX_TEXT else f"{escaped[: MAX_TEXT - 3]}..."
