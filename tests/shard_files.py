"""Test helpers that make shards: tar archives and Parquet files."""

import io
import tarfile
from typing import Any

import pyarrow as pa
from pyarrow import parquet


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    """A tar archive of these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet_of(columns: dict[str, Any], rows_per_group: int = 2) -> bytes:
    """A Parquet file of these columns."""
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, row_group_size=rows_per_group)
    return buffer.getvalue()
