"""The live feed: every new row once, whichever process recorded it, and the rows missed while disconnected."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing

import psycopg2
import pytest
from programs import query

from astrodetect.db.connections import Listener
from astrodetect.errors import DatabaseUnavailable, Overloaded
from astrodetect.records import Prediction, ScoredImage
from astrodetect.service import live_feed as feed_module
from astrodetect.service import row_follower
from astrodetect.service.live_feed import MAX_MISSED, LiveFeed, NewRows, StreamEvent
from astrodetect.service.row_follower import MAX_NEWEST, MAX_READ, EventCursor
from astrodetect.service.shutdown import Shutdown
from database import Database

Events = AsyncIterator[NewRows | StreamEvent]
TIMEOUT_S = 30
ROW = "INSERT INTO predictions (image_name, score, result, novelty) VALUES (%s, %s, %s, %s)"
MANY = (
    "INSERT INTO predictions (image_name, score, result)"
    " SELECT n::text, 0, CASE WHEN n % 2 = 0 THEN 'Anomaly Detected' ELSE 'No Anomaly' END"
    " FROM generate_series(1, {}) n"
)


class BreakableDatabase(Database):
    """A real database whose connection can be cut, and whose reads can be held up."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut = False
        self.may_read = threading.Event()
        self.may_read.set()

    def listen(self) -> Listener:
        self._check()
        return super().listen()

    def newer_than(self, id: int, *, limit: int) -> list[Prediction]:  # noqa: A002
        self._check()
        assert self.may_read.wait(TIMEOUT_S)
        return super().newer_than(id, limit=limit)

    def _check(self) -> None:
        if self.cut:
            raise DatabaseUnavailable("down")


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BreakableDatabase]:
    for name in ("READ_INTERVAL_S", "COMMIT_S", "RETRY_S", "STOP_CHECK_S"):
        monkeypatch.setattr(row_follower, name, 0.01)
    monkeypatch.setattr(feed_module, "RETRY_S", 0.01)
    database = BreakableDatabase(database_url)
    yield database
    database.close()


def run_scenario(
    database: BreakableDatabase, scenario: Callable[[LiveFeed], Awaitable[None]], *, max_clients: int = 10
) -> None:
    """Runs a scenario with a feed of its own."""

    async def run() -> None:
        feed = LiveFeed(database, Shutdown(1), max_clients=max_clients)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await scenario(feed)
        finally:
            feed.close()

    asyncio.run(run())


@asynccontextmanager
async def watching(
    feed: LiveFeed, after: int | EventCursor | None = None, *, highlighted_only: bool = False
) -> AsyncIterator[Events]:
    """A client of the feed, after its first heartbeat."""
    events = feed.watch(EventCursor(after) if isinstance(after, int) else after, highlighted_only=highlighted_only)
    assert await anext(events) is StreamEvent.HEARTBEAT
    try:
        yield events
    finally:
        await events.aclose()  # type: ignore[attr-defined]


async def next_rows(events: Events) -> NewRows:
    """The next event with rows, past heartbeats."""
    async for event in events:
        if isinstance(event, NewRows):
            return event
    raise AssertionError("ended")


async def receive(events: Events, images: int) -> tuple[int, list[str]]:
    """So many images, in one event or more: the number of highlighted ones, and the names shown, oldest first."""
    highlighted, names = 0, []  # type: int, list[str]
    while images > 0:
        event = await next_rows(events)
        images, highlighted = images - event.images, highlighted + event.highlighted
        names += reversed(names_of(event))
    assert images == 0
    return highlighted, names


def names_of(event: NewRows) -> list[str]:
    return [row.image_name for row in event.rows]


def scored(name: str) -> ScoredImage:
    return ScoredImage(name, "0" * 64, 0.9, 0.5, "m", "1")


def test_rows_of_every_program_are_sent_once(database: BreakableDatabase, database_url: str) -> None:
    async def scenario(feed: LiveFeed) -> None:
        query(database_url, ROW, "before", 0.1, "No Anomaly", None)
        async with watching(feed) as events, watching(feed, highlighted_only=True) as highlighted:
            assert await next_rows(events) == await next_rows(highlighted) == NewRows(0, 0, (), EventCursor(1))
            await asyncio.to_thread(database.record_many, [scored("service")])
            assert await receive(events, 1) == await receive(highlighted, 1) == (1, ["service"])
            for name, novelty in (("usual", 0.5), ("unusual", 0.995)):  # as psql would
                await asyncio.to_thread(query, database_url, ROW, name, 0.1, "No Anomaly", novelty)
            assert await receive(events, 2) == (1, ["usual", "unusual"])
            assert await receive(highlighted, 2) == (1, ["unusual"])

    run_scenario(database, scenario)


def test_a_client_that_reconnects_receives_the_rows_it_missed(database: BreakableDatabase, database_url: str) -> None:
    async def scenario(feed: LiveFeed) -> None:
        query(database_url, MANY.format(MAX_NEWEST + 10))
        async with watching(feed, after=8) as events, watching(feed, after=8, highlighted_only=True) as highlighted:
            missed = await next_rows(events)
            assert (missed.images, missed.highlighted, missed.cursor, missed.complete) == (
                22,
                11,
                EventCursor(30),
                True,
            )
            assert [row.id for row in missed.rows] == list(range(30, 10, -1))
            assert [row.id for row in (await next_rows(highlighted)).rows] == list(range(30, 8, -2))
            query(database_url, MANY.format(1))
            again = await next_rows(events)
            assert (again.images, [row.id for row in again.rows], again.cursor) == (1, [31], EventCursor(31))

    async def after_too_many(feed: LiveFeed) -> None:
        query(database_url, MANY.format(MAX_MISSED))
        async with watching(feed, after=8) as events:
            missed = await next_rows(events)
            assert (missed.images, missed.complete, len(missed.rows)) == (MAX_MISSED, False, MAX_NEWEST)

    run_scenario(database, scenario)
    run_scenario(database, after_too_many)


def test_under_load_all_rows_are_counted_and_the_newest_are_sent(
    database: BreakableDatabase, database_url: str
) -> None:
    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed) as events, watching(feed) as slow:
            await next_rows(slow)
            await next_rows(events)
            for count in (3 * MAX_READ, 5, 100):
                await asyncio.to_thread(query, database_url, MANY.format(count))
                while (await next_rows(events)).cursor.last < database.newest_id():
                    pass
            late = await next_rows(slow)  # has read nothing meanwhile
            assert late.images == 3 * MAX_READ + 105
            assert names_of(late) == [str(n) for n in range(100, 100 - MAX_NEWEST, -1)]

    run_scenario(database, scenario)


def test_a_row_committed_after_one_with_a_larger_id_is_sent(database: BreakableDatabase, database_url: str) -> None:
    async def scenario(feed: LiveFeed) -> None:
        query(database_url, MANY.format(3))
        with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
            async with watching(feed) as events:
                await next_rows(events)
                cursor.execute(ROW, ("slow", 0.1, "No Anomaly", None))
                query(database_url, ROW, "quick", 0.1, "No Anomaly", None)
                event = await next_rows(events)
                before = event.cursor
                assert (names_of(event), before) == (["quick"], EventCursor(5, frozenset({4})))
                async with watching(feed, after=before) as another:
                    assert (await next_rows(another)).images == 0
                    other.commit()
                    event = await next_rows(events)
                    assert (names_of(event), event.cursor) == (["slow"], EventCursor(5))
                    assert names_of(await next_rows(another)) == ["slow"]
                async with watching(feed, after=before) as back:
                    assert names_of(await next_rows(back)) == ["slow"]

    run_scenario(database, scenario)


def test_a_missing_id_in_the_cursor_repeats_no_row(database: BreakableDatabase, database_url: str) -> None:
    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed, highlighted_only=True) as events:
            await next_rows(events)
            query(database_url, "SELECT nextval(pg_get_serial_sequence('predictions', 'id'))")
            await asyncio.to_thread(query, database_url, MANY.format(100))
            images = 0
            while images < 100:
                event = await next_rows(events)
                images += event.images
        assert (images, event.cursor) == (100, EventCursor(101, frozenset({1})))
        async with watching(feed, after=event.cursor, highlighted_only=True) as back:
            again = await next_rows(back)
            assert (again.images, again.rows, again.cursor) == (0, (), event.cursor)

    run_scenario(database, scenario)


def test_a_cursor_of_a_faster_worker_repeats_no_row(database: BreakableDatabase, database_url: str) -> None:
    async def scenario(feed: LiveFeed) -> None:
        query(database_url, MANY.format(3))
        async with watching(feed) as events:
            await next_rows(events)
            database.may_read.clear()
            query(database_url, MANY.format(1))
            async with watching(feed, after=4) as another:
                rows = asyncio.ensure_future(next_rows(another))
                await asyncio.sleep(0.1)
                database.may_read.set()
                assert (await rows).images == 0
                query(database_url, MANY.format(1))
                assert [row.id for row in (await next_rows(another)).rows] == [5]
            query(database_url, "TRUNCATE predictions RESTART IDENTITY CASCADE")
            async with watching(feed, after=1000) as anew:
                assert (await next_rows(anew)).images == 0

    run_scenario(database, scenario)


def test_a_late_row_is_sent_once_to_a_client_that_comes_from_another_worker(
    database: BreakableDatabase, database_url: str
) -> None:
    async def scenario(feed: LiveFeed) -> None:
        with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
            cursor.execute(ROW, ("slow", 0.1, "No Anomaly", None))
            query(database_url, MANY.format(2 * MAX_NEWEST))
            last = 1 + 2 * MAX_NEWEST
            async with watching(feed) as events:
                await next_rows(events)
                async with watching(feed, after=EventCursor(last, frozenset({1}))) as waiting:
                    assert (await next_rows(waiting)).images == 0
                    database.may_read.clear()
                    other.commit()
                    async with watching(feed, after=last) as informed:
                        rows = asyncio.ensure_future(next_rows(informed))
                        await asyncio.sleep(0.1)
                        database.may_read.set()
                        assert names_of(await next_rows(waiting)) == ["slow"]
                        assert (await rows).images == 0
                        query(database_url, ROW, "quick", 0.1, "No Anomaly", None)
                        assert names_of(await next_rows(informed)) == ["quick"]

    run_scenario(database, scenario)


def test_clients_are_notified_of_an_outage_and_receive_the_rows_recorded_meanwhile(
    database: BreakableDatabase, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_for(events: Events, expected: StreamEvent) -> None:
        async for event in events:
            if event is expected:
                return

    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed) as events:
            await next_rows(events)
            database.cut = True
            query(database_url, MANY.format(1))
            await wait_for(events, StreamEvent.UNAVAILABLE)
            async with watching(feed, after=0) as another:
                await wait_for(another, StreamEvent.UNAVAILABLE)
                await wait_for(another, StreamEvent.HEARTBEAT)
                database.cut = False
                assert (await next_rows(another)).images == (await next_rows(events)).images == 1
            drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            query(database_url, f"{drop} AND pid <> pg_backend_pid()")  # as on a restart
            query(database_url, MANY.format(2))
            await receive(events, 2)

    run_scenario(database, scenario)
    assert [record.getMessage() for record in caplog.records][:1] == ["new rows are not followed: down"]


def test_a_feed_opened_during_an_outage_starts_after_it(database: BreakableDatabase) -> None:
    async def scenario(feed: LiveFeed) -> None:
        database.cut = True
        async with watching(feed, after=0) as events:
            assert await anext(events) is StreamEvent.UNAVAILABLE
            database.cut = False
            assert (await next_rows(events)).images == 0

    run_scenario(database, scenario)


def test_the_number_of_clients_is_limited_and_slots_are_freed(database: BreakableDatabase) -> None:
    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed):
            async with watching(feed):
                assert len(feed) == 2
                with pytest.raises(Overloaded, match="2 live pages are open"):
                    await anext(feed.watch(None, highlighted_only=False))
            async with watching(feed) as events:
                await next_rows(events)

    run_scenario(database, scenario, max_clients=2)


def test_rows_are_followed_only_while_there_are_clients(
    database: BreakableDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LINGER_S", 0.01)

    def count_followers() -> int:
        return sum(thread.name == "row-follower" for thread in threading.enumerate())

    async def scenario(feed: LiveFeed) -> None:
        assert count_followers() == 0
        for _ in range(2):
            async with watching(feed) as one, watching(feed) as other:
                assert await next_rows(one) == await next_rows(other)
                assert count_followers() == 1
            while count_followers():
                await asyncio.sleep(0.01)

    run_scenario(database, scenario)


def test_an_idle_feed_sends_heartbeats_and_ends_with_the_service(
    database: BreakableDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_S", 0.05)

    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed) as events:
            await next_rows(events)
            assert [await anext(events) for _ in range(3)] == [StreamEvent.HEARTBEAT] * 3
            feed.close()
            assert [event async for event in events if isinstance(event, NewRows)] == []

    run_scenario(database, scenario)


def test_missing_ids_are_awaited_for_a_limited_time(
    database: BreakableDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_follower, "LATE_S", 0.05)
    monkeypatch.setattr(row_follower, "MAX_SILENCE_S", 0.01)

    async def scenario(feed: LiveFeed) -> None:
        async with watching(feed) as events:
            await next_rows(events)
            query(database_url, "SELECT nextval(pg_get_serial_sequence('predictions', 'id'))")
            query(database_url, MANY.format(1))
            assert (await next_rows(events)).cursor == EventCursor(2, frozenset({1}))
            missing: Sequence[int] = [1]
            while missing:
                missing = list(follower.state.missing) if (follower := feed._follower) else []
                await asyncio.sleep(0.01)
            query(database_url, MANY.format(1))
            assert (await next_rows(events)).cursor == EventCursor(3)

    run_scenario(database, scenario)


def test_writers_notify_only_while_a_listener_waits(database: BreakableDatabase, database_url: str) -> None:
    with closing(database.listen()) as listener, closing(database.listen()) as other:
        query(database_url, MANY.format(1))
        assert not listener.wait(0.2)
        listener.enable()
        other.enable()
        query(database_url, MANY.format(1))
        assert listener.wait(TIMEOUT_S)
        assert other.wait(TIMEOUT_S)
        other.disable()
        query(database_url, MANY.format(1))  # one still waits
        assert listener.wait(TIMEOUT_S)
        listener.disable()
        while listener.wait(0):
            pass
        query(database_url, MANY.format(1))
        assert not listener.wait(0.2)
