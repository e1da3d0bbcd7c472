"""The log of predictions in PostgreSQL: a row before an answer, and the history behind it."""

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap
from typing import Any

import psycopg2
from psycopg2.extras import register_uuid

import setup_db
from astrodetect import postgres
from astrodetect.connections import Connection, Pool, Silent, Values, ask, connect, explained, read_url
from astrodetect.errors import NotFound
from astrodetect.records import Filters, Page, Prediction, Scored
from astrodetect.settings import Settings

BIGINT_MAX = 2**63 - 1
GRACE_S = 1.0  # for PostgreSQL to tell by itself that a statement took too long
UNSTORABLE = re.compile("[\0\ud800-\udfff]")

GIVEN = """
    image_name, score, result, "timestamp", request_id, image_sha256, threshold, model, model_version, label,
    probabilities"""
COLUMNS = f"id, {GIVEN}"
SESSION = "SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %(timeout)s, false)"
READY = f"SELECT {COLUMNS} FROM predictions LIMIT 0"  # noqa: S608 - here and below: joined from constants, values go beside
INSERT = f"""
    INSERT INTO predictions ({GIVEN})
    VALUES {{rows}}
    ON CONFLICT (request_id) DO NOTHING
    RETURNING {COLUMNS}"""  # noqa: S608
ROW = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
OF_REQUESTS = f"SELECT {COLUMNS} FROM predictions WHERE request_id = ANY (%s)"  # noqa: S608
OF_ID = f"SELECT {COLUMNS} FROM predictions WHERE id = %(id)s"  # noqa: S608
# psycopg2 puts the values into the text, so PostgreSQL drops the conditions that ask nothing before it plans.
NEWEST = f"""
    SELECT {COLUMNS} FROM predictions
    WHERE (%(before)s IS NULL OR id < %(before)s)
      AND (%(result)s IS NULL OR result = %(result)s)
      AND (%(min_score)s IS NULL OR score >= %(min_score)s)
      AND (%(max_score)s IS NULL OR score <= %(max_score)s)
      AND (%(pattern)s IS NULL OR image_name ILIKE %(pattern)s)
      AND (%(since)s IS NULL OR "timestamp" >= %(since)s)
      AND (%(until)s IS NULL OR "timestamp" < %(until)s)
      AND (%(request_id)s IS NULL OR request_id = %(request_id)s)
      AND (%(model)s IS NULL OR model = %(model)s)
      AND (%(label)s IS NULL OR label = %(label)s)
    ORDER BY id DESC
    LIMIT %(limit)s"""  # noqa: S608


@contextmanager
def server(settings: Settings) -> Iterator[str]:
    """The URL of the database to log to; without DATABASE_URL it is the embedded one, started and set up."""
    if settings.database_url:
        read_url(settings.database_url.get_secret_value())  # a mistake in it is told at once
        yield settings.database_url.get_secret_value()
        return
    with postgres.serve(settings.postgres_dir, postgres.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        yield url


class Database:
    """The table `predictions`, for many threads; nothing is opened before it is needed."""

    def __init__(self, url: str, *, connections: int, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._pool = Pool(self._open, size=connections, timeout_s=timeout_s)

    def record_many(self, scored: Sequence[Scored]) -> list[Prediction]:
        """The rows of these requests, in one commit; a request that has its row already keeps that one."""
        rows = self._run(INSERT.format(rows=", ".join([ROW] * len(scored))), list(chain(*map(_values, scored))))
        found = {row.request_id: row for row in starmap(Prediction, rows)}
        missing = [one.request_id for one in scored if one.request_id not in found]
        if missing:
            found |= self.of_requests(missing)
        return [found[one.request_id] for one in scored]

    def of_requests(self, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID | None, Prediction]:
        """The rows that these requests have."""
        return {row.request_id: row for row in starmap(Prediction, self._run(OF_REQUESTS, [list(ids)]))}

    def prediction(self, id: int) -> Prediction:  # noqa: A002 - its name in the table
        """One row, or NotFound."""
        rows = self._run(OF_ID, {"id": id}) if 0 < id <= BIGINT_MAX else []
        if not rows:
            raise NotFound(f"there is no prediction {id}")
        return Prediction(*rows[0])

    def predictions(self, filters: Filters, *, limit: int, before: int | None = None) -> Page:
        """The newest `limit` rows older than `before`; from `since` on, before `until`, times without a zone in UTC."""
        found = [Prediction(*row) for row in self._run(NEWEST, _asked(filters, limit, before))]
        page = found[:limit]
        return Page(page, next_before=page[-1].id if len(found) > limit else None)

    def check(self) -> None:
        """Raises what would go wrong: DatabaseUnavailable or DatabaseNotSetUp."""
        self._run(READY, {})

    def close(self) -> None:
        self._pool.close()

    def _open(self) -> Connection:
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True)
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        try:
            ask(connection, SESSION, {"timeout": f"{self._timeout_s * 1000:.0f}ms"}, within_s=self._timeout_s)
        except psycopg2.Error as error:
            connection.close()
            raise explained(error) from error
        return connection

    def _run(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """Its rows; where the connection turns out dead, as after a restart, once more on a new one."""
        for again in (True, False):
            with self._pool.connection() as connection:
                try:
                    return ask(connection, statement, values, within_s=self._timeout_s + GRACE_S)
                except Silent:
                    self._pool.forget()
                    raise
                except psycopg2.Error as error:
                    if not (connection.closed and again):
                        raise explained(error) from error
                    self._pool.forget()
        raise AssertionError


def storable(text: str) -> str:
    """PostgreSQL's text holds neither NUL nor half a character: each becomes the replacement character."""
    return UNSTORABLE.sub("\ufffd", text)


def _storable_or_none(text: str | None) -> str | None:
    return None if text is None else storable(text)


def _values(scored: Scored) -> tuple[Any, ...]:
    """In the order of INSERT."""
    return (
        storable(scored.image_name),
        float(scored.score),
        storable(scored.result),
        scored.timestamp,
        scored.request_id,
        scored.image_sha256,
        scored.threshold,
        storable(scored.model),
        storable(scored.model_version),
        _storable_or_none(scored.label),
        scored.probabilities and json.dumps({storable(name): value for name, value in scored.probabilities.items()}),
    )


def _asked(filters: Filters, limit: int, before: int | None) -> dict[str, Any]:
    """The values of NEWEST; one row more than the page tells whether there is a next one."""
    return {
        "before": None if before is None else max(-BIGINT_MAX, min(before, BIGINT_MAX)),
        "result": _storable_or_none(filters.result),
        "min_score": filters.min_score,
        "max_score": filters.max_score,
        "pattern": None if filters.name is None else f"%{_literally(storable(filters.name))}%",
        "since": _in_utc(filters.since),
        "until": _in_utc(filters.until),
        "request_id": filters.request_id,
        "model": _storable_or_none(filters.model),
        "label": _storable_or_none(filters.label),
        "limit": limit + 1,
    }


def _in_utc(time: dt.datetime | None) -> dt.datetime | None:
    """PostgreSQL takes fewer zones than Python; beyond the calendar's ends its last moment will do."""
    if time is None or time.tzinfo is None:
        return time
    try:
        return time.astimezone(dt.UTC)
    except OverflowError:
        return (dt.datetime.max if time.year > dt.MINYEAR else dt.datetime.min).replace(tzinfo=dt.UTC)


def _literally(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)
