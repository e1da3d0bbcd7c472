"""The log of predictions in PostgreSQL: a row before an answer, and the history behind it."""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, starmap
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
from psycopg2.extras import register_uuid

import setup_db
from astrodetect.anomalies import active_learning
from astrodetect.db.connections import (
    Connection,
    Pool,
    ServerSilent,
    Values,
    as_database_error,
    connect,
    execute_within,
    read_url,
)
from astrodetect.db.embedded import server
from astrodetect.db.listener import Listener
from astrodetect.db.values import BIGINT_MAX, like_pattern, storable_text, storable_time, to_halfvec
from astrodetect.errors import NotFound, VectorMissing, VectorsOff
from astrodetect.labels import Imported, Label, Labelling
from astrodetect.records import (
    DIMENSIONS,
    EmbeddedImages,
    HeatMap,
    Neighbour,
    Prediction,
    PredictionFilters,
    PredictionPage,
    ScoredImage,
    Thumbnail,
)
from astrodetect.settings import Settings

GRACE_S = 1.0  # for PostgreSQL to tell by itself that a statement took too long
HALVES_FROM = 4  # bytes of a vector as pgvector sends it: their number comes before
LABELS_AT_A_TIME = 1000
NEAR = 1000  # rows that are looked at before the indexes are asked: a millisecond
PICTURES_AT_A_TIME = 1000
PRUNING = 7_237_867_511_894_022  # of pg_try_advisory_xact_lock: any number that nobody else uses
CHANNEL = "predictions"
CANDIDATES = "400"  # that the search for neighbours holds on to: with pgvector's own 40 it misses more of the true ones

GIVEN = """
    image_name, score, result, "timestamp", request_id, image_sha256, threshold, model, model_version, label,
    probabilities, novelty, space"""
COLUMNS = f"id, {GIVEN}"
ROW = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
VECTOR = "(%s::uuid, %s::halfvec)"
LABELLING = "(%s, %s, %s, %s, %s::timestamptz, %s::bigint, %s, %s)"
PICTURE = "(%s, %s, %s, %s)"
HEAT = "(%s, %s, %s, %s, %s, %s)"
SESSION = """
    SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %(timeout)s, false),
        set_config('hnsw.ef_search', %(candidates)s, false),
        set_config('hnsw.iterative_scan', 'strict_order', false)"""  # goes on where the nearest are of other spaces
PARTS = ("filters", "in_name")  # of other statements
QUERIES = Path(__file__).resolve().parent / "sql" / "queries"


def _statements() -> dict[str, str]:
    """Each by its name, which stands in a line before it."""
    found: dict[str, str] = {}
    for path in QUERIES.glob("*.sql"):
        text = path.read_text(encoding="utf-8").replace("{columns}", COLUMNS).replace("{given}", GIVEN)
        _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
        found.update(zip(parts[::2], parts[1::2], strict=True))
    for part in PARTS:
        found = {name: sql.replace(f"{{{part}}}", "\n" + found[part]) for name, sql in found.items()}
    return found


SQL = _statements()


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The URL of the database to log to; without DATABASE_URL it is the embedded one, started and set up."""
    if settings.database_url:
        read_url(settings.database_url.get_secret_value())  # a mistake in it is told at once
        yield settings.database_url.get_secret_value()
        return
    with server.serve(settings.postgres_dir, server.EMBEDDED_DATABASE) as url:
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

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]:
        """The rows of these requests, in one commit; a request that has its row already keeps that one."""
        statement, values = SQL["insert"], list(chain(*map(_values, scored)))
        vectors = [
            (one.request_id, text) for one in scored if one.space and (text := to_halfvec(one.vector, DIMENSIONS))
        ]
        if vectors and self.keeps_vectors:
            statement = SQL["insert_with_vectors"]
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
        return {row.request_id: row for row in starmap(Prediction, self._run(SQL["of_requests"], [list(ids)]))}

    def prediction(self, id: int) -> Prediction:  # noqa: A002 - its name in the table
        """One row, or NotFound."""
        found = self.of_ids([id]) if 0 < id <= BIGINT_MAX else {}
        if not found:
            raise NotFound(f"there is no prediction {id}")
        return found[id]

    def of_ids(self, ids: Sequence[int]) -> dict[int, Prediction]:
        """Those rows that are there."""
        return {row.id: row for row in starmap(Prediction, self._run(SQL["of_ids"], {"ids": list(ids)}))}

    def predictions(
        self, filters: PredictionFilters, *, limit: int, before: int | None = None, after: int | None = None
    ) -> PredictionPage:
        """The newest `limit` rows, those just older than `before`, or those just newer than `after`; newest first.

        From `since` on, before `until`, times without a zone in UTC.
        """
        statement, edge = ("newest", before) if after is None else ("newer", after)
        values = asked(filters, limit, edge)
        rows = self._run(SQL[statement], values)
        if len(rows) <= limit and filters != PredictionFilters():
            rows = self._run(SQL[f"{statement}_of_all"], values)
        found = [Prediction(*row) for row in rows]
        if after is None:
            page = found[:limit]
            newer = None if before is None else page[0].id if page else before - 1
            return PredictionPage(page, page[-1].id if len(found) > limit else None, newer)
        page = found[:limit][::-1]
        return PredictionPage(page, page[-1].id if page else after + 1, page[0].id if len(found) > limit else None)

    def newest_id(self) -> int:
        """Of all rows; 0 where there is none."""
        return int(self._run(SQL["newest_id"], {})[0][0])

    def since(self, id: int, *, limit: int) -> list[Prediction]:  # noqa: A002
        """The rows that came after this one, newest first."""
        return [Prediction(*row) for row in self._run(SQL["since"], {"id": id, "limit": limit})]

    def of_image(self, image_sha256: str, *, limit: int) -> list[Prediction]:
        """What was said of these bytes, newest first."""
        return [Prediction(*row) for row in self._run(SQL["of_image"], {"image": image_sha256, "limit": limit})]

    def similar(self, prediction: Prediction, *, limit: int) -> list[Neighbour]:
        """The predictions of the images nearest to this one's, nearest first; or VectorMissing, or VectorsOff."""
        if not self.keeps_vectors:
            raise VectorsOff('"more like this" is off: the database lacks pgvector; python setup_db.py says more')
        place = {"space": prediction.space, "image": prediction.image_sha256}
        found = self._run(SQL["vector_of"], place)
        if not found:
            raise VectorMissing(f"prediction {prediction.id} has no vector: its model carried no detectors back then")
        rows = self._run(SQL["nearest"], place | {"vector": found[0][0], "limit": limit})
        return [Neighbour(Prediction(*row), distance) for *row, distance in rows]

    def fresh_vectors(self) -> int:
        """How many the graph lacks, so that a search looks at each of them."""
        return int(self._run(SQL["fresh"], {})[0][0]) if self.keeps_vectors else 0

    def index_vectors(self, most: int) -> int:
        """Adds so many to the graph in one commit, oldest first; how many there were, 0 once it has them all."""
        return int(self._run(SQL["index"], {"most": most})[0][0]) if self.keeps_vectors else 0

    def crowd(self, space: str, *, newest: int) -> EmbeddedImages:
        """So many of the newest images of a space, and all of it that are labelled."""
        rows = self._run(SQL["crowd"], {"space": space, "newest": newest})
        ids, images, classes, novelty, halves = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        flat = np.frombuffer(b"".join(bytes(one[HALVES_FROM:]) for one in halves), ">f2")
        vectors = flat.astype(np.float32).reshape(-1, DIMENSIONS)
        width = np.flatnonzero(vectors.any(axis=0)).max(initial=0) + 1  # what lies beyond was added for the table
        return EmbeddedImages(list(ids), list(images), list(classes), np.array(novelty, np.float32), vectors[:, :width])

    def newcomers(self, space: str, *, after: int, most: int) -> int:
        """How many images of a space came after the one of this prediction, counted up to `most`."""
        return int(self._run(SQL["newcomers"], {"space": space, "after": after, "most": most})[0][0])

    def most_novel(self, space: str | None, *, limit: int) -> list[Prediction]:
        """The most unusual images that nobody has labelled, each once, also where no space is given: of all of them."""
        return [Prediction(*row) for row in self._run(SQL["most_novel"], {"space": space, "limit": limit})]

    def label(self, id: int, label: active_learning.LabelValue, *, who: str | None, note: str | None) -> Label:  # noqa: A002
        """Says what the image of this prediction is, or NotFound."""
        said = {
            "id": id,
            "label": label,
            "who": storable_text(who or None),
            "note": storable_text(note or None),
        }
        rows = self._run(SQL["label"], said) if 0 < id <= BIGINT_MAX else []
        if not rows:
            raise NotFound(f"there is no prediction {id}")
        return Label(*rows[0])

    def unlabel(self, id: int) -> Label:  # noqa: A002
        """Takes one labelling back, or NotFound."""
        rows = self._run(SQL["unlabel"], {"id": id}) if 0 < id <= BIGINT_MAX else []
        if not rows:
            raise NotFound(f"there is no label {id}")
        return Label(*rows[0])

    def labels_of(self, prediction: Prediction) -> list[Label]:
        """What the image of this prediction was called, the newest first: that one counts."""
        image = {"image": prediction.image_sha256, "prediction_id": prediction.id}
        return [Label(*row) for row in self._run(SQL["labels_of"], image)]

    def called(self, predictions: Sequence[Prediction]) -> dict[str, active_learning.LabelValue]:
        """What the images of these predictions are, of those that are labelled, as `image` names them."""
        images = [row.image_sha256 for row in predictions if row.image_sha256]
        ids = [row.id for row in predictions if not row.image_sha256]
        return dict(self._run(SQL["called"], {"images": images, "ids": ids})) if predictions else {}

    def labels(self) -> Iterator[list[Label]]:
        """Every labelling, oldest first, some at a time; at least once."""
        after = 0
        while True:
            page = [Label(*row) for row in self._run(SQL["labels"], {"after": after, "limit": LABELS_AT_A_TIME})]
            yield page
            if len(page) < LABELS_AT_A_TIME:
                return
            after = page[-1].id

    def current_labels(self) -> dict[str, active_learning.LabelValue]:
        """What each labelled image is, by its sum, those that were labelled last at the end."""
        return dict(self._run(SQL["current_labels"], {}))

    def labels_in_order(self) -> list[active_learning.LabelValue]:
        """What each labelled image is, in the order in which they were first labelled."""
        return [label for (label,) in self._run(SQL["labels_in_order"], {})]

    def import_labels(self, labels: Sequence[Labelling]) -> Imported:
        """Labels the images that are here; one that has this very label already gets no second one."""
        new = matched = 0
        for begin in range(0, len(labels), LABELS_AT_A_TIME):
            some = labels[begin : begin + LABELS_AT_A_TIME]
            values = list(chain(*starmap(_labelling, enumerate(some))))
            [(added, found)] = self._run(SQL["import"].format(rows=_times(LABELLING, len(some))), values)
            new, matched = new + added, matched + found
        return Imported(new, known=matched - new, unmatched=len(labels) - matched)

    def keep_pictures(self, pictures: Sequence[Thumbnail], heats: Sequence[HeatMap]) -> None:
        """Keeps those that are not kept; no heat map without its picture."""
        images = {one.image_sha256: (one.image_sha256, one.jpeg, one.width, one.height) for one in pictures}
        if images:  # in one order everywhere, or two workers could wait for each other
            values = list(chain(*(images[image] for image in sorted(images))))
            self._run(SQL["keep_pictures"].format(rows=_times(PICTURE, len(images))), values)
        maps = {(one.image_sha256, one.model_version): one for one in heats}
        if maps:
            values = list(chain(*(_heat(maps[key]) for key in sorted(maps))))
            self._run(SQL["keep_heats"].format(rows=_times(HEAT, len(maps))), values)

    def picture(self, image_sha256: str) -> Thumbnail | None:
        """Of the image with this sum, if it is kept."""
        rows = self._run(SQL["picture"], {"image": storable_text(image_sha256)})
        return next((Thumbnail(image, bytes(jpeg), *size) for image, jpeg, *size in rows), None)

    def heat(self, image_sha256: str, model_version: str) -> HeatMap | None:
        """Where in the image this model saw what it took it for, if that is kept."""
        asked = {"image": storable_text(image_sha256), "model_version": storable_text(model_version)}
        for places, width, height, crop in self._run(SQL["heat"], asked):
            grid = np.frombuffer(bytes(places), np.uint8).reshape(height, width)
            return HeatMap(image_sha256, model_version, grid, crop)
        return None

    def pictured(self, images: Sequence[str]) -> set[str]:
        """Which of these sums have a picture."""
        return {image for (image,) in self._run(SQL["pictured"], [list(images)])} if images else set()

    def prune_pictures(self, *, days: int, max_bytes: int) -> int:
        """Lets go of pictures that are too old or, the oldest first, too much, but of no labelled image's; how many."""
        excess = int(self._run(SQL["pictures_bytes"], {})[0][0]) - max_bytes
        pruned = 0
        while True:
            bite = {"days": days, "excess": excess, "most": PICTURES_AT_A_TIME, "lock": PRUNING}
            [(count, size)] = self._run(SQL["prune"], bite)
            pruned, excess = pruned + int(count), excess - int(size)
            if count < PICTURES_AT_A_TIME:
                return pruned

    def listen(self) -> Listener:
        """Tells of new rows, whoever logs them; a connection of its own, or DatabaseUnavailable."""
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True)
        return Listener(connection, CHANNEL, SQL["want_news"], SQL["enough_news"], within_s=self._timeout_s)

    def check(self) -> None:
        """Raises what would go wrong: DatabaseUnavailable or DatabaseNotSetUp."""
        self._run(SQL["ready"], {})

    def close(self) -> None:
        self._pool.close()

    def _open(self) -> Connection:
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True)
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        try:
            session = {"timeout": f"{self._timeout_s * 1000:.0f}ms", "candidates": CANDIDATES}
            execute_within(connection, SESSION, session, within_s=self._timeout_s)
            [(self._vectors,)] = execute_within(connection, SQL["keeps_vectors"], {}, within_s=self._timeout_s)
        except psycopg2.Error as error:
            connection.close()
            raise as_database_error(error) from error
        return connection

    def _run(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """Its rows; where the connection turns out dead, as after a restart, once more on a new one."""
        for again in (True, False):
            with self._pool.connection() as connection:
                try:
                    return execute_within(connection, statement, values, within_s=self._timeout_s + GRACE_S)
                except ServerSilent:
                    self._pool.forget()
                    raise
                except psycopg2.Error as error:
                    if not (connection.closed and again):
                        raise as_database_error(error) from error
                    self._pool.forget()
        raise AssertionError


def _times(row: str, count: int) -> str:
    return ", ".join([row] * count)


def _values(scored: ScoredImage) -> tuple[Any, ...]:
    """In the order of ROW."""
    return (
        storable_text(scored.image_name),
        float(scored.score),
        storable_text(scored.result),
        scored.timestamp,
        scored.request_id,
        scored.image_sha256,
        scored.threshold,
        storable_text(scored.model),
        storable_text(scored.model_version),
        storable_text(scored.label),
        scored.probabilities
        and json.dumps({storable_text(name): value for name, value in scored.probabilities.items()}),
        scored.novelty,
        scored.space,
    )


def _labelling(line: int, labelling: Labelling) -> tuple[Any, ...]:
    """In the order of LABELLING."""
    return (
        line,
        labelling.label,
        storable_text(labelling.who),
        storable_text(labelling.note),
        storable_time(labelling.timestamp),
        labelling.prediction_id,
        storable_text(labelling.image_name),
        labelling.image_sha256,
    )


def _heat(heat: HeatMap) -> tuple[Any, ...]:
    """In the order of HEAT."""
    height, width = heat.places.shape
    return heat.image_sha256, storable_text(heat.model_version), heat.places.tobytes(), width, height, heat.crop


def asked(filters: PredictionFilters, limit: int, edge: int | None) -> dict[str, Any]:
    """The values of a page up to or from this id; one row more than it has tells whether there is a next one."""
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
        "limit": limit + 1,
        "near": limit + 1 + (NEAR if filters != PredictionFilters() else 0),
    }
