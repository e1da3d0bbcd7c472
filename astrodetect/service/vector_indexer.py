"""Vectors enter the graph that finds what is alike once there is time: beside a row it would cost more than the row."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from astrodetect.errors import DatabaseError

A_COMMIT = 32  # vectors: an eighth of a second where a million are stored
PAUSE_S = 1.0  # between two looks whether there is anything to do, and time to
MOST_FRESH = 20_000  # a search looks at each of them, which takes it 4 to 9 ms more

log = logging.getLogger("uvicorn.error")


class VectorDatabase(Protocol):
    """What keeps them: `database.Database`."""

    def count_unindexed_vectors(self) -> int: ...
    def index_vectors(self, most: int) -> int: ...


class VectorIndexer:
    """A thread that indexes what is fresh while no image is at work."""

    def __init__(self, database: VectorDatabase, *, at_work: Callable[[], int]) -> None:
        self._database, self._at_work = database, at_work
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="indexer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """What is still fresh is found so by the next start."""
        self._closing.set()
        self._thread.join()

    def _go_on(self) -> None:
        said = False
        while not self._closing.wait(PAUSE_S):
            try:
                self._catch_up()
                said = False
            except DatabaseError as error:
                if not said:
                    log.warning("vectors wait for their index: %s", error)
                said = True

    def _catch_up(self) -> None:
        """Until nothing is fresh or images come; among images one commit, and only of what is too much."""
        if self._at_work() and self._database.count_unindexed_vectors() > MOST_FRESH:
            self._database.index_vectors(A_COMMIT)
        while not self._at_work() and not self._closing.is_set() and self._database.index_vectors(A_COMMIT):
            pass
