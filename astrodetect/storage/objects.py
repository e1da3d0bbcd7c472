"""Objects: the bytes at a reference, which is a local path or a URL."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from astrodetect import atomic_files
from astrodetect.errors import StorageError, StorageMissing
from astrodetect.storage.references import is_url


def read_bytes(reference: str, *, max_bytes: int | None = None) -> bytes:
    """The contents; StorageError if they cannot be read or are more than `max_bytes`."""
    with _translate_errors(reference), _local(reference).open("rb") as file:
        if max_bytes is None:
            return file.read()
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise StorageError(f"{reference} has more than {max_bytes // 2**20} MiB")
    return data


def write_bytes(reference: str, data: bytes, *, if_absent: bool = False) -> bool:
    """Replace the contents atomically; with `if_absent`, write nothing and return False where there are some."""
    path = _local(reference)
    with _translate_errors(reference):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not if_absent:
            atomic_files.write_bytes(path, data)
            return True
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            part.write_bytes(data)
            atomic_files.sync_file(part)
            return _rename_if_absent(part, path)
        finally:
            part.unlink(missing_ok=True)


def exists(reference: str) -> bool:
    """Whether there is an object or file; a folder is none."""
    return _local(reference).is_file()


def list_names(folder: str) -> Iterator[str]:
    """The names of the files under a folder, relative to it and sorted, hidden ones left out; none if it is missing."""
    root = _local(folder)
    with _translate_errors(folder):
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    yield from sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def delete(reference: str) -> None:
    """Delete the object, if it exists."""
    with _translate_errors(reference):
        _local(reference).unlink(missing_ok=True)


def open_reader(reference: str) -> BinaryIO:
    """A binary file to read from, which can seek."""
    with _translate_errors(reference):
        return _local(reference).open("rb")


def _local(reference: str) -> Path:
    if is_url(reference):
        raise StorageError(f"{reference}: URLs cannot be read yet")
    return Path(reference)


def _rename_if_absent(part: Path, path: Path) -> bool:
    """Hard links are made atomically and never replace a file; where there are none, so is an exclusive creation."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except OSError:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        part.replace(path)
    return True


@contextlib.contextmanager
def _translate_errors(reference: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StorageMissing(f"{reference}: no such file") from error
    except OSError as error:
        raise StorageError(f"{reference}: {error.strerror or error}") from error
