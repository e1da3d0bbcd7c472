"""New predictions for pages that watch: each learns what came since it last heard, and a slow one holds no memory."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

from astrodetect.errors import DatabaseError, Overloaded
from astrodetect.records import Prediction
from astrodetect.service.event_cursor import EventCursor
from astrodetect.service.row_follower import MOST_SHOWN, FollowerState, RowDatabase, RowFollower, stands_out
from astrodetect.service.shutdown import Shutdown

MOST_MISSED = 1000  # rows that whoever comes back is told of
HEARTBEAT_S = 15.0  # between two words at most, so that proxies keep the line and watchers who left are noticed
RETRY_S = 2.0  # until what could not be read is read again
LINGER_S = 10.0  # rows are followed on after the last watcher left: a page that is loaded again comes back at once


class StreamEvent(Enum):
    """What a watcher is told beside news."""

    QUIET = "nothing for a while"
    AWAY = "PostgreSQL does not answer"


@dataclass(frozen=True, slots=True)
class NewRows:
    """What came since a watcher last heard."""

    images: int
    standing_out: int
    rows: tuple[Prediction, ...]  # the newest of them, newest first, of all or of those that stand out
    position: EventCursor  # where to go on from
    whole: bool = True  # False where more came than are counted


class LiveFeed:
    """One follower for all watchers, while there are any: a service that nobody watches does nothing for it."""

    def __init__(self, database: RowDatabase, drain: Shutdown, *, most: int) -> None:
        self._database, self._most = database, most
        self._drain, self._ended = drain, False
        self._loop = asyncio.get_running_loop()
        self._pulse = asyncio.Event()
        self._follower: RowFollower | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._watchers = 0
        drain.on_begin(partial(self._loop.call_soon_threadsafe, self._end))

    def __len__(self) -> int:
        """How many watch."""
        return self._watchers

    async def watch(self, after: EventCursor | None, *, only: bool) -> AsyncIterator[NewRows | StreamEvent]:
        """What comes after this position, from now on where none is given; the rows of `only` those that stand out.

        Overloaded where too many watch. It ends when the service does.
        """
        follower = self._come()
        try:
            yield StreamEvent.QUIET
            seen: FollowerState | None = None
            away = False
            while not self._ended:
                pulse, now = self._pulse, follower.now
                word = await self._word(now, seen, after, only)
                if isinstance(word, NewRows):
                    if word.images or away or seen is None:
                        yield word
                    seen, away = now, False
                elif word is StreamEvent.AWAY and not away:
                    yield word
                    away = True
                if not await _within(RETRY_S if away else HEARTBEAT_S, pulse):
                    yield StreamEvent.QUIET
        finally:
            self._go()

    def close(self) -> None:
        """Ends what is watched, and the following."""
        self._end()
        if self._resting:
            self._resting.cancel()
        if self._follower:
            self._follower.close()

    async def _word(
        self, now: FollowerState, seen: FollowerState | None, after: EventCursor | None, only: bool
    ) -> NewRows | StreamEvent:
        if now.away or now.last is None:
            return StreamEvent.AWAY if now.away else StreamEvent.QUIET
        if seen:
            images, out = now.images - seen.images, now.standing_out - seen.standing_out
            rows = now.newest_out[:out] if only else now.newest[:images]
            return NewRows(images, out, rows, now.position)
        if after is None:
            return NewRows(0, 0, (), now.position)
        try:
            found = await asyncio.to_thread(self._missed, after, now.last)
        except DatabaseError:
            return StreamEvent.AWAY
        if found is None:
            return StreamEvent.QUIET
        missed = [row for row in found[:MOST_MISSED] if row.id <= now.last and row.id not in now.missing]
        out_of_it = [row for row in missed if stands_out(row)]
        rows = tuple((out_of_it if only else missed)[:MOST_SHOWN])
        return NewRows(len(missed), len(out_of_it), rows, now.position, whole=len(found) <= MOST_MISSED)

    def _missed(self, after: EventCursor, last: int) -> list[Prediction] | None:
        """What came after this position; None where another worker told of more than this one's follower saw so far."""
        if last < after.last <= self._database.newest_id():
            return None
        late = self._database.by_ids(list(after.missing)).values() if after.missing else ()
        found = self._database.newer_than(after.last, limit=MOST_MISSED + 1)
        return found + sorted(late, key=lambda row: row.id, reverse=True)

    def _come(self) -> RowFollower:
        self._drain.check()
        if self._watchers >= self._most:
            raise Overloaded(f"{self._most} pages watch already, as many as may: close one, or try again later")
        self._watchers += 1
        if self._resting:
            self._resting.cancel()
            self._resting = None
        if self._follower is None:
            self._follower = RowFollower(self._database, partial(self._loop.call_soon_threadsafe, self._wake))
        return self._follower

    def _go(self) -> None:
        self._watchers -= 1
        if not self._watchers and not self._ended:
            self._resting = self._loop.call_later(LINGER_S, self._rest)

    def _rest(self) -> None:
        follower, self._follower, self._resting = self._follower, None, None
        if follower:
            self._loop.run_in_executor(None, follower.close)

    def _wake(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    def _end(self) -> None:
        self._ended = True
        self._wake()


async def _within(seconds: float, pulse: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await pulse.wait()
    except TimeoutError:
        return False
