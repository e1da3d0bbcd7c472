"""The predictions database: every prediction is recorded before its response; history, labels, vectors, thumbnails."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psycopg2
from psycopg2.extras import register_uuid

import setup_db
from astrodetect.db import sky_counts, statements
from astrodetect.db.access import AccessTables
from astrodetect.db.arrivals import Arrivals
from astrodetect.db.connections import (
    Connection,
    Listener,
    Parameters,
    Row,
    ValuesRejected,
    as_database_error,
    connect,
    execute_within,
    read_url,
)
from astrodetect.db.descriptions import DescriptionLog
from astrodetect.db.embedded.lifetime import EMBEDDED_DATABASE, embedded_server
from astrodetect.db.embeddings import EmbeddingTable, read_images
from astrodetect.db.fits_values import FitsValuesTable
from astrodetect.db.label_batches import LabelBatches
from astrodetect.db.label_names import LabelNames
from astrodetect.db.pool import Heartbeat, Pool
from astrodetect.db.ranked_pages import RankedPages
from astrodetect.db.shared_state import LeaseTable, MapTable
from astrodetect.db.statements import read_prediction, storable_text
from astrodetect.db.tags import TagTable
from astrodetect.errors import NotFound, VectorMissing, VectorsOff
from astrodetect.labels import ImportCounts, Label, LabelValue, StoredLabel
from astrodetect.records import (
    BIGINT_MAX,
    EmbeddedImages,
    HeatMap,
    Neighbour,
    Prediction,
    PredictionFilters,
    PredictionPage,
    ScoredImage,
    Thumbnail,
)
from astrodetect.settings import SETUP_DB_COMMAND, Settings

T = TypeVar("T")

GRACE_S = 1.0  # for PostgreSQL's own statement timeout to come first
LABEL_BATCH = THUMBNAIL_BATCH = 1000
PRUNING = 7_237_867_511_894_022  # key of pg_try_advisory_xact_lock
CHANNEL = "predictions"
NARROW_CONE_DEG = 0.5  # cones to this radius have too few rows to look for them among the newest
CANDIDATES = "400"  # hnsw.ef_search: pgvector's default of 40 misses more of the true neighbours

SESSION = """
    SELECT set_config('TimeZone', 'UTC', false), set_config('statement_timeout', %(timeout)s, false),
        set_config('hnsw.ef_search', %(candidates)s, false),
        set_config('hnsw.iterative_scan', 'strict_order', false),  -- continues where the nearest are of other spaces
        set_config('extra_float_digits', '1', false),  -- numbers come back as they were stored
        set_config('jit', 'off', false)"""  # takes longer than the statements
SQL = statements.read_statements(Path(__file__).resolve().parent / "sql" / "queries")


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """URL of the predictions database: DATABASE_URL, or the embedded server, started and migrated."""
    if settings.database_url:
        read_url(settings.database_url.get_secret_value())  # report an invalid URL at once
        yield settings.database_url.get_secret_value()
        return
    with embedded_server(settings.postgres_dir, EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        yield url


@contextmanager
def open_database(settings: Settings, *, connections: int) -> Iterator["Database"]:
    """The database of the settings, checked, and closed at the end."""
    with database_url(settings) as url:
        database = Database(url, connections=connections, timeout_s=settings.database_timeout_s)
        try:
            database.check()
            yield database
        finally:
            database.close()


class Database:
    """The tables of predictions, labels, vectors and thumbnails, for many threads; connects on first use."""

    def __init__(self, url: str, *, connections: int, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._pool = Pool(self._connect, size=connections, timeout_s=timeout_s)
        self.heartbeat = Heartbeat(partial(connect, url, timeout_s=timeout_s, bounded=True), SQL, self._pool.silent)
        self._has_vectors: bool | None = None  # as the newest connection found it
        self.description_log = DescriptionLog(self._execute, SQL, lambda: self.stores_vectors)
        self.leases, self.maps = LeaseTable(self._execute, SQL), MapTable(self._execute, SQL)
        self.access, self.label_batches = AccessTables(self._execute, SQL), LabelBatches(self._execute, SQL)
        self.label_names, self.tags = LabelNames(self._execute, SQL), TagTable(self._execute, SQL)
        self.ranked, self.sky = RankedPages(self._execute, SQL), sky_counts.SkyCounts(self._execute, SQL)
        self.fits_values, self.embeddings = FitsValuesTable(self._execute, SQL), EmbeddingTable(self._execute, SQL)
        self.arrivals = Arrivals(self._execute, SQL)

    @property
    def stores_vectors(self) -> bool:
        """Whether the database has pgvector, for the search for similar images."""
        if self._has_vectors is None:
            self.check()
        return bool(self._has_vectors)

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]:
        """Insert these rows in one commit and return them; a request id that has a row keeps that one."""
        statement, values = statements.insert_statement(SQL, scored, with_vectors=self.stores_vectors)
        recorded = _by_request_id(self._execute(statement, values, urgent=True))
        existing = [image.request_id for image in scored if image.request_id not in recorded]
        if existing:
            recorded |= _by_request_id(self._execute(SQL["by_request_ids"], [existing], urgent=True))
        if any(image.request_id not in recorded for image in scored):
            raise ValuesRejected("PostgreSQL refused: a trigger or rule left out a row")
        return [recorded[image.request_id] for image in scored]

    def by_request_ids(self, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID | None, Prediction]:
        """The predictions of these requests."""
        return _by_request_id(self._execute(SQL["by_request_ids"], [list(ids)]))

    def prediction(self, id: int) -> Prediction:  # noqa: A002 - the name of the column
        """One prediction, or NotFound."""
        if not (predictions := self.by_ids([id]) if 0 < id <= BIGINT_MAX else {}):
            raise NotFound(f"there is no prediction {id}")
        return predictions[id]

    def by_ids(self, ids: Sequence[int]) -> dict[int, Prediction]:
        """The predictions that exist of these ids."""
        return {row["id"]: read_prediction(row) for row in self._execute(SQL["by_ids"], {"ids": list(ids)})}

    def predictions(
        self, filters: PredictionFilters, *, limit: int, before: int | None = None, after: int | None = None
    ) -> PredictionPage:
        """A page of the newest predictions, of those just older than `before`, or just newer than `after`.

        Newest first; `since` is inclusive, `until` exclusive; times without a zone are in UTC.
        """
        statement, edge = ("newest", before) if after is None else ("newer", after)
        parameters = statements.filter_parameters(filters, limit, edge)
        narrow = filters.cone is not None and filters.cone.radius <= NARROW_CONE_DEG
        rows = [] if narrow else self._execute(SQL[statement], parameters)
        if len(rows) <= limit and filters != PredictionFilters():
            rows = self._execute(statements.matching_statement(SQL, statement, filters), parameters)
        predictions = [read_prediction(row) for row in rows]
        if after is None:
            page = predictions[:limit]
            newer = None if before is None else page[0].id if page else before - 1
            return PredictionPage(page, page[-1].id if len(predictions) > limit else None, newer)
        page = predictions[:limit][::-1]
        newer = page[0].id if len(predictions) > limit else None
        return PredictionPage(page, page[-1].id if page else after + 1, newer)

    def newest_id(self) -> int:
        """The largest id; 0 of an empty table."""
        return int(self._scalar("newest_id", {}))

    def newer_than(self, id: int, *, limit: int) -> list[Prediction]:  # noqa: A002
        """Predictions with larger ids, newest first."""
        return self._predictions("newer_than", {"id": id, "limit": limit})

    def by_image(self, image_sha256: str, *, limit: int) -> list[Prediction]:
        """Predictions of the image with this SHA-256, newest first."""
        return self._predictions("by_image", {"image": image_sha256, "limit": limit})

    def similar(self, prediction: Prediction, *, limit: int) -> list[Neighbour]:
        """The predictions whose vectors are nearest to this one's; VectorMissing or VectorsOff where it has none."""
        if not self.stores_vectors:
            raise VectorsOff(f'"more like this" is off: the database lacks pgvector; {SETUP_DB_COMMAND} says more')
        key = {"space": prediction.space, "image": prediction.image_sha256}
        vectors = self._execute(SQL["vector_of"], key)
        if not vectors:
            raise VectorMissing(f"prediction {prediction.id} has no vector: its model had no detectors then")
        rows = self._execute(SQL["nearest"], key | {"vector": vectors[0]["vector"], "limit": limit})
        return [Neighbour(distance=row.pop("distance"), prediction=read_prediction(row)) for row in rows]

    def count_unindexed_vectors(self) -> int:
        """Vectors that are not in the HNSW graph yet, which a search scans."""
        return int(self._scalar("count_unindexed", {})) if self.stores_vectors else 0

    def index_vectors(self, most: int) -> int:
        """Add up to `most` vectors to the HNSW graph, oldest first, and return how many; 0 when none is left."""
        return int(self._scalar("index_vectors", {"most": most})) if self.stores_vectors else 0

    def embedded_images(self, space: str, *, newest: int, model: str | None = None) -> EmbeddedImages:
        """The `newest` images of a space, plus all labelled ones; with the scores by `model`."""
        rows = self._execute(SQL["embedded_images"], {"space": space, "newest": newest, "model": model})
        return read_images(rows)

    def space_growth(self, space: str) -> int:
        """A number that grows with every row, and with every older one that the space's detectors describe."""
        return int(self._scalar("space_growth", {"space": space}))

    def most_novel(self, space: str | None, *, limit: int, unknown: bool = False) -> list[Prediction]:
        """The unlabelled images of the highest novelty, each once, in one space or in all; `unknown` to catalogues."""
        return self._predictions("most_novel", {"space": space, "limit": limit, "unknown": unknown})

    def add_label(self, id: int, label: LabelValue, *, who: str | None, note: str | None) -> StoredLabel:  # noqa: A002
        """Label the image of this prediction, or NotFound."""
        return self.label_batches.add([id], label, who=who, note=note)[0]

    def delete_label(self, id: int) -> StoredLabel:  # noqa: A002
        """Delete one label and return it, or NotFound."""
        for label in self.label_batches.delete(id, id):
            return label
        raise NotFound(f"there is no label {id}")

    def labels_of_image(self, prediction: Prediction) -> list[StoredLabel]:
        """The labels of this prediction's image, newest first; the newest is its current one."""
        key = {"image": prediction.image_sha256, "prediction_id": prediction.id}
        return [StoredLabel(**row) for row in self._execute(SQL["labels_of_image"], key)]

    def labels_by_image(self, predictions: Sequence[Prediction]) -> dict[str, LabelValue]:
        """The current labels of these predictions' images, by `Prediction.image_key`."""
        images = [row.image_sha256 for row in predictions if row.image_sha256]
        ids = [row.id for row in predictions if not row.image_sha256]
        return self._label_map("labels_by_image", {"images": images, "ids": ids}) if predictions else {}

    def label_pages(self) -> Iterator[list[Label]]:
        """Every label, oldest first, then images that have tags alone; the first page is empty if there is none."""
        return self.label_batches.pages()

    def current_labels(self) -> dict[str, LabelValue]:
        """The current label of every labelled image, by `Prediction.image_key`, the newest last."""
        return self._label_map("current_labels", {})

    def labels_in_order(self) -> list[LabelValue]:
        """The current label of every labelled image, in the order in which the images were first labelled."""
        return [row["label"] for row in self._execute(SQL["labels_in_order"], {})]

    def import_labels(self, labels: Sequence[Label]) -> ImportCounts:
        """Add labels of images that have predictions here, except those that are in the table already."""
        total: Counter[str] = Counter()
        for begin in range(0, len(labels), LABEL_BATCH):
            batch = list(enumerate(labels[begin : begin + LABEL_BATCH]))
            [counts] = self._insert("import_labels", statements.IMPORTED_LABELS, batch)
            total.update(counts)
        known, unmatched = total["labelled"] - total["added"], len(labels) - total["matched"]
        return ImportCounts(total["added"], known=known, unmatched=unmatched, tags=total["tagged"])

    def save_thumbnails(self, thumbnails: Sequence[Thumbnail], heat_maps: Sequence[HeatMap]) -> None:
        """Insert those that are missing; a heat map needs the thumbnail of its image."""
        # Sorted, since two workers that insert in different orders could deadlock.
        images = {thumbnail.image_sha256: thumbnail for thumbnail in thumbnails}
        self._insert("save_thumbnails", statements.THUMBNAILS, [images[image] for image in sorted(images)])
        maps = {(heat_map.image_sha256, heat_map.model_version): heat_map for heat_map in heat_maps}
        self._insert("save_heat_maps", statements.HEAT_MAPS, [maps[key] for key in sorted(maps)])

    def thumbnail(self, image_sha256: str) -> Thumbnail | None:
        """The thumbnail of an image, if there is one."""
        for row in self._execute(SQL["thumbnail"], {"image": storable_text(image_sha256)}):
            return Thumbnail(**row | {"jpeg": bytes(row["jpeg"])})
        return None

    def heat_map(self, image_sha256: str, model_version: str) -> HeatMap | None:
        """The heat map of an image by this version of a model, if there is one."""
        key = {"image": storable_text(image_sha256), "model_version": storable_text(model_version)}
        for row in self._execute(SQL["heat_map"], key):
            places = np.frombuffer(bytes(row["places"]), np.uint8).reshape(row["height"], row["width"])
            return HeatMap(image_sha256, model_version, places, row["crop"])
        return None

    def images_with_thumbnails(self, images: Sequence[str]) -> set[str]:
        """Which of these images (SHA-256) have a thumbnail."""
        rows = self._execute(SQL["images_with_thumbnails"], [list(images)]) if images else []
        return {row["image_sha256"] for row in rows}

    def prune_thumbnails(self, *, days: int, max_bytes: int) -> int:
        """Delete thumbnails that are too old or, oldest first, beyond `max_bytes`, except of labelled images."""
        excess = int(self._scalar("thumbnail_bytes", {})) - max_bytes
        pruned = 0
        while True:
            parameters = {"days": days, "excess": excess, "most": THUMBNAIL_BATCH, "lock": PRUNING}
            [deleted] = self._execute(SQL["prune_thumbnails"], parameters)
            pruned, excess = pruned + int(deleted["count"]), excess - int(deleted["bytes"])
            if deleted["count"] < THUMBNAIL_BATCH:
                return pruned

    def listen(self) -> Listener:
        """Notifications of new rows, on a connection of its own; DatabaseUnavailable if there is none."""
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True)
        enable, disable = SQL["enable_notifications"], SQL["disable_notifications"]
        return Listener(connection, CHANNEL, enable, disable, within_s=self._timeout_s)

    def check(self) -> None:
        """Raise DatabaseUnavailable or DatabaseNotSetUp if the table cannot be read."""
        self._execute(SQL["check"], {})

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
        self.heartbeat.close()

    def _connect(self, silent: threading.Event | None) -> Connection:
        connection = connect(self._url, timeout_s=self._timeout_s, bounded=True, silent=silent)
        register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        try:
            session = {"timeout": f"{self._timeout_s * 1000:.0f}ms", "candidates": CANDIDATES}
            execute_within(connection, SESSION, session, within_s=self._timeout_s, silent=silent)
            [row] = execute_within(connection, SQL["stores_vectors"], {}, within_s=self._timeout_s, silent=silent)
        except psycopg2.Error as error:
            connection.close()
            raise as_database_error(error) from error
        self._has_vectors = row["stores_vectors"]
        return connection

    def _execute(self, statement: str, parameters: Parameters, *, urgent: bool = False) -> list[Row]:
        return self._pool.execute(statement, parameters, within_s=self._timeout_s + GRACE_S, urgent=urgent)

    def _insert(self, statement: str, columns: Sequence[statements.Column[T]], records: Sequence[T]) -> list[Row]:
        if not records:
            return []
        rows = statements.placeholders(columns, len(records))
        return self._execute(SQL[statement].format(rows=rows), statements.row_values(columns, records))

    def _scalar(self, statement: str, parameters: Parameters) -> Any:
        return next(iter(self._execute(SQL[statement], parameters)[0].values()))

    def _predictions(self, statement: str, parameters: Parameters) -> list[Prediction]:
        return [read_prediction(row) for row in self._execute(SQL[statement], parameters)]

    def _label_map(self, statement: str, parameters: Parameters) -> dict[str, LabelValue]:
        return {row["image"]: row["label"] for row in self._execute(SQL[statement], parameters)}


def _by_request_id(rows: Sequence[Row]) -> dict[uuid.UUID | None, Prediction]:
    return {row["request_id"]: read_prediction(row) for row in rows}
