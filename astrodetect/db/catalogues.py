"""The tables of catalogues: imported as a whole, and compared with the positions of all predictions.

Positions travel in PostgreSQL's binary COPY format, whose rows are of one length: NumPy reads a million in a moment.
"""

import csv
import datetime as dt
import io
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from astrodetect.db.connections import Connection, Parameters, Row, open_session
from astrodetect.db.statements import storable_text
from astrodetect.errors import DatabaseError
from astrodetect.sky.crossmatch import NearestObjects
from astrodetect.sky.healpix import Cells, Degrees, cells_of
from astrodetect.sky.known_objects import KnownObjects

CatalogueKind = Literal["imported", "collected", "online"]
Part: TypeAlias = tuple[Cells, Degrees, Degrees]  # identifiers, RA, Dec

ROWS_PER_COPY = 20_000
ROWS_PER_PART = 1_000_000  # objects that are compared at a time
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"


def _row_type(*columns: tuple[str, str]) -> np.dtype[np.void]:
    """Of a row: its number of fields, then the length and the value of each."""
    fields = [(name + part, kind) for name, value in columns for part, kind in ((LENGTH, ">i4"), ("", value))]
    return np.dtype([("fields", ">i2"), *fields])


LENGTH = "_bytes"
POSITION_ROW = _row_type(("id", ">i8"), ("ra", ">f8"), ("dec", ">f8"))
MATCH_ROW = _row_type(("id", ">i8"), ("object", ">i8"), ("arcsec", ">f8"))


@dataclass(frozen=True, slots=True)
class StoredCatalogue:
    """A row of the table `catalogues`."""

    name: str
    kind: CatalogueKind
    source: str
    objects: int
    timestamp: dt.datetime


class CatalogueTables:
    """The catalogues of a database, on connections of their own, for statements that take long."""

    def __init__(self, url: str, sql: Mapping[str, str]) -> None:
        self._url, self._sql = url, sql

    def replace(
        self,
        name: str,
        kind: CatalogueKind,
        source: str,
        objects: KnownObjects,
        step: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Store a catalogue in place of the one with this name, in one transaction; `step` counts the rows."""
        with self._transaction() as connection:
            values = {"name": storable_text(name), "kind": kind, "source": storable_text(source)}
            _execute(connection, self._sql["begin_catalogue"], values)
            _execute(connection, self._sql["delete_objects"], values)
            self._copy(connection, values["name"], objects, step)
            _execute(connection, self._sql["end_catalogue"], values)
        with open_session(self._url) as connection:
            _execute(connection, "ANALYZE catalogue_objects", {})

    def missing_lookups(self, name: str, cells: Cells, radius_arcsec: float, days: int) -> NDArray[np.bool_]:
        """Which of these cells an online catalogue was not asked about yet, or too long ago."""
        values = {"name": name, "radius": radius_arcsec, "days": days}
        with open_session(self._url) as connection:
            rows = _execute(connection, self._sql["known_lookups"], values)
        return ~np.isin(cells, np.array([row["healpix"] for row in rows], np.int64))

    def save_answer(self, name: str, source: str, objects: KnownObjects, cells: Cells, radius_arcsec: float) -> None:
        """Add what an online catalogue answered about these cells, in one transaction."""
        placed = objects.placed
        occupied = cells_of(objects.ra[placed], objects.dec[placed]).tolist()
        values = {"name": storable_text(name), "kind": "online", "source": storable_text(source)}
        lookups = {"name": name, "cells": cells.tolist(), "radius": radius_arcsec}
        with self._transaction() as connection:
            _execute(connection, self._sql["begin_catalogue"], values)
            _execute(connection, self._sql["delete_objects_in_cells"], {"name": name, "cells": occupied})
            self._copy(connection, name, objects)
            _execute(connection, self._sql["save_lookups"], lookups)
            _execute(connection, self._sql["end_catalogue"], values)

    def list_catalogues(self) -> list[StoredCatalogue]:
        """All of them, by name."""
        with open_session(self._url) as connection:
            return [StoredCatalogue(**row) for row in _execute(connection, self._sql["list_catalogues"], {})]

    def remove(self, name: str) -> int:
        """Remove a catalogue and the matches with it; returns the number of its objects."""
        with self._transaction() as connection:
            rows = _execute(connection, self._sql["remove_catalogue"], {"name": name})
        if not rows:
            raise DatabaseError(f"there is no catalogue {name}: see crossmatch list")
        return int(rows[0]["objects"])

    def prediction_positions(self) -> Part:
        """The ids and positions of all predictions that have one."""
        with self._transaction() as connection:
            return self._all_positions(connection)

    def match_predictions(self, radius_arcsec: float) -> NearestObjects:
        """Compare the positions of all predictions with all known objects, and store the nearest of each."""
        with self._transaction() as connection:
            _execute(connection, self._sql["begin_comparison"], {})
            ids, ra, dec = self._all_positions(connection)
            nearest = NearestObjects(ra, dec, radius_arcsec)
            nearest.add_all(self._positions(connection, "copy_object_positions"))
            _execute(connection, self._sql["new_matches"], {})
            with connection.cursor() as cursor:
                cursor.copy_expert(self._sql["copy_matches"], _match_file(ids, nearest))
            _execute(connection, "ANALYZE new_matches", {})
            _execute(connection, self._sql["save_matches"], {})
            _execute(connection, self._sql["delete_other_matches"], {})
        return nearest

    def match_positions(self, ra: Degrees, dec: Degrees, radius_arcsec: float) -> tuple[NearestObjects, dict[int, Row]]:
        """Compare these positions with all known objects; the objects that are nearest, by their identifiers."""
        nearest = NearestObjects(ra, dec, radius_arcsec)
        with self._transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
            nearest.add_all(self._positions(connection, "copy_object_positions"))
            ids = np.unique(nearest.ids).tolist()
            rows = _execute(connection, self._sql["objects_by_ids"], {"ids": ids})
        return nearest, {row["id"]: row for row in rows}

    def _all_positions(self, connection: Connection) -> Part:
        parts = [_no_positions(), *self._positions(connection, "copy_prediction_positions")]
        ids, ra, dec = (np.concatenate(values) for values in zip(*parts, strict=True))
        return ids, ra, dec

    def _copy(
        self,
        connection: Connection,
        name: str,
        objects: KnownObjects,
        step: Callable[[int], object] = lambda _: None,
    ) -> None:
        rows = _object_rows(name, objects)
        while batch := list(islice(rows, ROWS_PER_COPY)):
            text = io.StringIO()
            csv.writer(text).writerows(batch)
            text.seek(0)
            with connection.cursor() as cursor:
                cursor.copy_expert(self._sql["copy_objects"], text)
            step(len(batch))

    def _positions(self, connection: Connection, statement: str) -> Iterator[Part]:
        """The rows of a binary COPY of identifier, RA and Dec, in parts."""
        with tempfile.TemporaryFile() as file:
            with connection.cursor() as cursor:
                cursor.copy_expert(self._sql[statement], file)
            length = file.tell() - len(COPY_HEAD) - len(COPY_END)
            file.seek(len(COPY_HEAD))
            yield from _read_parts(file, length // POSITION_ROW.itemsize)

    @contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[Connection]:
        """Nothing is stored unless the block succeeds."""
        with open_session(self._url) as connection:
            _execute(connection, begin, {})
            yield connection
            _execute(connection, "COMMIT", {})


def _read_parts(file: IO[bytes], rows: int) -> Iterator[Part]:
    for begin in range(0, rows, ROWS_PER_PART):
        data = file.read(min(ROWS_PER_PART, rows - begin) * POSITION_ROW.itemsize)
        part = np.frombuffer(data, POSITION_ROW)
        yield part["id"].astype(np.int64), part["ra"].astype(np.float64), part["dec"].astype(np.float64)


def _no_positions() -> Part:
    return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)


def _match_file(ids: Cells, nearest: NearestObjects) -> io.BytesIO:
    """Rows of prediction, object and separation for COPY."""
    rows = np.zeros(len(ids), MATCH_ROW)
    rows["fields"] = 3
    for name in ("id", "object", "arcsec"):
        rows[name + LENGTH] = 8
    rows["id"], rows["object"], rows["arcsec"] = ids, nearest.ids, nearest.arcsec
    return io.BytesIO(COPY_HEAD + rows.tobytes() + COPY_END)


def _object_rows(catalogue: str, objects: KnownObjects) -> Iterator[list[object]]:
    """The cells of each row; an empty one is NULL."""
    placed = objects.placed
    cells: NDArray[np.int64] = np.zeros(len(objects), np.int64)
    cells[placed] = cells_of(objects.ra[placed], objects.dec[placed])
    texts = objects.texts
    first = zip(texts["object_id"], texts["name"], texts["type"], strict=True)
    places = zip(placed.tolist(), objects.ra.tolist(), objects.dec.tolist(), cells.tolist(), strict=True)
    last = zip(texts["image_sha256"], texts["url"], texts["terms"], strict=True)
    others = _json_objects(objects.others, len(objects))
    for names, (known, *place), references, more, other in zip(
        first, places, objects.references, last, others, strict=True
    ):
        position = place if known else (None, None, None)
        stored = [None if text is None else storable_text(text) for text in (*names, *more)]
        yield [catalogue, *stored[: len(names)], *position, references, *stored[len(names) :], other]


def _json_objects(columns: Mapping[str, Sequence[Any]], rows: int) -> Iterator[str | None]:
    """A JSON object of the values of each row; None where it has none."""
    names = [storable_text(name) for name in columns]
    for row in zip(*columns.values(), strict=True) if columns else ((),) * rows:
        values = {name: _json_value(value) for name, value in zip(names, row, strict=True)}
        present = {name: value for name, value in values.items() if value not in {None, ""}}
        yield json.dumps(present, ensure_ascii=False) if present else None


def _json_value(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _execute(connection: Connection, statement: str, parameters: Parameters) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()] if names else []
