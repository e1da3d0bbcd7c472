"""What pages that watch are told: every new row, whoever logged it, once, and what they missed."""

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
from astrodetect.service import feed as feed_module
from astrodetect.service import row_follower
from astrodetect.service.event_cursor import EventCursor
from astrodetect.service.feed import MOST_MISSED, LiveFeed, NewRows, StreamEvent
from astrodetect.service.row_follower import MOST_READ, MOST_SHOWN
from astrodetect.service.shutdown import Shutdown
from database import Database

Words = AsyncIterator[NewRows | StreamEvent]
PATIENCE_S = 30
ROW = "INSERT INTO predictions (image_name, score, result, novelty) VALUES (%s, %s, %s, %s)"
MANY = (
    "INSERT INTO predictions (image_name, score, result)"
    " SELECT n::text, 0, CASE WHEN n % 2 = 0 THEN 'Anomaly Detected' ELSE 'No Anomaly' END"
    " FROM generate_series(1, {}) n"
)


class Wire(Database):
    """The real thing, on a wire that can be cut."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut = False
        self.go_on = threading.Event()
        self.go_on.set()

    def listen(self) -> Listener:
        self._check()
        return super().listen()

    def newer_than(self, id: int, *, limit: int) -> list[Prediction]:  # noqa: A002
        self._check()
        assert self.go_on.wait(PATIENCE_S)
        return super().newer_than(id, limit=limit)

    def _check(self) -> None:
        if self.cut:
            raise DatabaseUnavailable("away")


@pytest.fixture
def wire(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    for name in ("PACE_S", "COMMIT_S", "RETRY_S", "SLICE_S"):
        monkeypatch.setattr(row_follower, name, 0.01)
    monkeypatch.setattr(feed_module, "RETRY_S", 0.01)
    wire = Wire(database_url)
    yield wire
    wire.close()


def played(wire: Wire, scene: Callable[[LiveFeed], Awaitable[None]], *, most: int = 10) -> None:
    """A scene in front of a feed of its own."""

    async def all_of_it() -> None:
        feed = LiveFeed(wire, Shutdown(1), most=most)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await scene(feed)
        finally:
            feed.close()

    asyncio.run(all_of_it())


@asynccontextmanager
async def watching(
    feed: LiveFeed, after: int | EventCursor | None = None, *, only: bool = False
) -> AsyncIterator[Words]:
    """Until the first word that is not for the wire alone."""
    words = feed.watch(EventCursor(after) if isinstance(after, int) else after, only=only)
    assert await anext(words) is StreamEvent.QUIET
    try:
        yield words
    finally:
        await words.aclose()  # type: ignore[attr-defined]


async def news(words: Words) -> NewRows:
    """The next, past heartbeats."""
    async for word in words:
        if isinstance(word, NewRows):
            return word
    raise AssertionError("ended")


async def heard(words: Words, images: int) -> tuple[int, list[str]]:
    """So many images, in one piece or more: how many stood out, and the names of those shown, oldest first."""
    out, names = 0, []  # type: int, list[str]
    while images > 0:
        word = await news(words)
        images, out = images - word.images, out + word.standing_out
        names += reversed(named(word))
    assert images == 0
    return out, names


def named(word: NewRows) -> list[str]:
    return [row.image_name for row in word.rows]


def scored(name: str) -> ScoredImage:
    return ScoredImage(name, "0" * 64, 0.9, 0.5, "m", "1")


def test_rows_of_every_program_are_told_once(wire: Wire, database_url: str) -> None:
    async def scene(feed: LiveFeed) -> None:
        query(database_url, ROW, "before", 0.1, "No Anomaly", None)
        async with watching(feed) as words, watching(feed, only=True) as only:
            assert await news(words) == await news(only) == NewRows(0, 0, (), EventCursor(1))
            await asyncio.to_thread(wire.record_many, [scored("service")])
            assert await heard(words, 1) == await heard(only, 1) == (1, ["service"])
            for name, novelty in (("usual", 0.5), ("unusual", 0.995)):  # as psql would
                await asyncio.to_thread(query, database_url, ROW, name, 0.1, "No Anomaly", novelty)
            assert await heard(words, 2) == (1, ["usual", "unusual"])
            assert await heard(only, 2) == (1, ["unusual"])

    played(wire, scene)


def test_whoever_comes_back_is_told_what_was_missed(wire: Wire, database_url: str) -> None:
    async def scene(feed: LiveFeed) -> None:
        query(database_url, MANY.format(MOST_SHOWN + 10))
        async with watching(feed, after=8) as words, watching(feed, after=8, only=True) as only:
            missed = await news(words)
            assert (missed.images, missed.standing_out, missed.position, missed.whole) == (
                22,
                11,
                EventCursor(30),
                True,
            )
            assert [row.id for row in missed.rows] == list(range(30, 10, -1))
            assert [row.id for row in (await news(only)).rows] == list(range(30, 8, -2))
            query(database_url, MANY.format(1))
            again = await news(words)
            assert (again.images, [row.id for row in again.rows], again.position) == (1, [31], EventCursor(31))

    async def after_too_many(feed: LiveFeed) -> None:
        query(database_url, MANY.format(MOST_MISSED))
        async with watching(feed, after=8) as words:
            missed = await news(words)
            assert (missed.images, missed.whole, len(missed.rows)) == (MOST_MISSED, False, MOST_SHOWN)

    played(wire, scene)
    played(wire, after_too_many)


def test_of_rows_that_come_faster_than_they_are_read_all_count_and_the_newest_are_shown(
    wire: Wire, database_url: str
) -> None:
    async def scene(feed: LiveFeed) -> None:
        async with watching(feed) as words, watching(feed) as slow:
            await news(slow)
            await news(words)
            for count in (3 * MOST_READ, 5, 100):
                await asyncio.to_thread(query, database_url, MANY.format(count))
                while (await news(words)).position.last < wire.newest_id():
                    pass
            late = await news(slow)  # has not read meanwhile, and is told at once
            assert late.images == 3 * MOST_READ + 105
            assert named(late) == [str(n) for n in range(100, 100 - MOST_SHOWN, -1)]

    played(wire, scene)


def test_a_row_that_is_committed_after_one_with_a_larger_id_is_told_too(wire: Wire, database_url: str) -> None:
    async def scene(feed: LiveFeed) -> None:
        query(database_url, MANY.format(3))
        with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
            async with watching(feed) as words:
                await news(words)
                cursor.execute(ROW, ("slow", 0.1, "No Anomaly", None))
                query(database_url, ROW, "quick", 0.1, "No Anomaly", None)
                word = await news(words)
                left = word.position
                assert (named(word), left) == (["quick"], EventCursor(5, frozenset({4})))
                async with watching(feed, after=left) as another:
                    assert (await news(another)).images == 0
                    other.commit()
                    word = await news(words)
                    assert (named(word), word.position) == (["slow"], EventCursor(5))
                    assert named(await news(another)) == ["slow"]
                async with watching(feed, after=left) as back:
                    assert named(await news(back)) == ["slow"]

    played(wire, scene)


def test_whoever_comes_back_over_an_id_that_never_came_is_told_nothing_twice(wire: Wire, database_url: str) -> None:
    async def scene(feed: LiveFeed) -> None:
        async with watching(feed, only=True) as words:
            await news(words)
            query(database_url, "SELECT nextval(pg_get_serial_sequence('predictions', 'id'))")
            await asyncio.to_thread(query, database_url, MANY.format(100))
            told = 0
            while told < 100:
                word = await news(words)
                told += word.images
        assert (told, word.position) == (100, EventCursor(101, frozenset({1})))
        async with watching(feed, after=word.position, only=True) as back:
            again = await news(back)
            assert (again.images, again.rows, again.position) == (0, (), word.position)

    played(wire, scene)


def test_whoever_comes_from_a_worker_that_was_faster_is_told_nothing_twice(wire: Wire, database_url: str) -> None:
    async def scene(feed: LiveFeed) -> None:
        query(database_url, MANY.format(3))
        async with watching(feed) as words:
            await news(words)
            wire.go_on.clear()
            query(database_url, MANY.format(1))
            async with watching(feed, after=4) as another:
                told = asyncio.ensure_future(news(another))
                await asyncio.sleep(0.1)
                wire.go_on.set()
                assert (await told).images == 0
                query(database_url, MANY.format(1))
                assert [row.id for row in (await news(another)).rows] == [5]
            query(database_url, "TRUNCATE predictions RESTART IDENTITY CASCADE")
            async with watching(feed, after=1000) as anew:
                assert (await news(anew)).images == 0

    played(wire, scene)


def test_a_watcher_is_told_of_an_outage_and_of_what_came_meanwhile(
    wire: Wire, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def told(words: Words, what: StreamEvent) -> None:
        async for word in words:
            if word is what:
                return

    async def scene(feed: LiveFeed) -> None:
        async with watching(feed) as words:
            await news(words)
            wire.cut = True
            query(database_url, MANY.format(1))
            await told(words, StreamEvent.AWAY)
            async with watching(feed, after=0) as another:
                await told(another, StreamEvent.AWAY)
                await told(another, StreamEvent.QUIET)
                wire.cut = False
                assert (await news(another)).images == (await news(words)).images == 1
            drop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            query(database_url, f"{drop} AND pid <> pg_backend_pid()")  # as on a restart
            query(database_url, MANY.format(2))
            await heard(words, 2)

    played(wire, scene)
    assert [record.getMessage() for record in caplog.records][:1] == ["new rows are not heard of: away"]


def test_a_feed_that_cannot_begin_says_so_and_begins_once_it_can(wire: Wire) -> None:
    async def scene(feed: LiveFeed) -> None:
        wire.cut = True
        async with watching(feed, after=0) as words:
            assert await anext(words) is StreamEvent.AWAY
            wire.cut = False
            assert (await news(words)).images == 0

    played(wire, scene)


def test_so_many_may_watch_and_places_become_free(wire: Wire) -> None:
    async def scene(feed: LiveFeed) -> None:
        async with watching(feed):
            async with watching(feed):
                assert len(feed) == 2
                with pytest.raises(Overloaded, match="2 pages watch already"):
                    await anext(feed.watch(None, only=False))
            async with watching(feed) as words:
                await news(words)

    played(wire, scene, most=2)


def test_rows_are_followed_only_while_somebody_watches(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LINGER_S", 0.01)

    def following_now() -> int:
        return sum(thread.name == "follower" for thread in threading.enumerate())

    async def scene(feed: LiveFeed) -> None:
        assert following_now() == 0
        for _ in range(2):
            async with watching(feed) as one, watching(feed) as other:
                assert await news(one) == await news(other)
                assert following_now() == 1
            while following_now():
                await asyncio.sleep(0.01)

    played(wire, scene)


def test_a_quiet_log_is_told_of_by_heartbeats_and_the_end_ends_it(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_S", 0.05)

    async def scene(feed: LiveFeed) -> None:
        async with watching(feed) as words:
            await news(words)
            assert [await anext(words) for _ in range(3)] == [StreamEvent.QUIET] * 3
            feed.close()
            assert [word async for word in words if isinstance(word, NewRows)] == []

    played(wire, scene)


def test_ids_that_never_come_are_looked_out_for_a_while_only(
    wire: Wire, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_follower, "LATE_S", 0.05)
    monkeypatch.setattr(row_follower, "SILENT_S", 0.01)

    async def scene(feed: LiveFeed) -> None:
        async with watching(feed) as words:
            await news(words)
            query(database_url, "SELECT nextval(pg_get_serial_sequence('predictions', 'id'))")
            query(database_url, MANY.format(1))
            assert (await news(words)).position == EventCursor(2, frozenset({1}))
            asked: Sequence[int] = [1]
            while asked:
                asked = list(follower.now.missing) if (follower := feed._follower) else []
                await asyncio.sleep(0.01)
            query(database_url, MANY.format(1))
            assert (await news(words)).position == EventCursor(3)

    played(wire, scene)


def test_writers_tell_nobody_unless_somebody_waits(wire: Wire, database_url: str) -> None:
    with closing(wire.listen()) as listener, closing(wire.listen()) as other:
        query(database_url, MANY.format(1))
        assert not listener.wait(0.2)
        listener.enable()
        other.enable()
        query(database_url, MANY.format(1))
        assert listener.wait(PATIENCE_S)
        assert other.wait(PATIENCE_S)
        other.disable()
        query(database_url, MANY.format(1))  # one still waits
        assert listener.wait(PATIENCE_S)
        listener.disable()
        while listener.wait(0):
            pass
        query(database_url, MANY.format(1))
        assert not listener.wait(0.2)
