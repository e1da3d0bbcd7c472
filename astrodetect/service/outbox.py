"""A queue of rows on disk, for while PostgreSQL is down: durable when `append` returns, drained oldest first.

A folder of segments, each a file of lines: a checksum and a row as JSON. Every start begins a new segment, so that
nothing is appended to a line truncated by a crash. A segment is deleted once its rows are drained; after a crash those
of the oldest may be drained again, which their request ids make harmless.
"""

import contextlib
import datetime as dt
import errno
import itertools
import json
import logging
import os
import re
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields
from io import FileIO
from pathlib import Path

import fasteners

from astrodetect import atomic_files
from astrodetect.errors import OutboxFull
from astrodetect.records import ScoredImage

SEGMENT_BYTES = 4_000_000  # at most this much is drained again after a crash
MAX_ROW_BYTES = 5_000  # more than any row needs, unless its name is very long
SUFFIX = ".rows"
ROW_FIELDS = {field.name for field in fields(ScoredImage)}
WRITE_CHECK_FILE = "write-check"
DAMAGED_FILE = "damaged"  # lines with a wrong checksum, or that are no rows
NEWER_FILE = "newer"  # lines with fields that this version does not know
REJECTED_FILE = "rejected"  # rows that PostgreSQL refuses whatever its state
UNREADABLE = ".unreadable"  # the suffix of segments that are set aside
FILE_ERRORS = {errno.EIO, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.EBADMSG}  # not of the process

log = logging.getLogger("uvicorn.error")


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0  # bytes known to be on disk
    rows: int = 0


class Outbox:
    """The queue, for many threads that append and one that drains; each process has a folder of its own."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._keyed: dict[uuid.UUID, ScoredImage] = {}
        self._folder_locks: list[fasteners.InterProcessLock] = []
        try:
            self._parent = folder
            self._folder, paths = _claim_folder(folder, self._folder_locks)
            self._segments = deque(segment for path in paths if (segment := self._recover(path)))
        except BaseException:
            self._release_folder()
            raise
        self._numbers = itertools.count(1 + max(map(_number, paths), default=0))
        self._offset = 0  # into the oldest segment: what lies before it is drained
        self._row_count = sum(segment.rows for segment in self._segments)
        self._file: FileIO | None = None  # of the newest segment, if this process began it
        self.rejected = sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*/{REJECTED_FILE}"))
        self.rejected += len(list(folder.glob(f"*/*{UNREADABLE}")))  # each is of one row or more
        if self._row_count:
            log.warning("%d rows of an earlier run wait for PostgreSQL", len(self))

    def __len__(self) -> int:
        return self._row_count

    @property
    def full(self) -> bool:
        """Whether another row may not fit."""
        with self._lock:
            return self._bytes() + MAX_ROW_BYTES > self._max_bytes

    def check_writes(self) -> OutboxFull | None:
        """Writes as much as a row to the disk; returns the error."""
        path = self._folder / WRITE_CHECK_FILE
        try:
            with path.open("wb") as file:
                file.write(bytes(MAX_ROW_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
        except OSError as error:
            return OutboxFull(f"the outbox cannot be written: {error.strerror}")
        return None

    def append(self, rows: Sequence[ScoredImage]) -> None:
        """Queues all rows, or raises OutboxFull and queues none."""
        data = b"".join(_format_line(row) for row in rows)
        with self._lock:
            if self._bytes() + len(data) > self._max_bytes:
                raise OutboxFull(f"{self._bytes():,} bytes of rows wait for PostgreSQL, the maximum")
            try:
                self._write(data)
            except OSError as error:
                raise OutboxFull(f"the outbox cannot be written: {error.strerror}") from error
            self._segments[-1].size += len(data)
            self._segments[-1].rows += len(rows)
            self._row_count += len(rows)
            self._keyed.update((row.request_id, row) for row in rows if row.has_client_key)

    def drain(self, max_rows: int, write: Callable[[list[ScoredImage]], Collection[ScoredImage] | None]) -> int:
        """Calls `write` with the oldest rows and removes them unless it raises; returns their number.

        Those that it returns are kept aside, for they can never be written.
        """
        with self._lock:
            if not self._segments:
                return 0
            oldest = self._segments[0]
            start, end = self._offset, oldest.size
        rows: list[ScoredImage] = []
        lines: list[bytes] = []
        position = start
        try:
            with oldest.path.open("rb") as file:
                file.seek(start)
                while len(rows) < max_rows and position < end:
                    if row := _parse_line(line := file.readline()):
                        rows.append(row)
                        lines.append(line)
                    position = file.tell() if line else end
        except FileNotFoundError:
            position = end
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise
            if not rows:  # those before the error come first
                self._set_aside_oldest(error)
                return 0
        rejected = {id(row) for row in (write(rows) or ())} if rows else set[int]()
        self._keep_aside(REJECTED_FILE, [line for row, line in zip(rows, lines, strict=True) if id(row) in rejected])
        self.rejected += len(rejected)
        with self._lock:
            self._offset = position
            oldest.rows -= len(rows)
            for row in rows:
                self._keyed.pop(row.request_id, None)
            self._row_count -= len(rows)
            if self._offset >= oldest.size or oldest.rows <= 0:
                self._drop_oldest()
        return len(rows)

    def find(self, request_id: uuid.UUID) -> ScoredImage | None:
        """The queued row with this request id, made from an idempotency key."""
        return self._keyed.get(request_id)

    def adopt(self) -> int:
        """Takes over the rows of processes that have ended, and of files put into a folder; returns their number."""
        with self._lock:
            known = {segment.path for segment in self._segments}
            paths = [path for path in _claim_segments(self._parent, self._folder_locks) if path not in known]
            adopted = [segment for path in paths if (segment := self._recover(path))]
            if not adopted:
                return 0
            self._end_segment()  # rows are appended to the last segment only
            self._segments.extend(adopted)
            rows = sum(segment.rows for segment in adopted)
            self._row_count += rows
        log.warning("%d rows of a process that has ended wait for PostgreSQL", rows)
        return rows

    def close(self) -> None:
        """Releases the folder."""
        with self._lock:
            self._end_segment()
            self._release_folder()

    def _release_folder(self) -> None:
        while self._folder_locks:
            self._folder_locks.pop().release()

    def _bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def _write(self, data: bytes) -> None:
        if self._file is None or self._segments[-1].size >= SEGMENT_BYTES or self._is_changed(self._file):
            self._begin_segment()
        assert self._file is not None  # noqa: S101 - for the type checker
        try:
            _append(self._file, data)
        except OSError:
            self._end_segment()  # its contents beyond what was known are unknown
            raise

    def _is_changed(self, file: FileIO) -> bool:
        """Whether somebody deleted or cut the newest segment, which would lose what is written to it."""
        status = os.fstat(file.fileno())
        return not status.st_nlink or status.st_size != self._segments[-1].size

    def _begin_segment(self) -> None:
        self._end_segment()
        path = self._folder / f"{next(self._numbers):08}{SUFFIX}"
        self._file = path.open("xb", buffering=0)
        self._segments.append(_Segment(path))
        atomic_files.sync_folder(self._folder)

    def _end_segment(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            if not self._segments[-1].size:
                self._segments.pop().path.unlink(missing_ok=True)

    def _drop_oldest(self) -> None:
        if len(self._segments) == 1:
            self._end_segment()
        segment = self._segments.popleft()
        self._offset = 0
        self._row_count -= segment.rows
        if not self._segments:
            self._keyed.clear()  # of rows that are lost, too: a repeated request records them
        if segment.path.is_file() and segment.path.stat().st_size > segment.size:
            return  # somebody was still copying it: `adopt` takes all of it
        if segment.rows:
            log.error("%s: %d rows were damaged or deleted while they waited", segment.path, segment.rows)
            with contextlib.suppress(FileNotFoundError):
                segment.path.rename(segment.path.with_suffix(f".{DAMAGED_FILE}"))
        segment.path.unlink(missing_ok=True)

    def _set_aside_oldest(self, error: OSError) -> None:
        """So that a segment that cannot be read holds up no other."""
        with self._lock:
            segment = self._segments[0]
            segment.path.rename(segment.path.with_suffix(UNREADABLE))
            log.error("%s cannot be read, %d rows or more are kept in it: %s", segment.path, segment.rows, error)
            self.rejected += segment.rows
            self._row_count -= segment.rows
            segment.rows = 0
            self._drop_oldest()

    def _recover(self, path: Path) -> _Segment | None:
        """A segment of an earlier process; its damaged lines are moved to DAMAGED_FILE and reported."""
        segment, unknown = _Segment(path, size=path.stat().st_size), set[str]()
        kept_aside: dict[str, list[bytes]] = {DAMAGED_FILE: [], NEWER_FILE: []}
        try:
            with path.open("rb") as file:
                for line in file:
                    if row := _parse_line(line):
                        segment.rows += 1
                        if row.has_client_key:
                            self._keyed[row.request_id] = row
                        if fields_of_line := _unknown_fields(line):
                            unknown |= fields_of_line
                            kept_aside[NEWER_FILE].append(line)
                    else:
                        kept_aside[DAMAGED_FILE].append(line)
        except OSError as error:
            if error.errno not in FILE_ERRORS:
                raise
            segment.rows += 1  # or more, which `drain` sets aside
            segment.size = max(segment.size, 1)
        for name, lines in kept_aside.items():
            self._keep_aside(name, lines)
        if damaged := kept_aside[DAMAGED_FILE]:
            log.error("%s: %d damaged lines are left out and kept in %s", path, len(damaged), DAMAGED_FILE)
        if newer := kept_aside[NEWER_FILE]:
            names = ", ".join(sorted(unknown))
            log.warning(
                "%s: %d rows of a newer version are recorded without %s, and kept in %s",
                *(path, len(newer), names, NEWER_FILE),
            )
        if not segment.rows:
            path.unlink()
            return None
        return segment

    def _keep_aside(self, name: str, lines: list[bytes]) -> None:
        if lines:
            with (self._folder / name).open("ab", buffering=0) as file:
                _append(file, b"".join(lines))


def _append(file: FileIO, data: bytes) -> None:
    """Writes all of it to the disk, or nothing if that can be undone."""
    size, unwritten = file.tell(), memoryview(data)
    try:
        while unwritten:
            unwritten = unwritten[file.write(unwritten) :]
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), size)
        raise


def _claim_folder(parent: Path, locks: list[fasteners.InterProcessLock]) -> tuple[Path, list[Path]]:
    """The first subfolder that no other process has locked, and the segments in all such; `locks` gets their locks."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in itertools.count():
        folder = parent / str(number)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)  # of an earlier version: rows say what images show
        if _lock(folder, locks):
            return folder, _claim_segments(parent, locks)
    raise AssertionError


def _claim_segments(parent: Path, locks: list[fasteners.InterProcessLock]) -> list[Path]:
    """The segments in subfolders that no other process has locked; `locks` gets the locks of these folders."""
    segments: list[Path] = []
    held = {Path(os.fsdecode(lock.path)).parent for lock in locks}
    for folder in {path.parent for path in parent.glob(f"*/*{SUFFIX}")}:
        if folder in held or _lock(folder, locks):
            segments += folder.glob(f"*{SUFFIX}")
    return sorted(segments, key=_number)


def _lock(folder: Path, locks: list[fasteners.InterProcessLock]) -> bool:
    lock = fasteners.InterProcessLock(folder / "lock")
    if lock.acquire(blocking=False):
        locks.append(lock)
        return True
    lock.lockfile.close()
    return False


def _number(segment: Path) -> int:
    """In the order of segments; 0 of one that someone named without a number."""
    return int(segment.stem) if re.fullmatch("[0-9]+", segment.stem) else 0


def _format_line(row: ScoredImage) -> bytes:
    values = asdict(row)
    if row.vector:  # PostgreSQL stores half precision, which has fewer digits
        values["vector"] = [float(f"{value:.5g}") for value in row.vector]
    text = json.dumps(values, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse_line(line: bytes) -> ScoredImage | None:
    """The row of a complete line; None for a damaged one."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
        return None
    try:
        values = json.loads(text)
        values["request_id"] = uuid.UUID(values["request_id"])
        values["timestamp"] = dt.datetime.fromisoformat(values["timestamp"])
        values["vector"] = tuple(values["vector"]) if values.get("vector") else None
        return ScoredImage(**{name: value for name, value in values.items() if name in ROW_FIELDS})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _unknown_fields(line: bytes) -> set[str]:
    return {*json.loads(line.partition(b" ")[2])} - ROW_FIELDS
