"""The table of scores: its parts are collected in a folder, and joined in the order of the chunks when all are there.

`OUTPUT.parts` holds the plan of the run and its parts; `OUTPUT.run` identifies the run and is its inter-process lock.
On an object store there is no lock: runs with the same settings at the same time write the same parts. In CSV a path
has the bytes that it has on disk, UTF-8 or not; in Parquet, which holds UTF-8 only, other bytes become `\\xff`. Runs
that version 0.1 began have their first rows in `OUTPUT.part`, a CSV.
"""

import csv
import json
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeAlias

from fasteners import InterProcessLock

from astrodetect import atomic_files
from astrodetect.csv_cells import csv_line
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.records import SkyObject
from astrodetect.scoring.chunks import MAX_CHUNK_IMAGES, Chunk, cut_chunks, read_plan, write_plan
from astrodetect.scoring.part_files import ScoreRow, column_types, has_positions, list_parts, part_name, part_rows
from astrodetect.sky.catalogue import OWN_POSITIONS, JoinedColumns
from astrodetect.sky.table_writers import CSV, ENDINGS, HATS, check_hats, ending, write_table
from astrodetect.storage import objects

NOT_UTF8 = sys.getfilesystemencodeerrors()  # Python's error handler for file names, which preserves their bytes
CONVERSIONS: dict[ColumnType, Callable[[str], object]] = {"text": str, "boolean": "true".__eq__, "number": float}
REMEDY = "--restart scores everything again, another --output leaves it alone"
PLAN = "plan.jsonl"
NOTES = ".run"  # suffix
LINES_PER_WRITE = 1000

TablePath: TypeAlias = Path | str  # a local file, or a URL on an object store
CHUNK = "chunk"  # note: images of a chunk


def check_table_path(output: TablePath, *, restart: bool) -> None:
    """Raises DataError if a table cannot be written there, before any work is done."""
    if (suffix := ending(str(output))) is None:
        raise DataError(f"the output {output} ends in none of {' '.join(ENDINGS)}")
    if suffix == HATS:
        check_hats(str(output))
    if isinstance(output, str):
        objects.check_writable(output)
        if objects.exists(output) and not (restart or _is_begun(output)):
            raise DataError(f"{output} exists already: {REMEDY}")
        return
    if not output.parent.is_dir():
        raise DataError(f"no folder {output.parent} for the output")
    is_table = output.is_dir() if suffix == HATS else output.is_file()
    if output.exists() and not (is_table and (restart or _is_begun(output))):
        raise DataError(f"{output} exists already: {REMEDY}" if is_table else f"{output} is not a file")


class ResumableTable:
    """A table being written; made by `open_table`."""

    def __init__(
        self, path: TablePath, columns: Sequence[str], run: uuid.UUID, images_per_chunk: int, plan: Path
    ) -> None:
        self.path, self.run, self.columns, self._plan = path, run, list(columns), plan
        self._images_per_chunk = images_per_chunk
        self._done: dict[int, str] = {}  # chunks that have their part: number → id
        self._chunks = self._earlier_rows = 0

    def plan(self, references: Iterator[str], batch_size: int, key: str) -> int:
        """Cuts the references into chunks; returns how many have their rows. `key` identifies what scores them."""
        self._earlier_rows = self._count_earlier_rows(references, batch_size)
        references_done = self._earlier_rows
        with _write_errors(self.path):
            self._done = list_parts(_parts(self.path))

            def checked() -> Iterator[Chunk]:
                nonlocal references_done
                for chunk in cut_chunks(references, self._images_per_chunk, key):
                    if chunk.number in self._done:
                        references_done += len(chunk.references)
                        if self._done[chunk.number] != chunk.id:
                            raise self._images_changed()
                    self._chunks += 1
                    yield chunk

            write_plan(self._plan, checked())
        if any(number >= self._chunks for number in self._done):
            raise self._images_changed()
        return references_done

    def missing_chunks(self) -> Iterator[Chunk]:
        """The chunks without a part."""
        return read_plan(self._plan, str(self.run), self._done)

    def add(self, chunk: Chunk, part: bytes) -> None:
        """Stores the part of a chunk; it survives the end of this process, and a power cut."""
        with _write_errors(self.path):
            objects.write_bytes(f"{_parts(self.path)}/{part_name(chunk.number, chunk.id)}", part)
        self._done[chunk.number] = chunk.id

    def finish(self, observe: Callable[[ScoreRow], object], joined: JoinedColumns | None = None) -> None:
        """Joins the parts into the table, atomically, with the columns of a catalogue; `observe` gets each row."""
        typed = ending(str(self.path)) != CSV
        if joined is None and any(map(has_positions, self._part_files())):
            joined = OWN_POSITIONS
        columns, width = column_types(self.columns) | dict(joined.columns if joined else {}), len(self.columns)

        def rows() -> Iterator[ScoreRow]:
            for cells in self._rows():
                row, own = cells[:width], SkyObject(*cells[width:])
                observe(row)
                yield [*row, *joined.cells(row[0], own, typed=typed)] if joined else row

        with _write_errors(self.path):
            if typed:
                write_table(str(self.path), columns, rows(), "Scores")
            else:
                with objects.open_writer(str(self.path)) as file:
                    lines = map(_line, chain([[*columns]], rows()))
                    while block := b"".join(islice(lines, LINES_PER_WRITE)):
                        file.write(block)
            _discard_parts(self.path)
            if isinstance(self.path, Path):
                atomic_files.sync_folder(self.path.parent)

    def _rows(self) -> Iterator[ScoreRow]:
        yield from islice(_read_earlier(self.path, self.columns), self._earlier_rows)
        for part in self._part_files():
            try:
                yield from part_rows(part)
            except ValueError as error:  # of which pyarrow's errors are
                raise DataError(f"{part} is damaged: delete it, and run the same command again") from error

    def _part_files(self) -> Iterator[str]:
        for number, chunk_id in sorted(self._done.items()):
            yield f"{_parts(self.path)}/{part_name(number, chunk_id)}"

    def _count_earlier_rows(self, references: Iterator[str], batch_size: int) -> int:
        """The rows of whole batches in OUTPUT.part; advances `references` past them."""
        rows, count = _read_earlier(self.path, self.columns), 0
        while len(paths := [row[0] for row in islice(rows, batch_size)]) == batch_size:
            if paths != list(islice(references, batch_size)):
                raise self._images_changed()
            count += batch_size
        return count

    def _images_changed(self) -> DataError:
        return DataError(f"images were added or removed since {self.path} was begun: {REMEDY}")


@contextmanager
def open_table(
    path: TablePath, columns: Sequence[str], settings: Mapping[str, Any], *, images_per_chunk: int, restart: bool
) -> Iterator[ResumableTable]:
    """The table of a run with these settings: a new one, or the one of an interrupted run with the same settings.

    `images_per_chunk` is that of a new run.
    """
    if isinstance(path, str):
        check_table_path(path, restart=restart)
        if restart:
            _discard_parts(path)
        run, images_per_chunk = _begin_or_resume(path, settings, images_per_chunk)
        with tempfile.TemporaryDirectory() as folder:
            yield ResumableTable(path, columns, run, images_per_chunk, Path(folder, PLAN))
        return
    with _locked_notes(path) as notes:
        check_table_path(path, restart=restart)  # again: another process may have finished it before it was locked
        with _write_errors(path):
            if restart:
                _discard_parts(path)
            if _is_begun(path):
                notes.seek(0)
                run, images_per_chunk = _interrupted_run(path, notes.read(), settings)
            else:
                run = _new_run(notes, settings, images_per_chunk)
            Path(_parts(path)).mkdir(exist_ok=True)
            atomic_files.sync_folder(path.parent)
        yield ResumableTable(path, columns, run, images_per_chunk, Path(_parts(path), PLAN))


def _begin_or_resume(path: str, settings: Mapping[str, Any], images_per_chunk: int) -> tuple[uuid.UUID, int]:
    """The run on an object store, whose notes are written once."""
    run = uuid.uuid4()
    notes = json.dumps({"run": str(run), CHUNK: images_per_chunk, **settings}).encode()
    if objects.write_bytes(f"{path}{NOTES}", notes, if_absent=True):
        _delete_parts(path)  # that an earlier run stored after another one had finished its table
        return run, images_per_chunk
    return _interrupted_run(path, objects.read_bytes(f"{path}{NOTES}").decode(), settings)


def _new_run(notes: TextIO, settings: Mapping[str, Any], images_per_chunk: int) -> uuid.UUID:
    run = uuid.uuid4()
    notes.truncate(0)
    notes.write(json.dumps({"run": str(run), CHUNK: images_per_chunk, **settings}))
    notes.flush()
    os.fsync(notes.fileno())  # the ids of logged rows derive from the run's, which must survive a power cut
    return run


def _interrupted_run(path: TablePath, notes: str, settings: Mapping[str, Any]) -> tuple[uuid.UUID, int]:
    try:
        stored = json.loads(notes)
        run, images_per_chunk = uuid.UUID(stored["run"]), int(stored.get(CHUNK, MAX_CHUNK_IMAGES))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the run that began {path} is unknown: {REMEDY}") from error
    for name, value in json.loads(json.dumps(settings)).items():
        if stored.get(name) != value:
            before, now = _as_text(stored.get(name)), _as_text(value)
            raise DataError(f"{path} was begun by a run with another {name} ({before}, now {now}): {REMEDY}")
    return run, images_per_chunk


def _as_text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, dict) else str(value)


@contextmanager
def _locked_notes(path: Path) -> Iterator[TextIO]:
    """The notes on the run, exclusively locked."""
    notes_path = path.with_name(f"{path.name}{NOTES}")
    with _write_errors(path):
        notes = notes_path.open("a+", encoding="ascii")
    lock = InterProcessLock(notes_path)
    lock.lockfile = notes  # closing a second handle of the file would release the lock
    with notes:
        try:
            if not lock.acquire(blocking=False) or not _is_in_place(notes, notes_path):
                raise DataError(f"another process is writing {path}")
        except threading.ThreadError as error:  # the file system has no locks
            raise DataError(f"cannot lock {notes_path}: {error}") from error
        try:
            yield notes
        finally:
            if not _is_begun(path):
                notes_path.unlink(missing_ok=True)
            lock.release()


def _is_in_place(notes: TextIO, path: Path) -> bool:
    """Whether the file that is locked is still the one of that name: who finishes a table removes it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(notes.fileno()))
    return False


@contextmanager
def _write_errors(path: TablePath) -> Iterator[None]:
    """Raises OSError as DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _parts(path: TablePath) -> str:
    return f"{path}.parts"


def _earlier(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _is_begun(path: TablePath) -> bool:
    if isinstance(path, str):
        return objects.exists(f"{path}{NOTES}")
    return Path(_parts(path)).exists() or _earlier(path).exists()


def _delete_parts(path: str) -> None:
    for name in objects.list_names(_parts(path)):
        objects.delete(f"{_parts(path)}/{name}")


def _discard_parts(path: TablePath) -> None:
    """Deletes them; local ones are renamed before, so that there are never some of them."""
    if isinstance(path, str):
        _delete_parts(path)
        objects.delete(f"{path}{NOTES}")
        return
    discarded = atomic_files.hidden_path(path, ".discarded")
    shutil.rmtree(discarded, ignore_errors=True)  # of a process that was killed here
    if Path(_parts(path)).exists():
        atomic_files.move_folder(Path(_parts(path)), discarded)
        shutil.rmtree(discarded, ignore_errors=True)
    _earlier(path).unlink(missing_ok=True)


def _line(row: Sequence[object]) -> bytes:
    """A row as a line of CSV."""
    cells = ["" if value is None else str(value).lower() if isinstance(value, bool) else value for value in row]
    return csv_line(cells).encode(errors=NOT_UTF8)


def _read_earlier(path: TablePath, columns: Sequence[str]) -> Iterator[ScoreRow]:
    """The rows of OUTPUT.part, up to the first incomplete one."""
    if isinstance(path, str):
        return
    convert = [CONVERSIONS[kind] for kind in column_types(columns).values()]
    with suppress(FileNotFoundError), _earlier(path).open("rb") as file:
        for cells in islice(read_rows(file, len(columns)), 1, None):
            yield [convert_cell(text) if text else None for convert_cell, text in zip(convert, cells, strict=True)]


def read_rows(file: BinaryIO, width: int) -> Iterator[list[str]]:
    """The rows of a CSV, with the header, up to the first incomplete one."""

    def lines() -> Iterator[str]:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line.decode(errors=NOT_UTF8)

    with suppress(csv.Error):
        for row in csv.reader(lines(), strict=True):
            if len(row) != width:
                return
            yield row
