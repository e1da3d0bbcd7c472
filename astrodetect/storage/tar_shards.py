"""Tar shards, as WebDataset writes them: members are read one after the other, and never extracted to disk."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, NamedTuple, Self, cast

from astrodetect.errors import StorageError, StorageMissing
from astrodetect.storage import objects
from astrodetect.storage.references import member_reference, printable_url, suffix_path
from astrodetect.storage.request_errors import too_large

# Of the extended header of a member, which holds little more than its name: Python before 3.11.10 and 3.12.6 takes a
# time by the square of its length.
MAX_HEADER_BYTES = 2**15
INDEXED_SHARDS = 8  # whose members' positions are remembered
STREAM_BYTES = 2**16  # read at a time
END_OF_ARCHIVE = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # not in the stubs
INVALID_HEADER = tarfile.HeaderError
EXTENDED_HEADERS = (*(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), tarfile.XHDTYPE, tarfile.XGLTYPE)


class _Member(tarfile.TarInfo):
    """A member whose header is checked: by itself, tarfile takes a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except END_OF_ARCHIVE:
            raise
        except INVALID_HEADER as error:
            raise _Damaged(f"no valid header at byte {tarfile.offset}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED_HEADERS and self.size > MAX_HEADER_BYTES:
            raise _Damaged(f"a header of {self.size:,} bytes: at most {MAX_HEADER_BYTES:,} are read")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # made to be overridden


class _Place(NamedTuple):
    offset: int
    size: int
    blocks: Sequence[tuple[int, int]] | None  # of a sparse file: start and length of each part that is stored


class _Damaged(tarfile.TarError):
    """The archive cannot be read on."""


def read_tar(shard: str, suffixes: Sequence[str], max_bytes: int) -> Iterator[tuple[str, bytes | StorageError]]:
    """Name and contents of each member with one of these suffixes, in order; an error for members above the limit.

    Hidden members are skipped, and a link is an error. StorageError where the archive is damaged or ends too early.
    """
    with _open_archive(shard) as archive:
        for member in _members(archive):
            if not _is_listed(member.name, suffixes):
                continue
            if _is_link(member):
                yield member.name, _link_error(member.linkname)
            elif member.size > max_bytes:
                yield member.name, StorageError(f"more than {max_bytes // 2**20} MiB")
            else:
                yield member.name, _contents(archive, member)


def list_members(shard: str, suffixes: Sequence[str]) -> list[str]:
    """The names of the members with one of these suffixes, in order; hidden members are left out."""
    return [name for name in _read_places(shard, objects.mark_listed(shard)) if _is_listed(name, suffixes)]


def read_member(shard: str, name: str, max_bytes: int) -> bytes:
    """The contents of one member."""
    state = objects.listed_state(shard)
    place = _read_places(shard, state).get(name)
    if place is None:
        raise StorageMissing(f"{printable_url(shard)} has no member {name}")
    if isinstance(place, str):
        raise _link_error(place)
    offset, size, blocks = place
    stored_size = sum(length for _, length in blocks) if blocks else size
    if max(size, stored_size) > max_bytes:
        raise too_large(member_reference(shard, name), max_bytes)
    stored = objects.read_range(shard, offset, stored_size, state)
    return _with_holes(stored, size, blocks) if blocks else stored


@lru_cache(maxsize=INDEXED_SHARDS)
def _read_places(shard: str, _: tuple[object, ...]) -> dict[str, _Place | str]:
    """Name → place of each member of an archive, or where a link leads; read again once that has changed."""
    if not suffix_path(shard).endswith(".tar"):
        raise StorageError(
            f"{printable_url(shard)} is compressed, so that its images cannot be read one by one: decompress it"
        )
    with _open_archive(shard, mode="r:") as archive:
        return {member.name: member.linkname if _is_link(member) else _place(member) for member in _members(archive)}


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files and links, in order."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # which would hold every header in memory
        if member.isreg() or _is_link(member):
            yield member
    while rest := archive.fileobj.read(STREAM_BYTES):
        if rest.strip(b"\0"):
            raise _Damaged("data follow its end: archives that were joined by cat are read apart")


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _place(member: tarfile.TarInfo) -> _Place:
    blocks = cast(Sequence[tuple[int, int]] | None, member.sparse)  # bytes in the stubs
    return _Place(member.offset_data, member.size, blocks)


def _with_holes(stored: bytes, size: int, blocks: Sequence[tuple[int, int]]) -> bytes:
    """The contents of a sparse file, of which an archive stores these blocks, each with its start and length."""
    content, position = bytearray(size), 0
    for start, length in blocks:
        content[start : start + length] = stored[position : position + length]
        position += length
    return bytes(content)


def _is_link(member: tarfile.TarInfo) -> bool:
    """Whether it is a hard or symbolic link: tar writes one for the second name of a file."""
    return member.islnk() or member.issym()


def _link_error(target: str) -> StorageError:
    return StorageError(f"a link to {target}: make the archive by tar --dereference --hard-dereference")


def _is_listed(name: str, suffixes: Sequence[str]) -> bool:
    return not _is_hidden(name) and name.lower().endswith(tuple(suffixes))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in {".", ".."} for part in name.split("/"))


@contextmanager
def _open_archive(shard: str, mode: str = "r|") -> Iterator[tarfile.TarFile]:
    try:
        with objects.open_reader(shard) as file:
            stream = file if suffix_path(shard).endswith(".tar") else cast(BinaryIO, gzip.GzipFile(fileobj=file))
            with tarfile.open(  # type: ignore[call-overload]  # of the mode
                fileobj=stream, mode=mode, bufsize=STREAM_BYTES, tarinfo=_Member, errors="surrogateescape"
            ) as archive:
                yield archive
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise StorageError(f"damaged tar archive {printable_url(shard)}: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}") from error
