"""Reading untrusted zip archives in bounded memory, whatever they declare."""

import struct
import zipfile
from collections.abc import Iterator
from typing import IO

from astrodetect.errors import ArchiveError, AstrodetectError, BodyTooLarge

END_RECORD, END_RECORD_BYTES, MAX_COMMENT_BYTES = b"PK\x05\x06", 22, 65_535
ZIP64_LOCATOR, ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
ENTRY = b"PK\x01\x02"  # begins each entry of the directory
DIRECTORY_SIZE_AT = 12  # in the end record
MAX_DIRECTORY_BYTES = 16 * 2**20
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # Python decompresses others without a limit
ENCRYPTED = 0x1
PIECE_BYTES = 64 * 1024
MACOS_FOLDER = "__MACOSX/"  # which macOS adds to zips


def read_files(
    archive_file: IO[bytes], *, max_entries: int, max_file_bytes: int, max_bytes: int
) -> Iterator[tuple[str, bytes | AstrodetectError]]:
    """The path of each file that is not hidden, and its content or its error; ArchiveError where nothing can be read.

    A path with `..` is an error, as it is to programs that unpack. Files may have `max_file_bytes` each and `max_bytes`
    together.
    """
    _check_directory(archive_file, max_entries)
    try:
        archive = zipfile.ZipFile(archive_file)
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ArchiveError(f"the zip cannot be read: {error}") from error
    unpacked = 0
    for member in archive.infolist():
        parts = [part for part in member.filename.split("/") if part != "."]
        outside = ".." in parts
        hidden = not outside and any(part.startswith(".") for part in parts)
        if member.filename.endswith("/") or hidden or member.filename.startswith(MACOS_FOLDER):
            continue
        if outside:
            yield member.filename, ArchiveError("its path leads out of the zip: pack it again without ..")
            continue
        unpacked += member.file_size
        if member.file_size <= max_file_bytes and unpacked > max_bytes:
            yield member.filename, BodyTooLarge(f"the zip unpacks to more than {max_bytes:,} bytes")
            return
        yield member.filename, _read_member(archive, member, max_file_bytes)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes | AstrodetectError:
    """In pieces, each decompressed to its size alone: a read of everything would be cut to the declared size later."""
    if member.file_size > max_bytes:
        return BodyTooLarge(f"the file is larger than {max_bytes:,} bytes")
    if member.flag_bits & ENCRYPTED or member.compress_type not in METHODS:
        return ArchiveError("cannot be unpacked: only stored and deflated files without a password are read")
    try:
        with archive.open(member) as file:
            return b"".join(iter(lambda: file.read(PIECE_BYTES), b""))
    except Exception as error:  # noqa: BLE001 - a damaged zip may raise almost any exception
        return ArchiveError(f"cannot be unpacked: {error}")


def _check_directory(file: IO[bytes], max_entries: int) -> None:
    """Bounds the number of entries before `zipfile` makes an object of each."""
    size = file.seek(0, 2)
    tail_at = max(0, size - END_RECORD_BYTES - MAX_COMMENT_BYTES - ZIP64_LOCATOR_BYTES)
    file.seek(tail_at)
    tail = file.read()
    at = len(tail) - END_RECORD_BYTES
    if not (tail.startswith(END_RECORD, at) and tail.endswith(b"\0\0")):
        at = tail.rfind(END_RECORD)
    if at < 0 or len(tail) - at < END_RECORD_BYTES:
        raise ArchiveError("the zip cannot be read: its directory is missing")
    if tail.startswith(ZIP64_LOCATOR, max(0, at - ZIP64_LOCATOR_BYTES)):
        raise ArchiveError("the zip cannot be read: it has the form for more than 4 GB or 65,535 files")
    (directory_bytes,) = struct.unpack_from("<I", tail, at + DIRECTORY_SIZE_AT)
    start = tail_at + at - directory_bytes
    too_many = ArchiveError(f"the zip cannot be read: it has more than {max_entries:,} entries")
    if directory_bytes > MAX_DIRECTORY_BYTES or start < 0:
        raise too_many
    file.seek(start)
    if file.read(directory_bytes).count(ENTRY) > max_entries:
        raise too_many
    file.seek(0)
