"""Who uses a folder: its first user starts what runs there, its last one stops it, however the others ended."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fasteners import InterProcessLock, InterProcessReaderWriterLock

from astrodetect.errors import DatabaseError

TURN_WITHIN_S = 180  # while others start or stop it

_threads = threading.Lock()  # file locks belong to the process: its threads take turns and share one lock
_uses: dict[Path, "_Use"] = {}


@dataclass
class _Use:
    """This process is a user: a shared lock on a file, which the system releases however the process ends."""

    lock: InterProcessReaderWriterLock
    times: int = 0


@contextmanager
def shared(folder: Path, *, start: Callable[[Path], None], stop: Callable[[Path], None]) -> Iterator[None]:
    """In here what `start` started keeps running; it is called on every entry, and never beside another or `stop`."""
    with _turn(folder):
        _enter(folder)
        try:
            start(folder)
        except OSError as error:
            _leave(folder, stop)
            raise DatabaseError(f"cannot use {error.filename or folder}: {error.strerror or error}") from error
        except BaseException:
            _leave(folder, stop)
            raise
    try:
        yield
    finally:
        with _turn(folder):
            _leave(folder, stop)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    path = folder.with_name(f"{folder.name}.lock")
    lock = InterProcessLock(path)
    with _threads:
        try:
            if not lock.acquire(timeout=TURN_WITHIN_S):
                raise DatabaseError(f"another process has been starting or stopping {folder} for {TURN_WITHIN_S} s")
        except OSError as error:
            raise DatabaseError(f"cannot use {path}: {error.strerror}") from error
        except threading.ThreadError as error:  # the file system has no locks
            raise DatabaseError(f"cannot lock {path}: {error}") from error
        try:
            yield
        finally:
            lock.release()


def _enter(folder: Path) -> None:
    if folder not in _uses:
        path = folder.with_name(f"{folder.name}.users")
        use = _Use(InterProcessReaderWriterLock(path))
        try:
            use.lock.acquire_read_lock()
        except OSError as error:
            raise DatabaseError(f"cannot use {path}: {error.strerror}") from error
        _uses[folder] = use
    _uses[folder].times += 1


def _leave(folder: Path, stop: Callable[[Path], None]) -> None:
    use = _uses[folder]
    use.times -= 1
    if use.times:
        return
    del _uses[folder]
    use.lock.release_read_lock()
    if use.lock.acquire_write_lock(blocking=False):  # no other process uses it
        try:
            stop(folder)
        finally:
            use.lock.release_write_lock()
    else:
        use.lock.lockfile.close()
