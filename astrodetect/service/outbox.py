"""Rows kept on disk while PostgreSQL is away: durable when `append` returns, handed over oldest first.

A folder of segments, each a file of lines: a checksum and a row as JSON. Every start begins a new segment, so a line
that a crash tore is never written on. A segment is deleted once its rows are handed over; after a crash those of the
oldest may be handed over again, which their request ids make harmless.
"""

import contextlib
import datetime as dt
import itertools
import json
import logging
import os
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import fasteners

from astrodetect import atomic_files
from astrodetect.errors import OutboxFull
from astrodetect.records import ScoredImage

SEGMENT_BYTES = 4_000_000  # handed over again after a crash at most
ROOM_BYTES = 3_000  # more than any row needs, but for names of novel length
SUFFIX = ".rows"
DAMAGED = "damaged"  # lines whose checksum is wrong are kept in a file of this name

log = logging.getLogger("uvicorn.error")


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0  # bytes that are known to be on the disk
    rows: int = 0


class Outbox:
    """A queue of rows on disk, for many threads that append and one that drains; no other process shares its folder."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._guard = threading.Lock()
        self._keyed: dict[uuid.UUID, ScoredImage] = {}
        self._folder, self._locks, paths = _claim(folder)
        self._segments = deque(segment for path in paths if (segment := self._recovered(path)))
        self._numbers = itertools.count(1 + max((int(path.stem) for path in paths), default=0))
        self._offset = 0  # into the oldest segment: what lies before it is handed over
        self._rows = sum(segment.rows for segment in self._segments)
        self._file: FileIO | None = None  # of the newest segment, where this process made it
        if self._rows:
            log.warning("%d rows of an earlier run wait for PostgreSQL", len(self))

    def __len__(self) -> int:
        return self._rows

    @property
    def full(self) -> bool:
        """Whether a row may find no room."""
        with self._guard:
            return self._held() + ROOM_BYTES > self._max_bytes

    def append(self, rows: Sequence[ScoredImage]) -> None:
        """Keeps them all; or raises OutboxFull and keeps none."""
        data = b"".join(_line(row) for row in rows)
        with self._guard:
            if self._held() + len(data) > self._max_bytes:
                raise OutboxFull(f"{self._held():,} bytes of rows wait for PostgreSQL: no more are kept")
            try:
                self._write(data)
            except OSError as error:
                raise OutboxFull(f"no row can be kept on disk: {error.strerror}") from error
            self._segments[-1].size += len(data)
            self._rows += len(rows)
            self._keyed.update((row.request_id, row) for row in rows if row.has_client_key)

    def hand_over(self, most: int, take: Callable[[list[ScoredImage]], object]) -> int:
        """Gives the oldest to `take`, and forgets them unless it raises; how many there were, 0 when there are none."""
        with self._guard:
            if not self._segments:
                return 0
            oldest = self._segments[0]
            begin, end = self._offset, oldest.size
        rows: list[ScoredImage] = []
        with oldest.path.open("rb") as file:
            file.seek(begin)
            while len(rows) < most and file.tell() < end:
                if row := _row(file.readline()):
                    rows.append(row)
            reached = file.tell()
        if rows:
            take(rows)
        with self._guard:
            self._offset = reached
            for row in rows:
                self._keyed.pop(row.request_id, None)
            if self._offset >= oldest.size:
                self._drop_oldest()
            self._rows -= len(rows)
        return len(rows)

    def find(self, request_id: uuid.UUID) -> ScoredImage | None:
        """The row that waits here under a caller's key."""
        return self._keyed.get(request_id)

    def close(self) -> None:
        """Lets another process have the folder."""
        with self._guard:
            self._end_segment()
            while self._locks:
                self._locks.pop().release()

    def _held(self) -> int:
        return sum(segment.size for segment in self._segments)

    def _write(self, data: bytes) -> None:
        if self._file is None or self._segments[-1].size >= SEGMENT_BYTES:
            self._begin_segment()
        assert self._file is not None  # noqa: S101 - for the type checker
        try:
            unwritten = memoryview(data)
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._segments[-1].size)
            self._end_segment()  # what the disk holds beyond that is not known: the next rows go to a new one
            raise

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
        self._segments.popleft().path.unlink(missing_ok=True)
        self._offset = 0

    def _recovered(self, path: Path) -> _Segment | None:
        """What an earlier process left; what cannot be read of it is kept aside and told of."""
        segment, damaged = _Segment(path, size=path.stat().st_size), []
        with path.open("rb") as file:
            for line in file:
                if row := _row(line):
                    segment.rows += 1
                    if row.has_client_key:
                        self._keyed[row.request_id] = row
                else:
                    damaged.append(line)
        if damaged:
            log.error("%s: %d lines were torn by a crash and are left out", path, len(damaged))
            with (self._folder / DAMAGED).open("ab") as file:
                file.writelines(damaged)
        if not segment.rows:
            path.unlink()
            return None
        return segment


def _claim(folder: Path) -> tuple[Path, list[fasteners.InterProcessLock], list[Path]]:
    """The first place that no other process has, its lock, and what earlier processes left in every such place."""
    mine: Path | None = None
    locks: list[fasteners.InterProcessLock] = []
    found: list[Path] = []
    for number in itertools.count():
        place = folder / str(number)
        if mine and not place.exists():
            return mine, locks, sorted(found, key=lambda path: int(path.stem))
        place.mkdir(parents=True, exist_ok=True)
        lock = fasteners.InterProcessLock(place / "lock")
        if lock.acquire(blocking=False):
            mine = mine or place
            locks.append(lock)
            found += place.glob(f"*{SUFFIX}")
        else:
            lock.lockfile.close()
    raise AssertionError


def _line(row: ScoredImage) -> bytes:
    fields = asdict(row)
    if row.vector:  # half precision, in which the log keeps it, has fewer digits
        fields["vector"] = [float(f"{value:.5g}") for value in row.vector]
    text = json.dumps(fields, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _row(line: bytes) -> ScoredImage | None:
    """The row in a whole line; None for any other."""
    checksum, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
        return None
    fields = json.loads(text)
    fields["request_id"] = uuid.UUID(fields["request_id"])
    fields["timestamp"] = dt.datetime.fromisoformat(fields["timestamp"])
    fields["vector"] = tuple(fields["vector"]) if fields.get("vector") else None
    return ScoredImage(**fields)
