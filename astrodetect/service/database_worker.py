"""A background thread that works on the database at intervals."""

import logging
import threading
from abc import ABC, abstractmethod

from astrodetect.errors import DatabaseError

log = logging.getLogger("uvicorn.error")


class DatabaseWorker(ABC):
    """Calls `step` at intervals; while the database does not answer, it logs `waiting` once and tries again."""

    def __init__(self, name: str, interval_s: float, waiting: str) -> None:
        self._interval_s, self._waiting = interval_s, waiting
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @abstractmethod
    def step(self) -> None:
        """One unit of work."""

    def close(self) -> None:
        """Stops the thread after the present step."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        reported = False
        while not self._closing.wait(self._interval_s):
            try:
                self.step()
                reported = False
            except DatabaseError as error:
                if not reported:
                    log.warning("%s: %s", self._waiting, error)
                reported = True
