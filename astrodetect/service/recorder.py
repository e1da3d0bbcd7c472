"""A row before an answer: what waits together becomes one commit, and while PostgreSQL is away it waits on disk."""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from astrodetect.errors import DatabaseError, DatabaseUnavailable, OutboxFull
from astrodetect.inference.batching import Batcher, ItemResult
from astrodetect.records import Prediction, QueuedPrediction, ScoredImage
from astrodetect.service.outbox import Outbox

MOST_ROWS = 500  # a commit; more gain nothing
RETRY_S = 1.0  # between two looks whether PostgreSQL is back

log = logging.getLogger("uvicorn.error")


class PredictionDatabase(Protocol):
    """What keeps the rows: `database.Database`."""

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]: ...
    def check(self) -> None: ...
    def by_request_ids(self, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID | None, Prediction]: ...


class Recorder:
    """Writes rows in the order in which they came, each durable when `record` returns."""

    def __init__(self, database: PredictionDatabase, outbox: Outbox, *, recorded: Callable[[str, int], None]) -> None:
        self._database, self._outbox, self._recorded = database, outbox, recorded
        self._closing, self._filled = threading.Event(), threading.Event()
        self._filled.set()  # an earlier process may have left rows
        self._writer: Batcher[ScoredImage, Prediction | QueuedPrediction] = Batcher(
            self._write, max_batch=MOST_ROWS, threads=1, name="recorder"
        )
        self._drainer = threading.Thread(target=self._drain, name="drainer", daemon=True)
        self._drainer.start()

    @property
    def away(self) -> bool:
        """Whether rows go to the disk."""
        return len(self._outbox) > 0

    async def record(self, scored: ScoredImage) -> ItemResult[Prediction | QueuedPrediction]:
        """Its row; or its promise, while PostgreSQL is away or rows from before still wait."""
        return await self._writer.submit(scored)

    def check(self) -> Literal["committed", "queued"]:
        """What would become of a row now; raises what would keep it from being kept at all."""
        if self._outbox.full:
            raise OutboxFull("the outbox is full")
        try:
            self._database.check()
        except DatabaseUnavailable:
            return "queued"
        return "queued" if self.away else "committed"

    def find(self, request_id: uuid.UUID) -> Prediction | QueuedPrediction | None:
        """What was recorded under a caller's key; DatabaseUnavailable where nobody can know."""
        waiting = self._outbox.find(request_id)
        return QueuedPrediction(waiting) if waiting else self._database.by_request_ids([request_id]).get(request_id)

    def close(self) -> None:
        """Writes what waits, and gives PostgreSQL one more chance to take what is on disk."""
        self._writer.close()
        self._closing.set()
        self._filled.set()
        self._drainer.join()
        if len(self._outbox):
            log.warning("%d rows stay in the outbox: the next start hands them to PostgreSQL", len(self._outbox))
        self._outbox.close()

    def _write(self, rows: list[ScoredImage]) -> Sequence[Prediction | QueuedPrediction | Exception]:
        if not self.away:  # only this thread fills the outbox: empty now, it stays so
            try:
                predictions = self._database.record_many(rows)
            except DatabaseUnavailable as error:
                log.error("rows go to the outbox: %s", error)
            else:
                self._recorded("committed", len(rows))
                return predictions
        try:
            self._outbox.append(rows)
        except OutboxFull as full:
            return [full] * len(rows)
        self._filled.set()
        self._recorded("queued", len(rows))
        return [QueuedPrediction(row) for row in rows]

    def _drain(self) -> None:
        """In a thread of its own, so that a PostgreSQL that hangs keeps no caller waiting."""
        while True:
            self._filled.wait()
            self._filled.clear()
            drained, said = 0, ""
            while self.away:
                try:
                    drained += self._outbox.hand_over(MOST_ROWS, self._deliver)
                except DatabaseError as error:
                    if not isinstance(error, DatabaseUnavailable) and str(error) != said:
                        log.error("the outbox cannot be emptied: %s", said := str(error))
                    if self._closing.is_set():
                        return
                    self._closing.wait(RETRY_S)  # cut short by the end, which looks once more
            if drained:
                log.warning("PostgreSQL is back: %d rows from the outbox are in the table", drained)
            if self._closing.is_set():
                return

    def _deliver(self, rows: list[ScoredImage]) -> None:
        """Into the table; where another request took a row's key meanwhile, the row is kept under a new id."""
        predictions = self._database.record_many(rows)
        late = [
            replace(row, request_id=uuid.uuid5(row.request_id, f"{row.image_sha256} {row.model}"))
            for row, kept in zip(rows, predictions, strict=True)
            if (kept.image_sha256, kept.model) != (row.image_sha256, row.model)
        ]
        if late:
            log.error("%d rows came under keys that another service gave away meanwhile: kept as new ids", len(late))
            self._database.record_many(late)
        self._recorded("drained", len(rows))
