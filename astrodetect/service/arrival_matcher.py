"""Finds out which new predictions show a known object, soon after they are recorded."""

import math
import time
from typing import Protocol

from astrodetect.service.periodic_thread import PeriodicThread

CHECK_S = 1.0
LATE_S = 10.0  # within which a row is committed after one with a higher id; by default statements take 5 s at most


class ArrivalTable(Protocol):
    """The new predictions: `db.arrivals.Arrivals`."""

    def newest(self) -> tuple[int, int] | None: ...
    def match(self, after: int, newest: int) -> int: ...


class ArrivalDatabase(Protocol):
    """A database with such a table: `database.Database`."""

    @property
    def arrivals(self) -> ArrivalTable: ...


class ArrivalMatcher(PeriodicThread):
    """Compares predictions with the catalogues, whichever process recorded them; not those of before.

    Where several processes do the same, the first result stays.
    """

    def __init__(self, database: ArrivalDatabase) -> None:
        self._database = database
        self._settled: int | None = None  # no row to this one can still appear; None before the first step
        self._compared = 0  # rows to this one were looked at
        self._seen, self._seen_s = 0, -math.inf  # the newest row at a time: settled when LATE_S have passed
        super().__init__("arrival-matcher", CHECK_S, "new predictions are not compared with the catalogues")

    def step(self) -> None:
        """Compares what is new since the last step; every LATE_S, what was committed late as well."""
        if (ids := self._database.arrivals.newest()) is None:
            return
        newest, matched = ids
        if self._settled is None or newest < self._seen:  # the first step, or rows were deleted
            self._settled = self._compared = self._seen = min(matched or newest, newest)
        now = time.monotonic()
        is_due = now - self._seen_s >= LATE_S
        compared = self._settled if is_due else self._compared
        while compared < newest:
            if self._closing.is_set():
                return
            compared = self._database.arrivals.match(compared, newest)
        self._compared = compared
        if is_due:
            self._settled, self._seen, self._seen_s = self._seen, newest, now
