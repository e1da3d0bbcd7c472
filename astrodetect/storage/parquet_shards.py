"""Parquet files: of images, whose row groups are shards, and of tables that list images."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from astrodetect.errors import StorageError, StorageMissing
from astrodetect.storage import objects
from astrodetect.storage.references import ROW_GROUP, member_reference, printable_url

if TYPE_CHECKING:
    from pyarrow import Array, DataType, RecordBatch
    from pyarrow.parquet import ParquetFile

IMAGE_COLUMNS = ("image", "bytes")  # of binary values; or any column of structs with a field `bytes`
STRUCT_BYTES = "bytes"  # as Hugging Face writes images
IMAGES_PER_READ = 16
ROWS_PER_READ = 10_000  # of a table
READ_BYTES = 4 * 2**20  # of a column
MAX_TABLE_BYTES = 4_000_000_000  # unpacked: a file has a text that is repeated only once
VERSION = "@"  # between a row group and the version of its file
VERSION_BYTES, VERSION_DIGITS = 2**16, 12
KNOWN_FILES, KEPT_GROUPS = 64, 2  # to read single rows


def column_names(file: str) -> list[str]:
    """The names of the columns, but those of lists, structs and images."""
    import pyarrow as pa  # noqa: PLC0415

    with _open_parquet(file) as parquet:
        fields, images = parquet.schema_arrow, _image_column(parquet)
        return [field.name for field in fields if not pa.types.is_nested(field.type) and field.name != images]


def count_rows(file: str) -> int:
    """The number of rows that the file declares, none of which is read."""
    with _open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def has_images(file: str) -> bool:
    """Whether it is a file of images, not of other things."""
    with _open_parquet(file) as parquet:
        return _image_column(parquet) is not None


def list_row_groups(file: str) -> list[str] | None:
    """The references of the row groups of a file of images; None for a file of other things."""
    objects.mark_listed(file)
    version = _version(file)
    with _open_parquet(file) as parquet:
        if _image_column(parquet) is None:
            return None
        groups = range(parquet.num_row_groups)
    return [member_reference(file, f"{ROW_GROUP}{group}{VERSION}{version}") for group in groups]


def read_row_group(file: str, member: str, max_bytes: int) -> Iterator[tuple[int, bytes | StorageError]]:
    """Number in the file and image of each row; an error for images above the limit, and for rows without one."""
    group, version = _group_version(member)
    with _open_parquet(file) as parquet:
        if version and version != _version(file):
            raise StorageError(f"{printable_url(file)} {objects.CHANGED}")
        if not group.isdecimal() or int(group) >= parquet.num_row_groups:
            raise StorageMissing(f"{printable_url(file)} has no row group {group}")
        yield from _read_group(parquet, int(group), max_bytes)


def read_row(file: str, member: str, max_bytes: int) -> bytes:
    """The image of one row. The last row groups are remembered, since neighbouring rows are read together."""
    row = int(member) if member.isdecimal() else -1
    state = objects.listed_state(file)
    group = next((group for group, rows in enumerate(_group_rows(file, state)) if row in rows), None)
    if group is None:
        raise StorageMissing(f"{printable_url(file)} has no row {member}")
    image = _group_images(file, state, group, max_bytes)[row]
    if isinstance(image, StorageError):
        raise StorageError(f"{member_reference(printable_url(file), member)}: {image}")
    return image


def row_numbers(file: str, member: str) -> range:
    """The numbers in the file of the rows of a row group."""
    return _group_rows(file, objects.listed_state(file))[int(_group_version(member)[0])]


def _group_version(member: str) -> tuple[str, str]:
    """Number of a row group, and the version of the file that it is of; empty for any."""
    group, _, version = member.removeprefix(ROW_GROUP).partition(VERSION)
    return group, version


def _version(file: str) -> str:
    """What another version of the file does not have, on any machine: a digest of its size and of its end."""
    with objects.open_reader(file) as source:
        size = source.seek(0, os.SEEK_END)
        source.seek(max(0, size - VERSION_BYTES))
        return hashlib.sha256(b"%d %b" % (size, source.read())).hexdigest()[:VERSION_DIGITS]


def read_table_rows(file: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table, in order; of these columns where it has them. Dates, times and decimals are texts."""
    with _open_parquet(file) as parquet:
        types = {field.name: field.type for field in parquet.schema_arrow if field.name in {*columns}}
        _check_size(_declared_bytes(parquet, types.values()))
    with _open_parquet(file, [name for name, kind in types.items() if _is_text(kind)]) as parquet:
        size = 0
        for batch in parquet.iter_batches(ROWS_PER_READ, columns=[*types]):
            size += sum(map(_text_bytes, batch.columns))
            _check_size(size)
            yield from _as_values(batch).to_pylist()


def _check_size(size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise StorageError(f"has more than {MAX_TABLE_BYTES:,} bytes: keep the columns and rows that are needed")


def _declared_bytes(parquet: "ParquetFile", types: Iterable["DataType"]) -> int:
    """How many bytes the file has unpacked, in which a text is once, and its columns of texts of a fixed length."""
    import pyarrow as pa  # noqa: PLC0415

    # metadata of a column in a row group would end the process where they are damaged
    unpacked: int = sum(parquet.metadata.row_group(group).total_byte_size for group in range(parquet.num_row_groups))
    fixed: int = parquet.metadata.num_rows * sum(
        kind.byte_width for kind in types if pa.types.is_fixed_size_binary(kind)
    )
    return unpacked + fixed


def _is_text(kind: Any) -> bool:
    import pyarrow as pa  # noqa: PLC0415

    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _text_bytes(column: "Array[Any]") -> int:
    """How many bytes the texts of a column have that is encoded by a dictionary."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import compute  # noqa: PLC0415

    if not (isinstance(column, pa.DictionaryArray) and _is_text(column.dictionary.type)):
        return 0
    lengths = compute.binary_length(column.dictionary).take(column.indices)
    return compute.sum(lengths.cast(pa.int64())).as_py() or 0


def _as_values(batch: "RecordBatch") -> "RecordBatch":
    """The batch without dictionaries; with texts for dates, times (in UTC if they have a time zone) and decimals."""
    import pyarrow as pa  # noqa: PLC0415

    def decoded(kind: Any) -> Any:
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def in_utc(kind: Any) -> Any:  # names of time zones need a database, which minimal systems lack
        return pa.timestamp(kind.unit, "+00:00") if pa.types.is_timestamp(kind) and kind.tz else kind

    def as_text(kind: Any) -> Any:
        is_time = pa.types.is_temporal(kind) and not pa.types.is_duration(kind)
        return pa.string() if is_time or pa.types.is_decimal(kind) else kind

    for change in (decoded, in_utc, as_text):
        batch = batch.cast(pa.schema([field.with_type(change(field.type)) for field in batch.schema]))
    return batch


def _read_group(parquet: "ParquetFile", group: int, max_bytes: int) -> Iterator[tuple[int, bytes | StorageError]]:
    column = _image_column(parquet)
    if column is None:
        raise StorageError(f"no column {' or '.join(IMAGE_COLUMNS)} of images")
    name, _, field = column.partition(".")
    number = sum(parquet.metadata.row_group(index).num_rows for index in range(group))
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


@lru_cache(maxsize=KNOWN_FILES)
def _group_rows(file: str, _: tuple[object, ...]) -> list[range]:
    with _open_parquet(file) as parquet:
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return [range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]


@lru_cache(maxsize=KEPT_GROUPS)
def _group_images(file: str, state: tuple[object, ...], group: int, max_bytes: int) -> dict[int, bytes | StorageError]:
    with _open_parquet(file) as parquet:
        if objects.file_state(file) != state:
            raise StorageError(f"{printable_url(file)} {objects.CHANGED}")
        return dict(_read_group(parquet, group, max_bytes))


@contextmanager
def _open_parquet(file: str, by_dictionary: Sequence[str] = ()) -> "Iterator[ParquetFile]":
    """The file; columns `by_dictionary` have a text that is repeated only once."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    with objects.open_reader(file) as source:
        try:
            with ParquetFile(
                source, read_dictionary=by_dictionary, buffer_size=READ_BYTES, pre_buffer=False
            ) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise StorageError(f"damaged Parquet file {printable_url(file)}: {reason}") from error
