"""The live feed: each client receives what was recorded since its last event, at its own pace and without a backlog."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

from astrodetect.errors import DatabaseError, Overloaded
from astrodetect.records import Prediction
from astrodetect.service.row_follower import (
    MAX_NEWEST,
    EventCursor,
    FollowerState,
    RowDatabase,
    RowFollower,
    is_highlighted,
)
from astrodetect.service.shutdown import Shutdown

MAX_MISSED = 1000  # rows counted for a client that reconnects
HEARTBEAT_S = 15.0  # so that proxies keep the connection open and disconnects are noticed
RETRY_S = 2.0  # until missed rows that could not be read are read again
LINGER_S = 10.0  # the follower goes on after the last client left, which reconnects when its page is reloaded


class StreamEvent(Enum):
    """An event without rows."""

    HEARTBEAT = "nothing for a while"
    UNAVAILABLE = "PostgreSQL does not answer"


@dataclass(frozen=True, slots=True)
class NewRows:
    """The rows since the client's last event."""

    images: int
    highlighted: int
    rows: tuple[Prediction, ...]  # the newest of them, newest first: of all, or of the highlighted ones
    cursor: EventCursor  # where to continue
    complete: bool = True  # False where there were more than are counted


class LiveFeed:
    """One row follower for all clients, which runs only while there are any."""

    def __init__(self, database: RowDatabase, shutdown: Shutdown, *, max_clients: int) -> None:
        self._database, self._max_clients = database, max_clients
        self._shutdown, self._ended = shutdown, False
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._follower: RowFollower | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._clients = 0
        shutdown.on_begin(partial(self._loop.call_soon_threadsafe, self._end))

    def __len__(self) -> int:
        """The number of clients."""
        return self._clients

    async def watch(self, after: EventCursor | None, *, highlighted_only: bool) -> AsyncIterator[NewRows | StreamEvent]:
        """The events after a cursor, or from now on; with the rows of all images, or of the highlighted ones.

        Overloaded where there are too many clients. It ends when the service shuts down.
        """
        follower = self._add_client()
        try:
            yield StreamEvent.HEARTBEAT
            sent: FollowerState | None = None
            unavailable = False
            while not self._ended:
                changed, state = self._changed, follower.state
                event = await self._next_event(state, sent, after, highlighted_only)
                if isinstance(event, NewRows):
                    if event.images or unavailable or sent is None:
                        yield event
                    sent, unavailable = state, False
                elif event is StreamEvent.UNAVAILABLE and not unavailable:
                    yield event
                    unavailable = True
                if not await _wait(changed, RETRY_S if unavailable else HEARTBEAT_S):
                    yield StreamEvent.HEARTBEAT
        finally:
            self._remove_client()

    def close(self) -> None:
        """Ends the streams and stops the follower."""
        self._end()
        if self._linger_timer:
            self._linger_timer.cancel()
        if self._follower:
            self._follower.close()

    async def _next_event(
        self, state: FollowerState, sent: FollowerState | None, after: EventCursor | None, highlighted_only: bool
    ) -> NewRows | StreamEvent:
        if state.unavailable or state.last is None:
            return StreamEvent.UNAVAILABLE if state.unavailable else StreamEvent.HEARTBEAT
        if sent:
            images, highlighted = state.images - sent.images, state.highlighted - sent.highlighted
            rows = state.newest_highlighted[:highlighted] if highlighted_only else state.newest[:images]
            return NewRows(images, highlighted, rows, state.cursor)
        if after is None:
            return NewRows(0, 0, (), state.cursor)
        try:
            newer = await asyncio.to_thread(self._read_missed, after, state.last, state.missing)
        except DatabaseError:
            return StreamEvent.UNAVAILABLE
        if newer is None:
            return StreamEvent.HEARTBEAT
        missed = [row for row in newer[:MAX_MISSED] if row.id <= state.last and row.id not in state.missing]
        missed_highlighted = [row for row in missed if is_highlighted(row)]
        rows = tuple((missed_highlighted if highlighted_only else missed)[:MAX_NEWEST])
        return NewRows(len(missed), len(missed_highlighted), rows, state.cursor, complete=len(newer) <= MAX_MISSED)

    def _read_missed(self, after: EventCursor, last: int, missing: frozenset[int]) -> list[Prediction] | None:
        """The rows after a cursor; None where another process issued a cursor that this follower has not reached."""
        if last < after.last <= self._database.newest_id():
            return None
        unread = [id_ for id_ in missing - after.missing if id_ < after.last]
        if unread and self._database.by_ids(unread):
            return None
        late = self._database.by_ids(list(after.missing)).values() if after.missing else ()
        rows = self._database.newer_than(after.last, limit=MAX_MISSED + 1)
        return rows + sorted(late, key=lambda row: row.id, reverse=True)

    def _add_client(self) -> RowFollower:
        self._shutdown.check()
        if self._clients >= self._max_clients:
            raise Overloaded(f"{self._max_clients} live pages are open, the maximum: close one, or try again later")
        self._clients += 1
        if self._linger_timer:
            self._linger_timer.cancel()
            self._linger_timer = None
        if self._follower is None:
            self._follower = RowFollower(self._database, partial(self._loop.call_soon_threadsafe, self._wake))
        return self._follower

    def _remove_client(self) -> None:
        self._clients -= 1
        if not self._clients and not self._ended:
            self._linger_timer = self._loop.call_later(LINGER_S, self._stop_follower)

    def _stop_follower(self) -> None:
        follower, self._follower, self._linger_timer = self._follower, None, None
        if follower:
            self._loop.run_in_executor(None, follower.close)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _end(self) -> None:
        self._ended = True
        self._wake()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
