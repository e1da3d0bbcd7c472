"""Shards of either kind: the images of tar archives and of row groups of Parquet files."""

from collections.abc import Iterator, Sequence

from astrodetect.errors import StorageError
from astrodetect.storage import objects, parquet_shards, tar_shards
from astrodetect.storage.references import PARQUET_SUFFIXES, member_reference, split_member, suffix_path


def read_shard(shard: str, suffixes: Sequence[str], max_bytes: int) -> Iterator[tuple[str, bytes | StorageError]]:
    """Reference and contents of each image, in order; errors of single images in their place."""
    if split := split_member(shard):
        for row, image in parquet_shards.read_row_group(*split, max_bytes):
            yield member_reference(split[0], row), image
    else:
        for name, image in tar_shards.read_tar(shard, suffixes, max_bytes):
            yield member_reference(shard, name), image


def shard_name(shard: str) -> str:
    """Its name in tables: that of a row group is without the version of its file."""
    split = split_member(shard)
    return member_reference(split[0], split[1].partition(parquet_shards.VERSION)[0]) if split else shard


def member_references(shard: str, suffixes: Sequence[str]) -> Iterator[str]:
    """The references of the images of a shard, each of which can be read by itself."""
    if split := split_member(shard):
        names: Iterator[object] = iter(parquet_shards.row_numbers(*split))
        return (member_reference(split[0], name) for name in names)
    return (member_reference(shard, name) for name in tar_shards.list_members(shard, suffixes))


def read_image(reference: str, max_bytes: int) -> bytes:
    """The contents of an image by its reference: a file, an object, or a member of a shard."""
    split = split_member(reference)
    if split is None:
        return objects.read_bytes(reference, max_bytes=max_bytes)
    if suffix_path(split[0]).endswith(PARQUET_SUFFIXES):
        return parquet_shards.read_row(*split, max_bytes)
    return tar_shards.read_member(*split, max_bytes)
