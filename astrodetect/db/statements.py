"""SQL: statements read from files, and the columns of the tables with their values for a record to insert.

The columns of `predictions` are the fields of records.Prediction; the values of a new row are the fields and
properties of records.ScoredImage with the same names.
"""

import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from astrodetect.labels import Label
from astrodetect.records import (
    BIGINT_MAX,
    DIMENSIONS,
    Cone,
    HeatMap,
    Prediction,
    PredictionFilters,
    ScoredImage,
    Thumbnail,
)
from astrodetect.sky.healpix import cell_index, cover_cone
from astrodetect.sky.known_objects import KNOWN_COLUMNS

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
HALF_MAX = 65_504.0  # largest finite half-precision number


@overload
def storable_text(text: str) -> str: ...
@overload
def storable_text(text: None) -> None: ...
def storable_text(text: str | None) -> str | None:
    """Text with NUL and lone surrogates replaced by U+FFFD."""
    return None if text is None else UNSTORABLE.sub("\ufffd", text)


def storable_time(time: dt.datetime | None) -> dt.datetime | None:
    """A time in UTC, clipped to the range of datetime: PostgreSQL accepts fewer time zones than Python."""
    if time is None or time.tzinfo is None:
        return time
    try:
        return time.astimezone(dt.UTC)
    except OverflowError:
        return (dt.datetime.max if time.year > dt.MINYEAR else dt.datetime.min).replace(tzinfo=dt.UTC)


def to_halfvec(vector: Sequence[float] | None, dimensions: int) -> str | None:
    """A vector in pgvector's text format, padded with zeros; None if it is too long or not finite."""
    if vector is None or len(vector) > dimensions or not all(map(math.isfinite, vector)):
        return None
    if vector and not -HALF_MAX <= min(vector) <= max(vector) <= HALF_MAX:
        vector = [max(-HALF_MAX, min(value, HALF_MAX)) for value in vector]
    # One format of all values: one for each takes four times as long, a tenth of what recording an image takes.
    return _halfvec_format(len(vector), dimensions) % tuple(vector)


@cache
def _halfvec_format(values: int, dimensions: int) -> str:
    return f"[{','.join(['%.5g'] * values + ['0'] * (dimensions - values))}]"


def like_pattern(part: str | None) -> str | None:
    """ILIKE pattern for texts that contain this part literally."""
    return None if part is None else "%" + re.sub(r"([\\%_])", r"\\\1", storable_text(part)) + "%"


T = TypeVar("T")

# Conditions in several statements.
SHARED = ("match", "filters", "tagged", "is_known", "name_condition", "cells", "in_cells", "after_edge")
NEAR = 1000  # rows next to the edge of a page that are filtered before the indexes are used: a millisecond


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table, and its value for a record to insert."""

    name: str
    value: Callable[[T], Any]
    type: str = ""  # where PostgreSQL cannot infer it


def column_list(columns: Sequence[Column[T]]) -> str:
    """The columns' names, as SELECT and INSERT take them."""
    return ", ".join(f'"{column.name}"' for column in columns)


def placeholders(columns: Sequence[Column[T]], count: int) -> str:
    """Parameters of `count` rows, for VALUES."""
    row = ", ".join(f"%s::{column.type}" if column.type else "%s" for column in columns)
    return ", ".join([f"({row})"] * count)


def row_values(columns: Sequence[Column[T]], records: Sequence[T]) -> list[Any]:
    """The values of these rows, in the order of `placeholders`."""
    getters = [column.value for column in columns]
    return [value(record) for record in records for value in getters]


def read_statements(folder: Path) -> dict[str, str]:
    """Statements of the folder's .sql files, by the name in a line `-- name: NAME` before each.

    `{columns}` are the columns of `predictions` that are read, with the image's tags and what the catalogues say of the
    position, `{own}` without these, `{inserted}` those that are written; a statement of SHARED is inserted into others
    by its name.
    """
    read, inserted = f"id, {column_list(READ)}", column_list(PREDICTIONS)
    statements: dict[str, str] = {}
    for path in folder.glob("*.sql"):
        text = path.read_text(encoding="utf-8").replace("{columns}", f"{read}, {{match}}").replace("{own}", read)
        text = text.replace("{inserted}", inserted)
        _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
        statements.update(zip(parts[::2], parts[1::2], strict=True))
    for name in SHARED:
        condition = "\n" + statements[name]
        statements = {other: sql.replace(f"{{{name}}}", condition) for other, sql in statements.items()}
    return statements


def read_prediction(row: dict[str, Any]) -> Prediction:
    """A row of `{columns}`."""
    match, tags = row.pop("match", None), row.pop("tags", None)
    return Prediction(**row, **(match or {}), tags=tuple(tags or ()))


def insert_statement(
    sql: Mapping[str, str], scored: Sequence[ScoredImage], *, with_vectors: bool
) -> tuple[str, list[Any]]:
    """The statement that inserts predictions with their vectors and descriptions, and its values."""
    stored, values = "", row_values(PREDICTIONS, scored)
    halfvecs = [(image.request_id, to_halfvec(image.vector, DIMENSIONS)) for image in scored if image.space]
    vectors = [(request_id, halfvec) for request_id, halfvec in halfvecs if halfvec]
    if vectors and with_vectors:
        stored = sql["stored_vectors"].format(vectors=placeholders(VECTORS, len(vectors)))
        values += chain(*vectors)
    if described := [image for image in scored if image.description]:
        stored += sql["stored_descriptions"].format(descriptions=placeholders(DESCRIPTIONS, len(described)))
        values += row_values(DESCRIPTIONS, described)
    return sql["insert"].format(rows=placeholders(PREDICTIONS, len(scored)), stored=stored), values


def matching_statement(sql: Mapping[str, str], direction: str, filters: PredictionFilters) -> str:
    """The statement that looks for `newest` or `newer` rows in the whole table, of a tag, or in a cone."""
    if filters.tag or filters.cone:
        return sql[f"{direction}_of_tag" if filters.tag else f"{direction}_in_cone"]
    return sql[f"{direction}_of_all"].replace(
        "{known_filter}", sql["is_known_in_block"] if filters.known is not None else "true"
    )


def filter_parameters(filters: PredictionFilters, limit: int, edge: int | None) -> dict[str, Any]:
    """Parameters of a page before or after the id `edge`; one row beyond `limit` shows whether there is a next page."""
    return {
        "edge": None if edge is None else max(-BIGINT_MAX, min(edge, BIGINT_MAX)),
        "result": storable_text(filters.result),
        "min_score": filters.min_score,
        "max_score": filters.max_score,
        "part": storable_text(filters.name),
        "pattern": like_pattern(filters.name),
        "since": storable_time(filters.since),
        "until": storable_time(filters.until),
        "request_id": filters.request_id,
        "model": storable_text(filters.model),
        "label": storable_text(filters.label),
        "min_novelty": filters.min_novelty,
        "in_domain": filters.in_domain,
        "known": filters.known,
        "tag": filters.tag,
        "limit": limit + 1,
        "near": limit + 1 + (NEAR if filters != PredictionFilters() else 0),
        **_cone_parameters(filters.cone),
    }


def _cone_parameters(cone: Cone | None) -> dict[str, Any]:
    """The centre of a cone, its radius, and the ranges of HEALPix cells that it lies in."""
    if cone is None:
        return {"ra": None, "dec": None, "radius": None}
    first, last = zip(*cover_cone(cone), strict=True)
    return {**asdict(cone), "first_cells": list(first), "last_cells": list(last)}


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, dict):
        return json.dumps({storable_text(name): share for name, share in value.items()}) if value else None
    return float(value) if isinstance(value, np.floating) else value


def _column(name: str) -> Column[ScoredImage]:
    return Column(name, lambda scored: _storable(getattr(scored, name)))


def _healpix(scored: ScoredImage) -> int | None:
    return None if scored.ra is None or scored.dec is None else cell_index(scored.ra, scored.dec)


READ = [_column(field.name) for field in fields(Prediction) if field.name not in {"id", "tags", *KNOWN_COLUMNS}]
PREDICTIONS = [*READ, Column("healpix", _healpix)]  # by which a cone is found, and which says nothing else
VECTORS: list[Column[tuple[uuid.UUID, str]]] = [
    Column("request_id", lambda vector: vector[0], "uuid"),
    Column("vector", lambda vector: vector[1], "halfvec"),
]
DESCRIPTIONS: list[Column[ScoredImage]] = [
    Column("request_id", lambda scored: scored.request_id, "uuid"),
    Column("kind", lambda scored: scored.description_kind, "text"),
    Column("features", lambda scored: scored.description, "text"),
]
IMPORTED_LABELS: list[Column[tuple[int, Label]]] = [  # with their position in the file
    Column("line", lambda line: line[0]),
    Column("label", lambda line: line[1].label),
    Column("who", lambda line: storable_text(line[1].who)),
    Column("note", lambda line: storable_text(line[1].note)),
    Column("timestamp", lambda line: storable_time(line[1].timestamp), "timestamptz"),
    Column("prediction_id", lambda line: line[1].prediction_id, "bigint"),
    Column("image_name", lambda line: storable_text(line[1].image_name)),
    Column("image_sha256", lambda line: line[1].image_sha256),
    Column("role", lambda line: line[1].role),
    Column("tags", lambda line: list(line[1].tags), "text[]"),
]
THUMBNAILS: list[Column[Thumbnail]] = [
    Column("image_sha256", lambda thumbnail: thumbnail.image_sha256),
    Column("jpeg", lambda thumbnail: thumbnail.jpeg),
    Column("width", lambda thumbnail: thumbnail.width),
    Column("height", lambda thumbnail: thumbnail.height),
]
HEAT_MAPS: list[Column[HeatMap]] = [
    Column("image_sha256", lambda heat_map: heat_map.image_sha256),
    Column("model_version", lambda heat_map: storable_text(heat_map.model_version)),
    Column("places", lambda heat_map: heat_map.places.tobytes()),
    Column("width", lambda heat_map: heat_map.places.shape[1]),
    Column("height", lambda heat_map: heat_map.places.shape[0]),
    Column("crop", lambda heat_map: heat_map.crop),
]
