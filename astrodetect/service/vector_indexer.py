"""Moves new vectors into the HNSW index while the service is idle: indexing costs more than inserting the row."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from astrodetect.errors import DatabaseError

COMMIT_VECTORS = 32  # an eighth of a second in an index of a million
CHECK_INTERVAL_S = 1.0
MAX_UNINDEXED = 20_000  # each search scans them, which takes 4 to 9 ms

log = logging.getLogger("uvicorn.error")


class VectorDatabase(Protocol):
    """The database of the vectors: `database.Database`."""

    def count_unindexed_vectors(self) -> int: ...
    def index_vectors(self, most: int) -> int: ...


class VectorIndexer:
    """A thread that indexes new vectors while no image is being processed."""

    def __init__(self, database: VectorDatabase, *, in_flight: Callable[[], int]) -> None:
        self._database, self._in_flight = database, in_flight
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vector-indexer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the thread; the next start indexes the rest."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        reported = False
        while not self._closing.wait(CHECK_INTERVAL_S):
            try:
                self._index()
                reported = False
            except DatabaseError as error:
                if not reported:
                    log.warning("vectors wait to be indexed: %s", error)
                reported = True

    def _index(self) -> None:
        """Indexes until none is left or images arrive; while images arrive, one commit, beyond MAX_UNINDEXED."""
        if self._in_flight() and self._database.count_unindexed_vectors() > MAX_UNINDEXED:
            self._database.index_vectors(COMMIT_VECTORS)
        while not self._in_flight() and not self._closing.is_set() and self._database.index_vectors(COMMIT_VECTORS):
            pass
