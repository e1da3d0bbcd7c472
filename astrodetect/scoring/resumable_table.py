"""The table of scores: appended row by row to a partial file, and renamed when complete.

`OUTPUT.part` holds the rows; `OUTPUT.run` identifies the run they belong to and is its inter-process lock. In CSV a
path has the bytes that it has on disk, UTF-8 or not; in Parquet, which holds UTF-8 only, other bytes become `\\xff`.
"""

import csv
import io
import json
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fasteners import InterProcessLock

from astrodetect import atomic_files
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType, write_parquet

COLUMNS = ["path", "score", "result", "error", "model", "model_version"]
TEXT_COLUMNS = {"path", "result", "error", "model", "model_version"}
NOVELTY = "novelty"  # column of models with anomaly detectors
IN_DOMAIN = "in_domain"  # column of those whose detectors have a limit for it: true or false
PROBABILITY = "p_"  # prefix of the columns of models with several classes
NOT_UTF8 = sys.getfilesystemencodeerrors()  # Python's error handler for file names, which preserves their bytes
CONVERSIONS: dict[ColumnType, Callable[[str], object]] = {"text": str, "boolean": "true".__eq__, "number": float}
REMEDY = "--restart scores everything again, another --output leaves it alone"


def check_table_path(path: Path, *, restart: bool) -> None:
    """Raises DataError if a table cannot be written there, before any work is done."""
    if path.suffix.lower() not in {".csv", ".parquet"}:
        raise DataError(f"the output {path} ends neither in .csv nor in .parquet")
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent} for the output")
    if path.exists() and not (path.is_file() and (restart or _part(path).exists())):
        raise DataError(f"{path} exists already: {REMEDY}" if path.is_file() else f"{path} is not a file")


class ResumableTable:
    """A table being written, and the counts of its rows; made by `open_table`."""

    def __init__(self, path: Path, columns: Sequence[str], run: uuid.UUID, appended: BinaryIO) -> None:
        self.path, self.run = path, run
        self.rows = self.unreadable = 0
        self.results: Counter[str] = Counter()
        self.columns, self._appended = list(columns), appended

    def resume(self, paths: Iterator[str], batch_size: int) -> None:
        """Advances `paths` past whole batches that have their rows; truncates incomplete batches after them."""
        with _part(self.path).open("rb") as file:
            rows = _read_rows(file, len(self.columns))
            _, end = next(rows, (self.columns, 0))
            while len(batch := list(islice(rows, batch_size))) == batch_size:
                if [row[0] for row, _ in batch] != list(islice(paths, batch_size)):
                    raise DataError(f"images were added or removed since {_part(self.path)} was begun: {REMEDY}")
                self._count(row for row, _ in batch)
                end = batch[-1][1]
        with _write_errors(self.path):
            self._appended.truncate(end)
            if end == 0:
                self._write([self.columns])

    def add(self, rows: list[list[str]]) -> None:
        """Appends rows; they survive the end of this process."""
        with _write_errors(self.path):
            self._write(rows)
        self._count(rows)

    def finish(self) -> None:
        """Moves the complete table to its path atomically."""
        part = complete = _part(self.path)
        with _write_errors(self.path):
            self._appended.close()
            if self.path.suffix.lower() == ".parquet":
                complete = self.path.with_name(f".{self.path.name}.whole")
                with part.open("rb") as file:
                    rows = (row for row, _ in islice(_read_rows(file, len(self.columns)), 1, None))
                    _write_as_parquet(complete, self.columns, rows)
            atomic_files.move(complete, self.path)
            part.unlink(missing_ok=True)
            atomic_files.sync_folder(self.path.parent)

    def _write(self, rows: Iterable[list[str]]) -> None:
        self._appended.write("".join(map(_line, rows)).encode(errors=NOT_UTF8))
        self._appended.flush()

    def _count(self, rows: Iterable[list[str]]) -> None:
        for _, _, result, error, *_ in rows:
            self.rows += 1
            if error:
                self.unreadable += 1
            else:
                self.results[result] += 1


@contextmanager
def open_table(
    path: Path, columns: Sequence[str], settings: Mapping[str, Any], *, restart: bool
) -> Iterator[ResumableTable]:
    """The table of a run with these settings: a new one, or the one of an interrupted run with the same settings."""
    part = _part(path)
    with _locked_notes(path) as notes:
        with _write_errors(path):
            if restart:
                part.unlink(missing_ok=True)
            run = _interrupted_run(notes, settings, part) if part.exists() else _new_run(notes, settings)
            file = part.open("ab")
            atomic_files.sync_folder(path.parent)
        with _write_errors(path), file:
            yield ResumableTable(path, columns, run, file)


def _new_run(notes: TextIO, settings: Mapping[str, Any]) -> uuid.UUID:
    run = uuid.uuid4()
    notes.truncate(0)
    notes.write(json.dumps({"run": str(run), **settings}))
    notes.flush()
    os.fsync(notes.fileno())  # the ids of logged rows derive from the run's, which must survive a power cut
    return run


def _interrupted_run(notes: TextIO, settings: Mapping[str, Any], part: Path) -> uuid.UUID:
    notes.seek(0)
    try:
        stored = json.loads(notes.read())
        run = uuid.UUID(stored["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the run of {part} is unknown: {REMEDY}") from error
    for name, value in json.loads(json.dumps(settings)).items():
        if stored.get(name) != value:
            before, now = _as_text(stored.get(name)), _as_text(value)
            raise DataError(f"{part} is of a run with another {name} ({before}, now {now}): {REMEDY}")
    return run


def _as_text(value: object) -> str:
    return " ".join(value) if isinstance(value, dict) else str(value)


@contextmanager
def _locked_notes(path: Path) -> Iterator[TextIO]:
    """The notes on the run, exclusively locked."""
    notes_path = path.with_name(f"{path.name}.run")
    with _write_errors(path):
        notes = notes_path.open("a+", encoding="ascii")
    lock = InterProcessLock(notes_path)
    lock.lockfile = notes  # closing a second handle of the file would release the lock
    with notes:
        try:
            if not lock.acquire(blocking=False):
                raise DataError(f"another process is writing {path}")
        except threading.ThreadError as error:  # the file system has no locks
            raise DataError(f"cannot lock {notes_path}: {error}") from error
        try:
            yield notes
        finally:
            lock.release()
            if not _part(path).exists():
                notes_path.unlink(missing_ok=True)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Raises OSError as DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _line(row: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(row)  # with CR LF as line end, so that a CR in a name is quoted too
    return text.getvalue().removesuffix("\r\n") + "\n"


def _read_rows(file: BinaryIO, width: int) -> Iterator[tuple[list[str], int]]:
    """Complete rows with the byte offset of their end, up to the first incomplete one."""
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


def _write_as_parquet(path: Path, columns: list[str], rows: Iterable[list[str]]) -> None:
    types: dict[str, ColumnType] = {
        name: "text" if name in TEXT_COLUMNS else "boolean" if name == IN_DOMAIN else "number" for name in columns
    }
    convert = [CONVERSIONS[kind] for kind in types.values()]
    values = (
        [convert_cell(text) if text else None for convert_cell, text in zip(convert, row, strict=True)] for row in rows
    )
    write_parquet(path, types, values)
