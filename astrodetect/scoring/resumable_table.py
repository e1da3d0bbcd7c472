"""The table of scores: it grows beside its place, row by row, and comes to its place whole.

`OUTPUT.part` holds the rows; `OUTPUT.run` says which run they are of, and keeps other processes out. A path stands in
CSV as the bytes that it has on the disk, UTF-8 or not; in Parquet, which holds UTF-8 alone, other bytes read `\\xff`.
"""

import csv
import io
import json
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fasteners import InterProcessLock

from astrodetect import atomic_files
from astrodetect.errors import DataError
from astrodetect.scoring import parquet

COLUMNS = ["path", "score", "result", "error", "model", "model_version"]
NOVELTY = "novelty"  # a column more where the model carries detectors of the unusual
PROBABILITY = "p_"  # with a class's name: a column more for each of several
NOT_UTF8 = sys.getfilesystemencodeerrors()  # how Python keeps such bytes of a name, and writes them as they were
INSTEAD = "--restart scores everything again, another --output leaves it alone"


def check(place: Path, *, restart: bool) -> None:
    """Whether a table can come to this place, before any work is done for it."""
    if place.suffix.lower() not in {".csv", ".parquet"}:
        raise DataError(f"the output {place} ends neither in .csv nor in .parquet")
    if not place.parent.is_dir():
        raise DataError(f"no folder {place.parent} for the output")
    if place.exists() and not (place.is_file() and (restart or _part(place).exists())):
        raise DataError(f"{place} is there already: {INSTEAD}" if place.is_file() else f"{place} is no file")


class ResumableTable:
    """The table on its way, and what is in it so far; `opened` makes it."""

    def __init__(self, place: Path, columns: Sequence[str], run: uuid.UUID, appended: BinaryIO) -> None:
        self.place, self.run = place, run
        self.rows = self.bad = 0
        self.results: Counter[str] = Counter()
        self.columns, self._appended = list(columns), appended

    def resume(self, paths: Iterator[str], batch: int) -> None:
        """Takes from `paths` those that have their rows, in whole batches; drops what a cut left after them."""
        with _part(self.place).open("rb") as file:
            rows = _rows(file, len(self.columns))
            _, end = next(rows, (self.columns, 0))
            while len(found := list(islice(rows, batch))) == batch:
                if [row[0] for row, _ in found] != list(islice(paths, batch)):
                    raise DataError(f"images have come or gone since {_part(self.place)} was begun: {INSTEAD}")
                self._count(row for row, _ in found)
                end = found[-1][1]
        with _writing(self.place):
            self._appended.truncate(end)
            if end == 0:
                self._write([self.columns])

    def add(self, rows: list[list[str]]) -> None:
        """Appends rows, which outlive this process from here on."""
        with _writing(self.place):
            self._write(rows)
        self._count(rows)

    def finish(self) -> None:
        """Brings the table to its place, in one stroke."""
        part = whole = _part(self.place)
        with _writing(self.place):
            self._appended.close()
            if self.place.suffix.lower() == ".parquet":
                whole = self.place.with_name(f".{self.place.name}.whole")
                with part.open("rb") as file:
                    rows = (row for row, _ in islice(_rows(file, len(self.columns)), 1, None))
                    parquet.write(whole, self.columns, rows)
            atomic_files.move(whole, self.place)
            part.unlink(missing_ok=True)
            atomic_files.sync_folder(self.place.parent)

    def _write(self, rows: Iterable[list[str]]) -> None:
        self._appended.write("".join(map(_line, rows)).encode(errors=NOT_UTF8))
        self._appended.flush()

    def _count(self, rows: Iterable[list[str]]) -> None:
        for _, _, result, error, *_ in rows:
            self.rows += 1
            if error:
                self.bad += 1
            else:
                self.results[result] += 1


@contextmanager
def opened(place: Path, columns: Sequence[str], about: Mapping[str, Any], *, restart: bool) -> Iterator[ResumableTable]:
    """The table of the run that `about` tells of: a new one, or the one that was cut short."""
    part = _part(place)
    with _alone(place) as notes:
        with _writing(place):
            if restart:
                part.unlink(missing_ok=True)
            run = _run_before(notes, about, part) if part.exists() else _new_run(notes, about)
            file = part.open("ab")
            atomic_files.sync_folder(place.parent)
        with _writing(place), file:
            yield ResumableTable(place, columns, run, file)


def _new_run(notes: TextIO, about: Mapping[str, Any]) -> uuid.UUID:
    run = uuid.uuid4()
    notes.truncate(0)
    notes.write(json.dumps({"run": str(run), **about}))
    notes.flush()
    os.fsync(notes.fileno())  # the rows that are logged go by this name, also after a power cut
    return run


def _run_before(notes: TextIO, about: Mapping[str, Any], part: Path) -> uuid.UUID:
    notes.seek(0)
    try:
        before = json.loads(notes.read())
        run = uuid.UUID(before["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"nothing tells which run {part} is of: {INSTEAD}") from error
    for name, now in json.loads(json.dumps(about)).items():
        if before.get(name) != now:
            was = before.get(name)
            raise DataError(f"{part} is of a run with another {name} ({_said(was)}, now {_said(now)}): {INSTEAD}")
    return run


def _said(value: object) -> str:
    return " ".join(value) if isinstance(value, dict) else str(value)


@contextmanager
def _alone(place: Path) -> Iterator[TextIO]:
    """The notes on the run, which no other process can open like this meanwhile."""
    path = place.with_name(f"{place.name}.run")
    with _writing(place):
        notes = path.open("a+", encoding="ascii")
    lock = InterProcessLock(path)
    lock.lockfile = notes  # a handle of its own could not be read, and closing a second one would end the lock
    with notes:
        try:
            if not lock.acquire(blocking=False):
                raise DataError(f"another process is writing {place}")
        except threading.ThreadError as error:  # the file system has no locks
            raise DataError(f"cannot lock {path}: {error}") from error
        try:
            yield notes
        finally:
            lock.release()
            if not _part(place).exists():
                path.unlink(missing_ok=True)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror or error}") from error


def _part(place: Path) -> Path:
    return place.with_name(f"{place.name}.part")


def _line(row: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(row)  # ends in CR LF, so that it quotes a CR in a name as well
    return text.getvalue().removesuffix("\r\n") + "\n"


def _rows(file: BinaryIO, width: int) -> Iterator[tuple[list[str], int]]:
    """The rows with the place where each ends, up to the first that is not whole."""
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield line.decode(errors=NOT_UTF8)

    with suppress(csv.Error):
        for row in csv.reader(lines(), strict=True):
            if len(row) != width:
                return
            yield row, end
