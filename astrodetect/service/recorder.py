"""Records predictions in PostgreSQL, or in the outbox while it is down, and indexes their vectors while idle."""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from astrodetect.db.connections import ValuesRejected
from astrodetect.db.statements import storable_text
from astrodetect.errors import AstrodetectError, DatabaseError, DatabaseUnavailable, OutboxFull
from astrodetect.records import Prediction, QueuedPrediction, ScoredImage, SkyObject
from astrodetect.service.outbox import REJECTED_FILE, Outbox
from astrodetect.service.periodic_thread import PeriodicThread

MAX_COMMIT_ROWS = 500  # of the outbox; more gain nothing
RETRY_S = 1.0  # while PostgreSQL is down
ADOPT_S = 15.0  # between looks for rows of processes that have ended
COMMIT_VECTORS = 32  # an eighth of a second in an index of a million
INDEX_INTERVAL_S = 1.0
MAX_UNINDEXED = 20_000  # each search scans them, which takes 4 to 9 ms

log = logging.getLogger("uvicorn.error")


class PredictionDatabase(Protocol):
    """The database of the predictions: `database.Database`."""

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]: ...
    def by_request_ids(self, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID | None, Prediction]: ...


class Recorder:
    """Records predictions, for many threads; they are durable when `record` returns."""

    def __init__(self, database: PredictionDatabase, outbox: Outbox, *, count_rows: Callable[[str, int], None]) -> None:
        self._database, self._outbox, self._count_rows = database, outbox, count_rows
        self.commit_failed = False  # the last one, for want of PostgreSQL or of its space
        self._closing, self._outbox_filled = threading.Event(), threading.Event()
        self._outbox_filled.set()  # by an earlier process, perhaps
        self.thread = threading.Thread(target=self._drain, name="outbox-drainer", daemon=True)
        self.thread.start()

    @property
    def queueing(self) -> bool:
        """Whether new rows go to the outbox."""
        return len(self._outbox) > 0

    def record(self, rows: Sequence[ScoredImage]) -> Sequence[Prediction | QueuedPrediction | AstrodetectError]:
        """The rows, in one commit; or queued ones, while PostgreSQL is down or earlier rows are still queued.

        A row that PostgreSQL rejects, or that the outbox has no room for, is an error in its place.
        """
        if not self.queueing:  # rows of other processes may be adopted meanwhile: their order is their own
            try:
                predictions = self._database.record_many(rows)
            except DatabaseUnavailable as error:
                if not self.commit_failed:  # again and again where the outbox has no room either
                    log.error("rows go to the outbox: %s", error)
                self.commit_failed = True
            except DatabaseError as error:
                return [error] if len(rows) == 1 else [result for row in rows for result in self.record([row])]
            else:
                self.commit_failed = False
                self._count_rows("committed", len(rows))
                return predictions
        try:
            self._outbox.append(rows)
        except OutboxFull as full:
            return [full] * len(rows)
        self._outbox_filled.set()
        self._count_rows("queued", len(rows))
        return [QueuedPrediction(row) for row in rows]

    def find(self, request_id: uuid.UUID) -> Prediction | QueuedPrediction | None:
        """The prediction with this request id; DatabaseUnavailable where only the database can tell."""
        queued = self._outbox.find(request_id)
        return QueuedPrediction(queued) if queued else self._database.by_request_ids([request_id]).get(request_id)

    def close(self) -> None:
        """Tries to drain the outbox once more, and closes it."""
        self._closing.set()
        self._outbox_filled.set()
        self.thread.join()
        if len(self._outbox):
            log.warning("%d rows stay in the outbox: the next start writes them to PostgreSQL", len(self._outbox))
        self._outbox.close()

    def _drain(self) -> None:
        """Runs in a thread of its own, so that a database that hangs delays no request; no error ends it."""
        drained, reported = 0, ""
        while True:
            waited = self._outbox_filled.wait(ADOPT_S)
            self._outbox_filled.clear()
            try:
                if not waited:
                    self._outbox.adopt()
                while self.queueing:
                    drained += self._outbox.drain(MAX_COMMIT_ROWS, self._record_queued)
            except Exception as error:  # noqa: BLE001 - of the database, the disk or a row
                if not isinstance(error, DatabaseUnavailable) and str(error) != reported:
                    reported = str(error)
                    log.error("the outbox cannot be drained: %s", reported)
                if not self._closing.is_set():
                    self._closing.wait(RETRY_S)  # `close` ends the wait, and one more attempt follows
                    self._outbox_filled.set()
                    continue
            if drained:
                log.warning("PostgreSQL is back: %d rows left the outbox", drained)
                drained, reported = 0, ""
            if self._closing.is_set():
                return

    def _record_queued(self, rows: list[ScoredImage]) -> list[ScoredImage]:
        """Writes rows of the outbox, in order, and returns those that PostgreSQL refuses whenever they are sent."""
        if rejected := self._write_queued(rows):
            (first, error), count = rejected[0], len(rejected)
            log.error("%d rows are kept in %s in the outbox; %s: %s", count, REJECTED_FILE, first.request_id, error)
            self._count_rows("rejected", count)
        self.commit_failed = False
        self._count_rows("drained", len(rows) - len(rejected))
        return [row for row, _ in rejected]

    def _write_queued(self, rows: list[ScoredImage]) -> list[tuple[ScoredImage, Exception]]:
        try:
            self._commit_queued(rows)
        except (ValuesRejected, ValueError, TypeError) as error:  # the last two of rows that were edited
            if len(rows) == 1:
                return [(rows[0], error)]
            half = len(rows) // 2
            return self._write_queued(rows[:half]) + self._write_queued(rows[half:])
        return []

    def _commit_queued(self, rows: list[ScoredImage]) -> None:
        """One whose idempotency key was used elsewhere meanwhile gets a new request id."""
        predictions = self._database.record_many(rows)
        conflicting = [
            replace(row, request_id=uuid.uuid5(row.request_id, f"{row.image_sha256} {row.model} {given}"))
            for row, recorded in zip(rows, predictions, strict=True)
            for given in [SkyObject(row.ra, row.dec, row.object_id)]
            if not is_same_request(recorded, row.image_sha256, row.model, given)
        ]
        if conflicting:
            log.error("%d queued rows had keys that another service used meanwhile: new request ids", len(conflicting))
            self._database.record_many(conflicting)


def is_same_request(recorded: Prediction | ScoredImage, sha256: str, model: str, given: SkyObject) -> bool:
    """Whether a row is of this image and model, with the position and object given, if any."""
    return (
        (recorded.image_sha256, recorded.model) == (sha256, model)
        and (given.ra is None or (recorded.ra, recorded.dec) == (given.ra, given.dec))
        and (given.object_id is None or storable_text(recorded.object_id) == storable_text(given.object_id))
    )


class VectorDatabase(Protocol):
    """The database of the vectors: `database.Database`."""

    def count_unindexed_vectors(self) -> int: ...
    def index_vectors(self, most: int) -> int: ...


class VectorIndexer(PeriodicThread):
    """Adds new vectors to the HNSW index while no image is being processed; the next start indexes the rest."""

    def __init__(self, database: VectorDatabase, *, in_flight: Callable[[], int]) -> None:
        self._database, self._in_flight = database, in_flight
        super().__init__("vector-indexer", INDEX_INTERVAL_S, "vectors wait to be indexed")

    def step(self) -> None:
        """Indexes until none is left or images arrive; while images arrive, one commit, beyond MAX_UNINDEXED."""
        if self._in_flight() and self._database.count_unindexed_vectors() > MAX_UNINDEXED:
            self._database.index_vectors(COMMIT_VECTORS)
        while not self._in_flight() and not self._closing.is_set() and self._database.index_vectors(COMMIT_VECTORS):
            pass
