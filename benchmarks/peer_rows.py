"""The rows of the batching peers of `benchmarks.serving`: one statement and one commit for each batch."""

from collections.abc import Sequence
from typing import Any

import psycopg2.extensions
from psycopg2.extras import execute_values

THRESHOLD = 0.5
TABLE_SQL = """
    CREATE TABLE IF NOT EXISTS predictions (
        id bigserial PRIMARY KEY, image_name text, score real, result text, timestamp timestamptz DEFAULT now())"""
INSERT_SQL = "INSERT INTO predictions (image_name, score, result) VALUES %s RETURNING id"


def connect(url: str) -> psycopg2.extensions.connection:
    """A connection to a database that has the table."""
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(TABLE_SQL)
    return connection


def record(
    connection: psycopg2.extensions.connection, names: Sequence[str | None], scores: Sequence[float]
) -> list[dict[str, Any]]:
    """Insert and commit these predictions, and return the answers."""
    results = ["Anomaly Detected" if score > THRESHOLD else "No Anomaly" for score in scores]
    rows = list(zip(names, scores, results, strict=True))
    with connection, connection.cursor() as cursor:
        ids = execute_values(cursor, INSERT_SQL, rows, fetch=True)
    return [
        {"id": id_, "image_name": name, "score": score, "result": result}
        for (id_,), (name, score, result) in zip(ids, rows, strict=True)
    ]
