"""The embedded PostgreSQL server of a folder: started by its first user, stopped by its last.

Every process that uses the server holds a shared file lock, which the system releases however the process ends.
"""

import os
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fasteners import InterProcessLock, InterProcessReaderWriterLock

from astrodetect.db.embedded import server_process
from astrodetect.db.embedded.binaries import program_path
from astrodetect.errors import DatabaseError

EMBEDDED_DATABASE = "astrodetect"
LOCK_WITHIN_S = 180  # while other processes start or stop the server

_thread_lock = threading.Lock()  # file locks belong to the process: its threads share one
_users: dict[Path, "_User"] = {}


@dataclass
class _User:
    """The shared lock of this process on one folder, and how many of its threads use the server."""

    lock: InterProcessReaderWriterLock
    count: int = 0


@contextmanager
def embedded_server(folder: Path, database: str) -> Iterator[str]:
    """URL of `database` on the server in `folder`, which runs while any process is inside this context."""
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
    except OSError as error:
        raise DatabaseError(f"cannot use {folder.parent}: {error.strerror}") from error
    with _exclusive(folder):
        _enter(folder)
        try:
            server_process.ensure_running(folder)
        except OSError as error:
            _leave(folder)
            raise DatabaseError(f"cannot use {error.filename or folder}: {error.strerror or error}") from error
        except BaseException:
            _leave(folder)
            raise
    try:
        yield server_process.ServerAddress.of(folder).url(database)
    finally:
        with _exclusive(folder):
            _leave(folder)


def restart_server(folder: Path) -> None:
    """Starts the server that this process uses again, if it has been killed."""
    folder = folder.absolute().resolve()
    with _exclusive(folder):
        if folder in _users:
            server_process.ensure_running(folder)


def psql_path() -> Path:
    """The user's own psql, or else the embedded one."""
    installed = shutil.which("psql")
    return Path(installed) if installed else program_path("psql")


def psql_command(url: str) -> str:
    """Shell command that opens the database at `url` in psql."""
    name = "psql" if shutil.which("psql") else str(psql_path())
    if os.name == "nt":
        return f'"{name}" "{url}"' if " " in name else f'{name} "{url}"'
    return shlex.join([name, url])


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """No other thread or process starts or stops the server meanwhile."""
    path = folder.with_name(f"{folder.name}.lock")
    lock = InterProcessLock(path)
    with _thread_lock:
        try:
            if not lock.acquire(timeout=LOCK_WITHIN_S):
                raise DatabaseError(f"another process has been starting or stopping {folder} for {LOCK_WITHIN_S} s")
        except OSError as error:
            raise DatabaseError(f"cannot use {path}: {error.strerror}") from error
        except threading.ThreadError as error:  # the file system has no locks
            raise DatabaseError(f"cannot lock {path}: {error}") from error
        try:
            yield
        finally:
            lock.release()


def _enter(folder: Path) -> None:
    if folder not in _users:
        path = folder.with_name(f"{folder.name}.users")
        user = _User(InterProcessReaderWriterLock(path))
        try:
            user.lock.acquire_read_lock()
        except OSError as error:
            raise DatabaseError(f"cannot use {path}: {error.strerror}") from error
        _users[folder] = user
    _users[folder].count += 1


def _leave(folder: Path) -> None:
    user = _users[folder]
    user.count -= 1
    if user.count:
        return
    del _users[folder]
    user.lock.release_read_lock()
    if user.lock.acquire_write_lock(blocking=False):  # no other process uses it
        try:
            server_process.stop_server(folder)
        finally:
            user.lock.release_write_lock()
    else:
        user.lock.lockfile.close()
