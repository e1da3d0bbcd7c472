"""Atomic replacement of files: write beside the target, fsync, rename; and their SHA-256."""

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME_BYTES = 210  # of a file in the names of its temporary ones, of the 255 that file systems allow


def refuse_device(path: Path) -> None:
    """OSError for a device or pipe, which may have no end; links are followed."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Path of a temporary file that replaces `path` when the block ends, and is removed if the block raises.

    The temporary file is hidden and in the same folder, so that it is never listed as data and the rename is atomic.
    `sync=False` saves the fsync where thousands of files can be made again after a power cut. A link is followed, and a
    device or pipe is an OSError: the rename would put a file into its place, as of /dev/stdout.
    """
    refuse_device(path)
    path = path.resolve() if path.is_symlink() else path
    part = part_path(path)
    try:
        yield part
        if sync:
            sync_file(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """As `replacing`, but FileExistsError where another process has made a file of that name meanwhile."""
    part = part_path(path)
    try:
        yield part
        sync_file(part)
        if not rename_if_absent(part, path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    finally:
        part.unlink(missing_ok=True)


def rename_if_absent(part: Path, path: Path) -> bool:
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


def part_path(path: Path) -> Path:
    """The temporary path of this process for a file or folder that becomes `path`."""
    return hidden_path(path, part_suffix())


def hidden_path(path: Path, ending: str) -> Path:
    """A hidden path beside `path`, whose name is cut where the ending would make it too long."""
    return path.with_name(f".{os.fsencode(path.name)[:MAX_NAME_BYTES].decode(errors='ignore')}{ending}")


def part_suffix() -> str:
    """The end of the names of this process's temporary files; containers that share a folder share process ids."""
    return f".{_namespace()}.{os.getpid()}.part"


def _namespace() -> str:
    """Digits of this machine, or container, and its namespace of process ids."""
    pids = Path("/proc/self/ns/pid")
    owner = f"{socket.gethostname()} {pids.stat().st_ino if pids.exists() else ''}"
    return hashlib.sha256(owner.encode()).hexdigest()[:6]


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose process on this machine was killed (POSIX only)."""
    if os.name != "posix":
        return
    namespace = _namespace()
    for part in path.parent.glob(f"{glob.escape(hidden_path(path, '').name)}.*.part"):
        with contextlib.suppress(ValueError, OSError):
            *_, owner, process, _ = part.name.split(".")
            if owner != namespace:
                continue  # another machine's: whether that process still runs is unknown here
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace the file's contents atomically."""
    with replacing(path, sync=sync) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace the file's contents atomically, encoded in UTF-8; surrogates, as in names that are not, are escaped."""
    remove_abandoned(path)
    write_bytes(path, text.encode(errors="backslashreplace"), sync=sync)


def move(part: Path, path: Path) -> None:
    """Fsync a complete file and rename it to `path` in the same folder."""
    sync_file(part)
    part.replace(path)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder; copy it where it is in a lower layer of an overlay, as in a container's image, and cannot be."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(source, target, symlinks=True)
        shutil.rmtree(source)


def sync_file(path: Path) -> None:
    """Fsync the file's contents."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Fsync the folder's entries, so that renames and new files in it survive a power cut (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
