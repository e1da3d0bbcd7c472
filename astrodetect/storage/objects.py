"""Objects: the bytes at a reference, which is a local path or a URL."""

import contextlib
import io
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from astrodetect import atomic_files
from astrodetect.errors import StorageError, StorageMissing
from astrodetect.storage import clients
from astrodetect.storage.references import is_url, is_web, printable_url
from astrodetect.storage.request_errors import too_large

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

CHANGED = "has changed since its images were listed"
_listed: dict[str, tuple[object, ...]] = {}  # files of many images, with their state then


def read_bytes(reference: str, *, max_bytes: int | None = None) -> bytes:
    """The contents; StorageError if they cannot be read or are more than `max_bytes`."""
    if is_url(reference):
        return clients.get(reference, max_bytes=max_bytes)
    with _translate_errors(reference), Path(reference).open("rb") as file:
        data = file.read(-1 if max_bytes is None else max_bytes + 1)
    if max_bytes is not None and len(data) > max_bytes:
        raise too_large(reference, max_bytes)
    return data


def write_bytes(reference: str, data: bytes, *, if_absent: bool = False) -> bool:
    """Replaces the contents atomically; with `if_absent`, writes nothing and returns False where there are some."""
    if is_url(reference):
        check_writable(reference)
        return clients.put(reference, data, if_absent=if_absent) is not None
    path = Path(reference)
    with _translate_errors(reference, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not if_absent:
            atomic_files.write_bytes(path, data)
            return True
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(data)
            atomic_files.sync_file(part)
            return atomic_files.rename_if_absent(part, path)
        finally:
            part.unlink(missing_ok=True)


def exists(reference: str) -> bool:
    """Whether there is an object or file; a folder is none."""
    return clients.head(reference) is not None if is_url(reference) else Path(reference).is_file()


def file_state(reference: str) -> tuple[object, ...]:
    """What differs once a file or object is replaced or written; nothing where there is none."""
    if is_url(reference):
        meta = clients.head(reference)
        return () if meta is None else clients.version(meta)
    try:
        state = Path(reference).stat()
    except OSError:  # reading it says why
        return ()
    return _state(state)


def mark_listed(reference: str) -> tuple[object, ...]:
    """Its `file_state`, which `listed_state` compares with, since the images in it are listed now."""
    state = _listed[reference] = file_state(reference)
    return state


def forget_listed() -> None:
    """Begin anew in a process that goes on: with the versions that are listed, or first read, from now on."""
    _listed.clear()


def listed_state(reference: str) -> tuple[object, ...]:
    """Its `file_state`; StorageError if it was replaced or written since its images were listed, or first read."""
    state = file_state(reference)
    if state and _listed.setdefault(reference, state) != state:
        raise StorageError(f"{printable_url(reference)} {CHANGED}")
    return state


def list_names(folder: str) -> Iterator[str]:
    """The names of the files under a folder, relative to it and sorted; hidden ones are left out.

    A folder that does not exist has none.
    """
    if is_url(folder):
        names = clients.list_objects(folder)
    else:
        root = Path(folder)
        with _translate_errors(folder):
            names = iter(sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()))
    return (name for name in names if not any(part.startswith(".") for part in name.split("/")))


def delete(reference: str) -> None:
    """Deletes the object or file, if it exists."""
    if is_url(reference):
        check_writable(reference)
        clients.delete_object(reference)
        return
    with _translate_errors(reference, "delete"):
        Path(reference).unlink(missing_ok=True)


def open_reader(reference: str, buffer_bytes: int = clients.BLOCK_BYTES) -> BinaryIO:
    """A binary file to read from, which can seek; of an object, `buffer_bytes` are read at a time."""
    if is_url(reference):
        return cast(BinaryIO, io.BufferedReader(clients.ObjectReader(reference), buffer_bytes))
    with _translate_errors(reference):
        return cast(BinaryIO, io.BufferedReader(_LocalReader(reference)))


def read_range(reference: str, offset: int, size: int, state: tuple[object, ...]) -> bytes:
    """Some of the bytes; StorageError unless it still is the version that has this `file_state`."""
    if is_url(reference):
        return clients.get_range(reference, offset, offset + size, cast(clients.Version, state)) if size else b""
    with open_reader(reference) as file:
        if _state(os.fstat(file.fileno())) != state:
            raise StorageError(f"{printable_url(reference)} {CHANGED}")
        file.seek(offset)
        return file.read(size)


@contextlib.contextmanager
def open_writer(reference: str) -> Iterator[BinaryIO]:
    """A binary file to write to, in bounded memory; it is there as a whole after the block, unless the block raises."""
    if is_url(reference):
        check_writable(reference)
        with clients.open_upload(reference) as writer:
            yield cast(BinaryIO, writer)
        return
    path = Path(reference)
    with _translate_errors(reference, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.remove_abandoned(path)
        with atomic_files.replacing(path) as part, part.open("wb") as file:
            yield file


def check_writable(reference: str) -> None:
    """StorageError for a web server, which takes no files."""
    if is_web(reference):
        raise StorageError(f"{printable_url(reference)}: nothing can be written to a web server")


class _LocalReader(io.FileIO):
    """A file; StorageError if it is written to after it was opened, since what is read would be of two versions."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._opened = os.fstat(self.fileno())

    def readinto(self, buffer: "Buffer", /) -> int | None:
        """Called by BufferedReader."""
        count = super().readinto(buffer)
        self._check()
        return count

    def readall(self) -> bytes:
        """Called by BufferedReader, to read the rest."""
        data = super().readall()
        self._check()
        return data

    def _check(self) -> None:
        if stat.S_ISREG(self._opened.st_mode) and _state(os.fstat(self.fileno())) != _state(self._opened):
            raise StorageError(f"{os.fsdecode(self.name)} was changed while it was read")


def _state(state: os.stat_result) -> tuple[object, ...]:
    return state.st_ino, state.st_size, state.st_mtime_ns


@contextlib.contextmanager
def _translate_errors(reference: str, verb: str = "read") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageMissing(f"{reference}: no such file") from error
    except OSError as error:
        raise StorageError(f"cannot {verb} {reference}: {error.strerror or error}") from error
