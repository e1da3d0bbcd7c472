"""Writing tables as Parquet, in bounded memory."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

ROWS_PER_GROUP = 50_000

ColumnType = Literal["text", "number", "integer", "boolean", "bytes"]


def write_parquet(target: Path | BinaryIO, columns: Mapping[str, ColumnType], rows: Iterable[Sequence[object]]) -> None:
    """Writes rows of values in the order of the columns; None becomes null."""
    import pyarrow as pa  # noqa: PLC0415 - imported only by runs that write Parquet
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    types = {
        "text": pa.string(),
        "number": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "bytes": pa.binary(),
    }
    schema = pa.schema([(_as_utf8(name), types[kind]) for name, kind in columns.items()])
    remaining = iter(rows)
    with ParquetWriter(target, schema) as writer:
        while group := list(islice(remaining, ROWS_PER_GROUP)):
            by_column = zip(columns.values(), zip(*group, strict=True), strict=True)
            values = [list(map(_as_utf8, column)) if kind == "text" else list(column) for kind, column in by_column]
            writer.write_table(pa.table(values, schema=schema))


def _as_utf8(value: object) -> str | None:
    """Parquet holds UTF-8 only: a byte of a file name that is not UTF-8 is written as \\xff."""
    return None if value is None else str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
