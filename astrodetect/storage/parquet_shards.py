"""Parquet files: of images, whose row groups are shards, and of tables that list images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from astrodetect.errors import StorageError, StorageMissing
from astrodetect.storage import objects
from astrodetect.storage.references import ROW_GROUP, member_reference

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "bytes")  # of binary values; or any column of structs with a field `bytes`
STRUCT_BYTES = "bytes"  # as Hugging Face writes images
IMAGES_PER_READ = 16
ROWS_PER_READ = 10_000  # of a table
READ_BYTES = 4 * 2**20  # of a column


def column_names(file: str) -> list[str]:
    """The names of the columns."""
    with _open_parquet(file) as parquet:
        return list(parquet.schema_arrow.names)


def list_row_groups(file: str) -> list[str] | None:
    """The references of the row groups of a file of images; None for a file of other things."""
    with _open_parquet(file) as parquet:
        if _image_column(parquet) is None:
            return None
        return [member_reference(file, f"{ROW_GROUP}{group}") for group in range(parquet.num_row_groups)]


def read_row_group(file: str, member: str, max_bytes: int) -> Iterator[tuple[int, bytes | StorageError]]:
    """Number in the file and image of each row; an error for images above the limit, and for rows without one."""
    with _open_parquet(file) as parquet:
        group = member.removeprefix(ROW_GROUP)
        if not group.isdecimal() or int(group) >= parquet.num_row_groups:
            raise StorageMissing(f"{file} has no row group {group}")
        yield from _read_group(parquet, int(group), max_bytes)


def read_row(file: str, member: str, max_bytes: int) -> bytes:
    """The image of one row."""
    with _open_parquet(file) as parquet:
        row = int(member) if member.isdecimal() else -1
        if _image_column(parquet) is None or not 0 <= row < parquet.metadata.num_rows:
            raise StorageMissing(f"{file} has no image in a row {member}")
        ends, group = _group_end(parquet, 0), 0
        while row >= ends:
            group += 1
            ends = _group_end(parquet, group)
        image = next(image for number, image in _read_group(parquet, group, max_bytes) if number == row)
    if isinstance(image, StorageError):
        raise StorageError(f"{member_reference(file, member)}: {image}")
    return image


def read_rows(file: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, in order; of these columns where it has them."""
    with _open_parquet(file) as parquet:
        present = [name for name in columns if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(ROWS_PER_READ, columns=present):
            yield from batch.to_pylist()


def _read_group(parquet: "ParquetFile", group: int, max_bytes: int) -> Iterator[tuple[int, bytes | StorageError]]:
    column = _image_column(parquet)
    if column is None:
        raise StorageError(f"no column {' or '.join(IMAGE_COLUMNS)} of images")
    name, _, field = column.partition(".")
    number = _group_end(parquet, group - 1)
    for batch in parquet.iter_batches(IMAGES_PER_READ, row_groups=[group], columns=[column]):
        for value in batch.column(name):
            image = value[field] if field and value.is_valid else value
            yield number, _image_bytes(image, max_bytes)
            number += 1


def _image_bytes(value: Any, max_bytes: int) -> bytes | StorageError:
    if not value.is_valid:
        return StorageError("no image in this row")
    if len(buffer := value.as_buffer()) > max_bytes:
        return StorageError(f"more than {max_bytes // 2**20} MiB")
    return bytes(buffer)


def _image_column(parquet: "ParquetFile") -> str | None:
    """The path of the column of images."""
    import pyarrow as pa  # noqa: PLC0415 - takes a tenth of a second

    def is_binary(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    schema = parquet.schema_arrow
    for name in IMAGE_COLUMNS:
        if name in schema.names and is_binary(schema.field(name).type):
            return name
    for field in schema:
        index = field.type.get_field_index(STRUCT_BYTES) if pa.types.is_struct(field.type) else -1
        if index >= 0 and is_binary(field.type.field(index).type):
            return f"{field.name}.{STRUCT_BYTES}"
    return None


def _group_end(parquet: "ParquetFile", group: int) -> int:
    """The number of rows up to the end of a row group."""
    return sum(parquet.metadata.row_group(index).num_rows for index in range(group + 1))


@contextmanager
def _open_parquet(file: str) -> "Iterator[ParquetFile]":
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    with objects.open_reader(file) as source:
        try:
            with ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"damaged Parquet file: {str(error).partition(chr(10))[0]}") from error
