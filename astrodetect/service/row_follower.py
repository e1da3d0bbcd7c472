"""The log's new rows, whoever writes them: heard of as they come, and kept as a count and the newest few."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from astrodetect.errors import DatabaseError
from astrodetect.records import ANOMALY, Prediction
from astrodetect.service.event_cursor import EventCursor

MOST_SHOWN = 20  # rows that are kept: of those that come faster than anybody reads, the newest
MOST_READ = 500  # in one look; beyond it the ids say how many came
PACE_S = 0.33  # between two looks
SLICE_S = 0.25  # of waiting, so that the end is not waited for
COMMIT_S = 0.25  # that a commit takes which began before it was asked to tell
SILENT_S = 5.0  # without a look at most: a server that hangs tells of nothing
RETRY_S = 1.0  # while PostgreSQL is away
LATE_S = 10.0  # after a row with a larger id another one may still come: commits do not keep the order of ids
MOST_LATE = 1000  # ids that are looked out for
UNUSUAL = 0.99  # novelty from which an image stands out though the classifier found nothing

log = logging.getLogger("uvicorn.error")


class RowListener(Protocol):
    """What hears of new rows: `listening.Listener`."""

    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...
    def close(self) -> None: ...


class RowDatabase(Protocol):
    """Where they are: `database.Database`."""

    def listen(self) -> RowListener: ...
    def newest_id(self) -> int: ...
    def newer_than(self, id: int, *, limit: int) -> list[Prediction]: ...  # noqa: A002
    def by_ids(self, ids: Sequence[int]) -> Mapping[int, Prediction]: ...


def stands_out(row: Prediction) -> bool:
    """Whether it is an anomaly, or so unusual that people should see it."""
    return row.result == ANOMALY or (row.novelty or 0.0) >= UNUSUAL


@dataclass(frozen=True, slots=True)
class FollowerState:
    """What is known at a moment; the counts are since following began."""

    last: int | None = None  # the largest id so far; None before the first look
    missing: frozenset[int] = frozenset()  # smaller ids whose rows may still come
    away: bool = False  # PostgreSQL does not answer
    images: int = 0
    standing_out: int = 0
    newest: tuple[Prediction, ...] = ()
    newest_out: tuple[Prediction, ...] = ()  # of those that stand out

    @property
    def position(self) -> EventCursor:
        """Where whoever was told of all this goes on."""
        return EventCursor(self.last or 0, self.missing)


class RowFollower:
    """A thread that listens while it is wanted; `told` is called in it whenever `now` changed."""

    def __init__(self, rows: RowDatabase, told: Callable[[], object]) -> None:
        self.now = FollowerState()
        self._rows, self._told = rows, told
        self._late: dict[int, float] = {}  # ids without rows, and until when they are looked out for
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follows no more."""
        self._closing.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(self._rows.listen()) as ear:  # before the first look: nothing comes unheard between
                    self._follow(ear)
            except DatabaseError as error:
                if not self.now.away:
                    log.warning("new rows are not heard of: %s", error)
                    self._tell(replace(self.now, away=True))
                self._closing.wait(RETRY_S)

    def _follow(self, ear: RowListener) -> None:
        """Wants to be told only while there is nothing to tell: a flood of rows pays for no more word than is heard."""
        while not self._closing.is_set():
            ear.enable()
            for patience_s in (0.0, COMMIT_S, SILENT_S):
                give_up = time.monotonic() + patience_s
                while not self._closing.is_set() and time.monotonic() < give_up and not ear.wait(SLICE_S):
                    pass
                if self._look():
                    break
            ear.disable()
            self._closing.wait(PACE_S)

    def _look(self) -> bool:
        """Whether anything came."""
        now, began = self.now, time.monotonic()
        last = max(0, self._rows.newest_id() - MOST_SHOWN) if now.last is None else now.last
        rows = self._rows.newer_than(last, limit=MOST_READ)
        late = list(self._rows.by_ids(list(self._late)).values()) if self._late else []
        newest = rows[0].id if rows else last
        came = sorted([*rows, *late], key=lambda row: row.id, reverse=True)
        out = [row for row in came if stands_out(row)]

        here = {row.id for row in came}
        self._late = {one: until for one, until in self._late.items() if one not in here and until > began}
        whole = len(rows) < MOST_READ
        if whole:
            skipped = range(max(last + 1, newest - MOST_LATE), newest)
            self._late |= {one: began + LATE_S for one in skipped if one not in here}
        if came or now.last is None or now.away or now.missing != self._late.keys():
            self._tell(
                FollowerState(
                    newest,
                    frozenset(self._late),
                    images=now.images + len(late) + (len(rows) if whole else newest - last),
                    standing_out=now.standing_out + len(out),
                    newest=(*came, *now.newest)[:MOST_SHOWN],
                    newest_out=(*out, *now.newest_out)[:MOST_SHOWN],
                )
            )
        return bool(came)

    def _tell(self, now: FollowerState) -> None:
        self.now = now
        self._told()
