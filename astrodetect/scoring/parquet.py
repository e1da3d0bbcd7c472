"""The table of scores as Parquet, some rows at a time."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROWS_A_GROUP = 50_000
TEXTS = {"path", "result", "error", "model", "model_version"}


def write(place: Path, columns: list[str], rows: Iterator[list[str]]) -> None:
    """Writes the rows: those columns text, every other one numbers, nothing where it is empty."""
    import pyarrow as pa  # noqa: PLC0415 - only who wants Parquet waits for it
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    schema = pa.schema([(_utf8(name), pa.string() if name in TEXTS else pa.float64()) for name in columns])
    with ParquetWriter(place, schema) as writer:
        while group := list(islice(rows, ROWS_A_GROUP)):
            by_column = zip(columns, zip(*group, strict=True), strict=True)
            values = [
                [_utf8(text) or None for text in texts]
                if name in TEXTS
                else [float(text) if text else None for text in texts]
                for name, texts in by_column
            ]
            writer.write_table(pa.table(values, schema=schema))


def _utf8(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
