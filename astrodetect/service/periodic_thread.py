"""A background thread that does a step of its work at intervals."""

import logging
import threading
from abc import ABC, abstractmethod

from astrodetect.errors import AstrodetectError

log = logging.getLogger("uvicorn.error")


class PeriodicThread(ABC):
    """Calls `step` at intervals; where that fails, it logs `consequence` and the reason once, and tries again."""

    def __init__(self, name: str, interval_s: float, consequence: str, *, first_s: float | None = None) -> None:
        self._interval_s, self._consequence = interval_s, consequence
        self._first_s = interval_s if first_s is None else first_s
        self._closing = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    @abstractmethod
    def step(self) -> None:
        """One unit of work."""

    def close(self) -> None:
        """Stops the thread after the present step."""
        self._closing.set()
        self.thread.join()

    def _run(self) -> None:
        reported, wait_s = "", self._first_s
        while not self._closing.wait(wait_s):
            wait_s = self._interval_s
            try:
                self.step()
                reported = ""
            except Exception as error:
                if str(error) != reported:
                    unexpected = None if isinstance(error, AstrodetectError | OSError) else error
                    log.warning("%s: %s", self._consequence, error, exc_info=unexpected)
                reported = str(error)
