"""The log of predictions in PostgreSQL: a row before an answer, and the history behind it."""

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap
from typing import Any

import numpy as np
import psycopg2
from psycopg2.extras import register_uuid

import setup_db
from astrodetect import postgres
from astrodetect.anomalies import review
from astrodetect.connections import Connection, Pool, Silent, Values, ask, connect, explained, read_url
from astrodetect.errors import NotFound, VectorMissing, VectorsOff
from astrodetect.labels import Imported, Label, Labelling
from astrodetect.records import DIMENSIONS, Crowd, Filters, Neighbour, Page, Prediction, Scored
from astrodetect.settings import Settings
from astrodetect.storable import halves, moment, pattern, storable

BIGINT_MAX = 2**63 - 1
GRACE_S = 1.0  # for PostgreSQL to tell by itself that a statement took too long
HALVES_FROM = 4  # bytes of a vector as pgvector sends it: their number comes before
LABELS_AT_A_TIME = 1000
CANDIDATES = "400"  # that the search for neighbours holds on to: with pgvector's own 40 it misses more of the true ones

GIVEN = """
    image_name, score, result, "timestamp", request_id, image_sha256, threshold, model, model_version, label,
    probabilities, novelty, space"""
COLUMNS = f"id, {GIVEN}"
SESSION = """
    SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %(timeout)s, false),
        set_config('hnsw.ef_search', %(candidates)s, false),
        set_config('hnsw.iterative_scan', 'strict_order', false)"""  # goes on where the nearest are of other spaces
KEEPS_VECTORS = "SELECT to_regclass('features') IS NOT NULL"
READY = f"SELECT {COLUMNS} FROM predictions LIMIT 0"  # noqa: S608 - here and below: joined from constants, values go beside
INSERT = f"""
    INSERT INTO predictions ({GIVEN})
    VALUES {{rows}}
    ON CONFLICT (request_id) DO NOTHING
    RETURNING {COLUMNS}"""  # noqa: S608
ROW = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
INSERT_WITH_VECTORS = f"""
    WITH recorded AS ({INSERT}),
    kept AS (
        INSERT INTO features (prediction_id, space, image_sha256, vector)
        SELECT recorded.id, space, image_sha256, seen.vector
        FROM recorded JOIN (VALUES {{vectors}}) AS seen (request_id, vector) USING (request_id)
        WHERE NOT EXISTS ( -- a conflict would wait for whoever is just indexing that vector
            SELECT FROM features WHERE (space, image_sha256) = (recorded.space, recorded.image_sha256))
        ORDER BY space, image_sha256 -- in this order everywhere, or two commits could wait for each other
        ON CONFLICT (space, image_sha256) DO NOTHING)
    SELECT {COLUMNS} FROM recorded"""  # noqa: S608
VECTOR = "(%s::uuid, %s::halfvec)"
OF_REQUESTS = f"SELECT {COLUMNS} FROM predictions WHERE request_id = ANY (%s)"  # noqa: S608
OF_IDS = f"SELECT {COLUMNS} FROM predictions WHERE id = ANY (%(ids)s::bigint[])"  # noqa: S608
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
      AND (%(min_novelty)s IS NULL OR novelty >= %(min_novelty)s)
    ORDER BY id DESC
    LIMIT %(limit)s"""  # noqa: S608

VECTOR_OF = "SELECT vector::text FROM features WHERE space = %(space)s AND image_sha256 = %(image)s"
NEAR = """(
        SELECT prediction_id, vector <-> %(vector)s::halfvec AS distance FROM features
        WHERE {which} AND space = %(space)s AND image_sha256 <> %(image)s
        ORDER BY vector <-> %(vector)s::halfvec
        LIMIT %(limit)s)"""
NEAREST = f"""
    SELECT {COLUMNS}, distance
    FROM predictions JOIN (
        {NEAR.format(which="indexed")}
        UNION ALL
        {NEAR.format(which="NOT indexed")}
    ) AS near ON id = prediction_id
    ORDER BY distance
    LIMIT %(limit)s"""  # noqa: S608
FRESH = "SELECT count(*) FROM features WHERE NOT indexed"
INDEX = """
    WITH fresh AS (
        SELECT prediction_id FROM features WHERE NOT indexed
        ORDER BY prediction_id
        LIMIT %(most)s
        FOR NO KEY UPDATE SKIP LOCKED), -- another service is at those
    done AS (
        UPDATE features SET indexed = true FROM fresh WHERE features.prediction_id = fresh.prediction_id
        RETURNING 1)
    SELECT count(*) FROM done"""
CROWD = """
    WITH chosen AS (
        (SELECT prediction_id FROM features WHERE space = %(space)s ORDER BY prediction_id DESC LIMIT %(newest)s)
        UNION
        (SELECT features.prediction_id FROM features JOIN current_labels USING (image_sha256) WHERE space = %(space)s))
    SELECT prediction_id, features.image_sha256, novelty, halfvec_send(vector)
    FROM chosen JOIN features USING (prediction_id) JOIN predictions ON predictions.id = prediction_id
    ORDER BY prediction_id"""

LABEL = """
    WITH given AS (
        INSERT INTO labels (prediction_id, label, who, note)
        SELECT id, %(label)s, %(who)s, %(note)s FROM predictions WHERE id = %(id)s
        RETURNING *)
    SELECT given.id, prediction_id, image_name, image_sha256, given.label, who, note, given."timestamp"
    FROM given JOIN predictions ON predictions.id = prediction_id"""
LABELS = """
    SELECT labels.id, prediction_id, image_name, image_sha256, labels.label, who, note, labels."timestamp"
    FROM labels JOIN predictions ON predictions.id = prediction_id
    WHERE labels.id > %(after)s
    ORDER BY labels.id
    LIMIT %(limit)s"""
CURRENT_LABELS = """
    SELECT coalesce(image_sha256, prediction_id::text), label FROM current_labels ORDER BY "timestamp", id"""
# The image with this sum, of its predictions the one with this id, else the newest; without a sum the prediction alone.
IMPORT = """
    WITH given (line, label, who, note, "timestamp", prediction_id, image_name, image_sha256) AS (VALUES {rows}),
    matched AS (
        SELECT line, found.id, found.image_sha256, given.label, who, note, given."timestamp"
        FROM given CROSS JOIN LATERAL (
            SELECT id, image_sha256 FROM predictions
            WHERE image_sha256 = given.image_sha256
            ORDER BY id = given.prediction_id DESC NULLS LAST, id DESC
            LIMIT 1) AS found
        UNION ALL
        SELECT line, predictions.id, predictions.image_sha256, given.label, who, note, given."timestamp"
        FROM given JOIN predictions ON predictions.id = prediction_id
        WHERE given.image_sha256 IS NULL AND coalesce(given.image_name = predictions.image_name, true)),
    added AS (
        INSERT INTO labels (prediction_id, label, who, note, "timestamp")
        SELECT id, label, who, note, coalesce("timestamp", now()) FROM matched
        WHERE NOT EXISTS (
            SELECT FROM labels JOIN predictions ON predictions.id = labels.prediction_id
            WHERE (predictions.id = matched.id OR predictions.image_sha256 = matched.image_sha256)
              AND labels.label = matched.label
              AND (labels.who, labels.note) IS NOT DISTINCT FROM (matched.who, matched.note)
              AND coalesce(labels."timestamp" = matched."timestamp", true))
        GROUP BY id, label, who, note, "timestamp"
        ORDER BY max(line)
        RETURNING id)
    SELECT (SELECT count(*) FROM added), (SELECT count(*) FROM matched)"""
LABELLING = "(%s, %s, %s, %s, %s::timestamptz, %s::bigint, %s, %s)"
# The newest prediction of each image that nobody has labelled.
MOST_NOVEL = f"""
    SELECT {COLUMNS} FROM predictions AS one
    WHERE novelty IS NOT NULL
      AND (%(space)s IS NULL OR space = %(space)s)
      AND NOT EXISTS (
        SELECT FROM predictions WHERE image_sha256 = one.image_sha256 AND space = one.space AND id > one.id)
      AND NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = prediction_id WHERE image_sha256 = one.image_sha256)
    ORDER BY novelty DESC, id DESC
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
        self._vectors: bool | None = None  # whether they are kept, as the newest connection found it

    @property
    def keeps_vectors(self) -> bool:
        """Whether the database can tell which images are alike."""
        if self._vectors is None:
            self.check()
        return bool(self._vectors)

    def record_many(self, scored: Sequence[Scored]) -> list[Prediction]:
        """The rows of these requests, in one commit; a request that has its row already keeps that one."""
        statement, values = INSERT, list(chain(*map(_values, scored)))
        vectors = [(one.request_id, text) for one in scored if one.space and (text := halves(one.vector, DIMENSIONS))]
        if vectors and self.keeps_vectors:
            statement = INSERT_WITH_VECTORS
            values += chain(*vectors)
        filled = statement.format(rows=_times(ROW, len(scored)), vectors=_times(VECTOR, len(vectors)))
        rows = self._run(filled, values)
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
        found = self.of_ids([id]) if 0 < id <= BIGINT_MAX else {}
        if not found:
            raise NotFound(f"there is no prediction {id}")
        return found[id]

    def of_ids(self, ids: Sequence[int]) -> dict[int, Prediction]:
        """Those rows that are there."""
        return {row.id: row for row in starmap(Prediction, self._run(OF_IDS, {"ids": list(ids)}))}

    def predictions(self, filters: Filters, *, limit: int, before: int | None = None) -> Page:
        """The newest `limit` rows older than `before`; from `since` on, before `until`, times without a zone in UTC."""
        found = [Prediction(*row) for row in self._run(NEWEST, _asked(filters, limit, before))]
        page = found[:limit]
        return Page(page, next_before=page[-1].id if len(found) > limit else None)

    def similar(self, prediction: Prediction, *, limit: int) -> list[Neighbour]:
        """The predictions of the images nearest to this one's, nearest first; or VectorMissing, or VectorsOff."""
        if not self.keeps_vectors:
            raise VectorsOff('"more like this" is off: the database lacks pgvector; python setup_db.py says more')
        place = {"space": prediction.space, "image": prediction.image_sha256}
        found = self._run(VECTOR_OF, place)
        if not found:
            raise VectorMissing(f"prediction {prediction.id} has no vector: its model carried no detectors back then")
        rows = self._run(NEAREST, place | {"vector": found[0][0], "limit": limit})
        return [Neighbour(Prediction(*row), distance) for *row, distance in rows]

    def fresh_vectors(self) -> int:
        """How many the graph lacks, so that a search looks at each of them."""
        return int(self._run(FRESH, {})[0][0]) if self.keeps_vectors else 0

    def index_vectors(self, most: int) -> int:
        """Adds so many to the graph in one commit, oldest first; how many there were, 0 once it has them all."""
        return int(self._run(INDEX, {"most": most})[0][0]) if self.keeps_vectors else 0

    def crowd(self, space: str, *, newest: int) -> Crowd:
        """So many of the newest images of a space, and all of it that are labelled."""
        rows = self._run(CROWD, {"space": space, "newest": newest})
        ids, images, novelty, halves = zip(*rows, strict=True) if rows else ((), (), (), ())
        flat = np.frombuffer(b"".join(bytes(one[HALVES_FROM:]) for one in halves), ">f2")
        vectors = flat.astype(np.float32).reshape(-1, DIMENSIONS)
        width = np.flatnonzero(vectors.any(axis=0)).max(initial=0) + 1  # what lies beyond was added for the table
        return Crowd(list(ids), list(images), np.array(novelty, np.float32), vectors[:, :width])

    def most_novel(self, space: str | None, *, limit: int) -> list[Prediction]:
        """The most unusual images that nobody has labelled, each once; of all spaces where none is given."""
        return [Prediction(*row) for row in self._run(MOST_NOVEL, {"space": space, "limit": limit})]

    def label(self, id: int, label: review.Label, *, who: str | None, note: str | None) -> Label:  # noqa: A002
        """Says what the image of this prediction is, or NotFound."""
        said = {
            "id": id,
            "label": label,
            "who": storable(who or None),
            "note": storable(note or None),
        }
        rows = self._run(LABEL, said) if 0 < id <= BIGINT_MAX else []
        if not rows:
            raise NotFound(f"there is no prediction {id}")
        return Label(*rows[0])

    def labels(self) -> Iterator[list[Label]]:
        """Every labelling, oldest first, some at a time; at least once."""
        after = 0
        while True:
            page = [Label(*row) for row in self._run(LABELS, {"after": after, "limit": LABELS_AT_A_TIME})]
            yield page
            if len(page) < LABELS_AT_A_TIME:
                return
            after = page[-1].id

    def current_labels(self) -> dict[str, review.Label]:
        """What each labelled image is, by its sum, those that were labelled last at the end."""
        return dict(self._run(CURRENT_LABELS, {}))

    def import_labels(self, labels: Sequence[Labelling]) -> Imported:
        """Labels the images that are here; one that has this very label already gets no second one."""
        new = matched = 0
        for begin in range(0, len(labels), LABELS_AT_A_TIME):
            some = labels[begin : begin + LABELS_AT_A_TIME]
            values = list(chain(*starmap(_labelling, enumerate(some))))
            [(added, found)] = self._run(IMPORT.format(rows=_times(LABELLING, len(some))), values)
            new, matched = new + added, matched + found
        return Imported(new, known=matched - new, unmatched=len(labels) - matched)

    def check(self) -> None:
        """Raises what would go wrong: DatabaseUnavailable or DatabaseNotSetUp."""
        self._run(READY, {})

    def close(self) -> None:
        self._pool.close()

    def _open(self) -> Connection:
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True)
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        try:
            session = {"timeout": f"{self._timeout_s * 1000:.0f}ms", "candidates": CANDIDATES}
            ask(connection, SESSION, session, within_s=self._timeout_s)
            [(self._vectors,)] = ask(connection, KEEPS_VECTORS, {}, within_s=self._timeout_s)
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


def _times(row: str, count: int) -> str:
    return ", ".join([row] * count)


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
        storable(scored.label),
        scored.probabilities and json.dumps({storable(name): value for name, value in scored.probabilities.items()}),
        scored.novelty,
        scored.space,
    )


def _labelling(line: int, labelling: Labelling) -> tuple[Any, ...]:
    """In the order of IMPORT."""
    return (
        line,
        labelling.label,
        storable(labelling.who),
        storable(labelling.note),
        moment(labelling.timestamp),
        labelling.prediction_id,
        storable(labelling.image_name),
        labelling.image_sha256,
    )


def _asked(filters: Filters, limit: int, before: int | None) -> dict[str, Any]:
    """The values of NEWEST; one row more than the page tells whether there is a next one."""
    return {
        "before": None if before is None else max(-BIGINT_MAX, min(before, BIGINT_MAX)),
        "result": storable(filters.result),
        "min_score": filters.min_score,
        "max_score": filters.max_score,
        "pattern": pattern(filters.name),
        "since": moment(filters.since),
        "until": moment(filters.until),
        "request_id": filters.request_id,
        "model": storable(filters.model),
        "label": storable(filters.label),
        "min_novelty": filters.min_novelty,
        "limit": limit + 1,
    }
