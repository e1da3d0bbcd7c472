"""Follows the new rows of `predictions`, whichever process writes them: their number and the newest of them."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Protocol

from astrodetect.errors import DatabaseError
from astrodetect.records import ANOMALY, BIGINT_MAX, UNUSUAL_NOVELTY, Prediction

MAX_NEWEST = 20  # rows kept in the state
MAX_READ = 500  # rows of one read; beyond it their number is estimated from the ids
FIRST_READ = 250  # rows of the first read, among which ids may be missing: less than MAX_READ, as more may come
READ_INTERVAL_S = 0.33
STOP_CHECK_S = 0.25  # longest wait for a notification before the stop is noticed
COMMIT_S = 0.25  # of a commit that began before notifications were enabled
MAX_SILENCE_S = 5.0  # between reads without a notification: a server that hangs sends none
RETRY_S = 1.0  # while PostgreSQL is down
LATE_S = 10.0  # how long a missing id may still appear, as commits do not keep the order of ids
MAX_LATE_IDS = 1000

MAX_CURSOR_IDS = 1000  # missing ids in a written cursor; of more the smallest are left out
MAX_CURSOR_CHARS = 13_000  # where every other id is missing
CURSOR_PATTERN = r"^[0-9]{1,19}(\.[0-9]{1,19}-[0-9]{1,4})*$"

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, slots=True)
class EventCursor:
    """The rows that a client has received: all ids up to `last` but the `missing` ones, whose rows may still appear.

    `str` gives the event id that browsers send back as Last-Event-ID.
    """

    last: int
    missing: frozenset[int] = frozenset()  # smaller than `last`

    @classmethod
    def parse(cls, text: str) -> "EventCursor":
        """From text that matches CURSOR_PATTERN, whether or not it was written here."""
        last, *runs = ([int(number) for number in part.split("-")] for part in text.split("."))
        end = min(last[0], BIGINT_MAX)
        missing = (id_ for back, count in runs for id_ in range(max(1, end - back), min(end - back + count, end)))
        return cls(end, frozenset(islice(missing, MAX_CURSOR_IDS)))

    def __str__(self) -> str:
        """`last`, then each run of missing ids: its distance before `last`, and its length."""
        missing = enumerate(sorted(self.missing)[-MAX_CURSOR_IDS:])
        runs = [[id_ for _, id_ in run] for _, run in groupby(missing, lambda item: item[1] - item[0])]
        return ".".join([str(self.last), *(f"{self.last - run[0]}-{len(run)}" for run in runs)])


class RowListener(Protocol):
    """LISTEN on the channel of new rows: `db.connections.Listener`."""

    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


class RowDatabase(Protocol):
    """The database of the rows: `database.Database`."""

    def listen(self) -> RowListener: ...
    def newest_id(self) -> int: ...
    def newer_than(self, id: int, *, limit: int) -> list[Prediction]: ...  # noqa: A002
    def by_ids(self, ids: Sequence[int]) -> Mapping[int, Prediction]: ...


def is_highlighted(row: Prediction) -> bool:
    """Whether the image is an anomaly, or its novelty is at least UNUSUAL_NOVELTY."""
    return row.result == ANOMALY or (row.novelty or 0.0) >= UNUSUAL_NOVELTY


@dataclass(frozen=True, slots=True)
class FollowerState:
    """The rows followed so far; the counts are since the follower started."""

    last: int | None = None  # the largest id; None before the first read
    missing: frozenset[int] = frozenset()  # smaller ids whose rows may still appear
    unavailable: bool = False  # PostgreSQL does not answer
    images: int = 0
    highlighted: int = 0
    newest: tuple[Prediction, ...] = ()
    newest_highlighted: tuple[Prediction, ...] = ()

    @property
    def cursor(self) -> EventCursor:
        """Where a client that received all of this continues."""
        return EventCursor(self.last or 0, self.missing)


class RowFollower:
    """A thread that reads new rows when notified; it calls `notify` whenever `state` changed."""

    def __init__(self, database: RowDatabase, notify: Callable[[], object]) -> None:
        self.state = FollowerState()
        self._database, self._notify = database, notify
        self._late: dict[int, float] = {}  # missing id → until when its row may appear
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="row-follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(self._database.listen()) as listener:  # before the first read, to miss no row in between
                    self._follow(listener)
            except (DatabaseError, OSError) as error:  # OSError: no descriptors are left
                if not self.state.unavailable:
                    log.warning("new rows are not followed: %s", error)
                    self._set_state(replace(self.state, unavailable=True))
                self._closing.wait(RETRY_S)

    def _follow(self, listener: RowListener) -> None:
        """Listens only while there is nothing to read: under load, notifications would cost the writers time."""
        while not self._closing.is_set():
            listener.enable()
            for timeout_s in (0.0, COMMIT_S, MAX_SILENCE_S):
                deadline = time.monotonic() + timeout_s
                while not self._closing.is_set() and time.monotonic() < deadline and not listener.wait(STOP_CHECK_S):
                    pass
                if self._read():
                    break
            listener.disable()
            self._closing.wait(READ_INTERVAL_S)

    def _read(self) -> bool:
        """Whether there were new rows."""
        state, started = self.state, time.monotonic()
        last = max(0, self._database.newest_id() - FIRST_READ) if state.last is None else state.last
        rows = self._database.newer_than(last, limit=MAX_READ)
        late = list(self._database.by_ids(list(self._late)).values()) if self._late else []
        newest = rows[0].id if rows else last
        new = sorted([*rows, *late], key=lambda row: row.id, reverse=True)
        highlighted = [row for row in new if is_highlighted(row)]

        new_ids = {row.id for row in new}
        self._late = {id_: until for id_, until in self._late.items() if id_ not in new_ids and until > started}
        complete = len(rows) < MAX_READ
        if complete:
            skipped = range(max(last + 1, newest - MAX_LATE_IDS), newest)
            self._late |= {id_: started + LATE_S for id_ in skipped if id_ not in new_ids}
        if new or state.last is None or state.unavailable or state.missing != self._late.keys():
            self._set_state(
                FollowerState(
                    newest,
                    frozenset(self._late),
                    images=state.images + len(late) + (len(rows) if complete else newest - last),
                    highlighted=state.highlighted + len(highlighted),
                    newest=(*new, *state.newest)[:MAX_NEWEST],
                    newest_highlighted=(*highlighted, *state.newest_highlighted)[:MAX_NEWEST],
                )
            )
        return bool(new)

    def _set_state(self, state: FollowerState) -> None:
        self.state = state
        self._notify()
