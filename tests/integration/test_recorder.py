"""A row before an answer, many rows a commit, and none lost or doubled while PostgreSQL is away."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from programs import query

from astrodetect.errors import DatabaseError, DatabaseUnavailable, OutboxFull
from astrodetect.records import Prediction, QueuedPrediction, ScoredImage
from astrodetect.service import recorder as recorder_module
from astrodetect.service.outbox import Outbox
from astrodetect.service.recorder import Recorder
from database import Database


class Wire(Database):
    """The real thing, on a wire that can be cut, before a statement arrives or before its answer does."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut: str | None = None
        self.commits: list[int] = []
        self.may = threading.Event()
        self.may.set()

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]:
        self.may.wait(10)
        if self.cut == "before":
            raise DatabaseUnavailable("away")
        rows = super().record_many(scored)
        if self.cut == "after":
            raise DatabaseUnavailable("no answer")
        self.commits.append(len(scored))
        return rows


@pytest.fixture
def wire(database_url: str) -> Iterator[Wire]:
    wire = Wire(database_url)
    yield wire
    wire.close()


@pytest.fixture
def opened(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorder]]:
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    held: list[Recorder] = []

    def open_one(max_bytes: int = 1_000_000) -> Recorder:
        held.append(Recorder(wire, Outbox(tmp_path, max_bytes=max_bytes), recorded=lambda *_: None))
        return held[-1]

    yield open_one
    wire.may.set()
    for one in held:
        one.close()


def row(name: object, *, key: str | None = None, sha: str = "ab") -> ScoredImage:
    request_id = uuid.uuid5(uuid.NAMESPACE_URL, key) if key else uuid.uuid4()
    return ScoredImage(str(name), sha * 32, 0.75, 0.5, "resnet50_model", "1", request_id)


def names(url: str) -> list[str]:
    return [name for (name,) in query(url, "SELECT image_name FROM predictions ORDER BY id")]


async def recorded(recorder: Recorder, rows: Sequence[ScoredImage]) -> list[Prediction | QueuedPrediction]:
    return [done.result for done in await asyncio.gather(*map(recorder.record, rows))]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.005)


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_rows_that_wait_together_share_a_commit_and_are_there_when_they_are_answered(
    opened: Callable[..., Recorder], wire: Wire, database_url: str
) -> None:
    async def scene() -> None:
        recorder = opened()
        wire.may.clear()
        rows = [row(number) for number in range(100)]
        answers = asyncio.create_task(recorded(recorder, rows))
        await asyncio.sleep(0.05)
        wire.may.set()
        for found, asked in zip(await answers, rows, strict=True):
            assert isinstance(found, Prediction)
            assert (found.image_name, found.request_id, found.timestamp) == (
                asked.image_name,
                asked.request_id,
                asked.timestamp,
            )
        assert names(database_url) == [str(number) for number in range(100)]
        assert len(wire.commits) <= 3

    run(scene())


@pytest.mark.parametrize("cut", ["before", "after"])
def test_an_outage_costs_no_answer_and_leaves_each_row_once_in_order(
    opened: Callable[..., Recorder], wire: Wire, database_url: str, cut: str
) -> None:
    async def scene() -> None:
        recorder = opened()
        await recorded(recorder, [row(0), row(1)])
        wire.cut = cut
        assert all(isinstance(one, QueuedPrediction) for one in await recorded(recorder, [row(2), row(3)]))
        assert recorder.away
        assert all(isinstance(one, QueuedPrediction) for one in await recorded(recorder, [row(4)]))
        wire.cut = None
        await until(lambda: not recorder.away)
        assert all(isinstance(one, Prediction) for one in await recorded(recorder, [row(5)]))
        assert names(database_url) == [str(number) for number in range(6)]

    run(scene())


def test_rows_of_an_earlier_process_come_first(opened: Callable[..., Recorder], wire: Wire, database_url: str) -> None:
    async def scene() -> None:
        wire.cut = "before"
        first = opened()
        await recorded(first, [row(number) for number in range(1200)])
        first.close()
        wire.cut = None
        second = opened()
        await recorded(second, [row("new")])
        await until(lambda: not second.away)
        assert names(database_url) == [*map(str, range(1200)), "new"]

    run(scene())


def test_a_key_is_known_while_its_row_waits_and_after(opened: Callable[..., Recorder], wire: Wire) -> None:
    async def scene() -> None:
        recorder, keyed = opened(), row("m51", key="one")
        assert recorder.find(keyed.request_id) is None
        wire.cut = "before"
        await recorded(recorder, [keyed])
        assert recorder.find(keyed.request_id) == QueuedPrediction(keyed)
        wire.cut = None
        await until(lambda: not recorder.away)
        found = recorder.find(keyed.request_id)
        assert isinstance(found, Prediction)
        assert found.image_name == "m51"

    run(scene())


def test_a_key_that_another_service_gave_away_during_the_outage_costs_no_row(
    opened: Callable[..., Recorder], wire: Wire, database_url: str
) -> None:
    async def scene() -> None:
        recorder, ours = opened(), row("ours", key="one")
        wire.cut = "before"
        await recorded(recorder, [ours, row("next")])
        theirs = replace(ours, image_name="theirs", image_sha256="cd" * 32)
        Database.record_many(wire, [theirs])
        wire.cut = None
        await until(lambda: not recorder.away)
        assert sorted(names(database_url)) == ["next", "ours", "theirs"]

    run(scene())


def test_a_full_outbox_is_said_and_what_it_holds_is_kept(
    opened: Callable[..., Recorder], wire: Wire, database_url: str
) -> None:
    async def scene() -> None:
        recorder = opened(max_bytes=800)
        wire.cut = "before"
        answers = [answer for number in range(5) for answer in await attempts(recorder, [row(number)])]
        assert [type(answer) for answer in answers] == [
            QueuedPrediction,
            QueuedPrediction,
            OutboxFull,
            OutboxFull,
            OutboxFull,
        ]
        with pytest.raises(OutboxFull):
            recorder.check()
        wire.cut = None
        await until(lambda: not recorder.away)
        assert names(database_url) == ["0", "1"]

    run(scene())


def test_a_row_that_postgresql_refuses_fails_alone(
    opened: Callable[..., Recorder], wire: Wire, database_url: str
) -> None:
    async def scene() -> None:
        query(database_url, "ALTER TABLE predictions ADD CHECK (image_name <> 'bad')")
        recorder = opened()
        wire.may.clear()
        answers = asyncio.create_task(attempts(recorder, [row("good"), row("bad"), row("too")]))
        await asyncio.sleep(0.05)
        wire.may.set()
        good, bad, too = await answers
        assert isinstance(good, Prediction)
        assert isinstance(too, Prediction)
        assert isinstance(bad, DatabaseError)
        assert names(database_url) == ["good", "too"]

    run(scene())


async def attempts(
    recorder: Recorder, rows: Sequence[ScoredImage]
) -> list[Prediction | QueuedPrediction | BaseException]:
    found = await asyncio.gather(*map(recorder.record, rows), return_exceptions=True)
    return [one if isinstance(one, BaseException) else one.result for one in found]
