"""Parts of a table of scores: the rows of a chunk as a Parquet file, whose texts are bytes, since paths may be any."""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from astrodetect.parquet_table import ColumnType, write_parquet
from astrodetect.records import SkyObject
from astrodetect.storage import objects

COLUMNS = ["path", "score", "result", "error", "model", "model_version"]
TEXT_COLUMNS = {"path", "result", "error", "model", "model_version"}
NOVELTY = "novelty"  # column of models with anomaly detectors
IN_DOMAIN = "in_domain"  # column of those whose detectors have a limit for it: true or false
PROBABILITY = "p_"  # prefix of the columns of models with several classes
OWN_POSITION = ("own_ra", "own_dec")  # of an image, by its WCS: columns of parts only
PART_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]+)\.parquet")

ScoreRow = list[Any]  # values in the order of the columns, the path as str, None where there is no value


def part_name(number: int, chunk_id: str) -> str:
    """The name of a chunk's part."""
    return f"part-{number:06}-{chunk_id}.parquet"


def list_parts(folder: str) -> dict[int, str]:
    """Chunk number → chunk id, of the parts in a folder."""
    matches = map(PART_NAME.fullmatch, objects.list_names(folder))
    return {int(match[1]): match[2] for match in matches if match}


def column_types(columns: Sequence[str]) -> dict[str, ColumnType]:
    """The type of each column."""
    return {name: "text" if name in TEXT_COLUMNS else "boolean" if name == IN_DOMAIN else "number" for name in columns}


def encode_part(columns: Sequence[str], rows: Sequence[ScoreRow], positions: Sequence[SkyObject | None] = ()) -> bytes:
    """Rows as a Parquet file; with the positions of the images, if any, in columns behind."""
    if any(positions):
        columns = [*columns, *OWN_POSITION]
        own = (position or SkyObject() for position in positions)
        rows = [[*row, position.ra, position.dec] for row, position in zip(rows, own, strict=True)]
    types: dict[str, ColumnType] = {
        name: "bytes" if kind == "text" else kind for name, kind in column_types(columns).items()
    }
    buffer = io.BytesIO()
    write_parquet(buffer, types, ([os.fsencode(v) if isinstance(v, str) else v for v in row] for row in rows))
    return buffer.getvalue()


def has_positions(reference: str) -> bool:
    """Whether the rows of a part end with positions."""
    from pyarrow.parquet import read_schema  # noqa: PLC0415 - as below

    with suppress(ValueError), objects.open_reader(reference) as source:  # reading a damaged one says so
        return tuple(read_schema(source).names[-len(OWN_POSITION) :]) == OWN_POSITION
    return False


def part_rows(reference: str) -> Iterator[ScoreRow]:
    """The rows of a part, in order."""
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - takes a tenth of a second

    with objects.open_reader(reference) as source, ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            columns = [column.to_pylist() for column in file.read_row_group(group).columns]
            for row in zip(*columns, strict=True):
                yield [os.fsdecode(value) if isinstance(value, bytes) else value for value in row]
