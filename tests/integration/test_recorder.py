"""The recorder: many rows in one commit, and none lost or duplicated by an outage of PostgreSQL."""

import asyncio
import math
import random
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from programs import outbox_user, query

from astrodetect.errors import AstrodetectError, DatabaseError, DatabaseUnavailable, OutboxFull
from astrodetect.records import Prediction, QueuedPrediction, ScoredImage
from astrodetect.service import outbox as outbox_module
from astrodetect.service import recorder as recorder_module
from astrodetect.service.outbox import Outbox
from astrodetect.service.recorder import Recorder
from database import Database


class BreakableDatabase(Database):
    """A real database whose connection can be cut, before a statement arrives or before its result does."""

    def __init__(self, url: str) -> None:
        super().__init__(url, connections=2, timeout_s=5)
        self.cut: str | None = None
        self.commits: list[int] = []
        self.may_write = threading.Event()
        self.may_write.set()

    def record_many(self, scored: Sequence[ScoredImage]) -> list[Prediction]:
        self.may_write.wait(10)
        if self.cut == "before":
            raise DatabaseUnavailable("down")
        rows = super().record_many(scored)
        if self.cut == "after":
            raise DatabaseUnavailable("no answer")
        self.commits.append(len(scored))
        return rows


@pytest.fixture
def database(database_url: str) -> Iterator[BreakableDatabase]:
    database = BreakableDatabase(database_url)
    yield database
    database.close()


@pytest.fixture
def opened(
    database: BreakableDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Recorder]]:
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    recorders: list[Recorder] = []

    def open_recorder(max_bytes: int = 1_000_000) -> Recorder:
        recorders.append(Recorder(database, Outbox(tmp_path, max_bytes=max_bytes), count_rows=lambda *_: None))
        return recorders[-1]

    yield open_recorder
    database.may_write.set()
    for recorder in recorders:
        recorder.close()


def row(name: object, *, key: str | None = None, sha: str = "ab") -> ScoredImage:
    request_id = uuid.uuid5(uuid.NAMESPACE_URL, key) if key else uuid.uuid4()
    return ScoredImage(str(name), sha * 32, 0.75, 0.5, "resnet50_model", "1", request_id)


def names(url: str) -> list[str]:
    return [name for (name,) in query(url, "SELECT image_name FROM predictions ORDER BY id")]


async def record(
    recorder: Recorder, rows: Sequence[ScoredImage]
) -> Sequence[Prediction | QueuedPrediction | AstrodetectError]:
    return await asyncio.to_thread(recorder.record, rows)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_the_rows_of_a_call_share_a_commit_and_are_stored_when_it_returns(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        recorder = opened()
        database.may_write.clear()
        rows = [row(number) for number in range(100)]
        answers = asyncio.create_task(record(recorder, rows))
        await asyncio.sleep(0.05)
        database.may_write.set()
        for prediction, scored in zip(await answers, rows, strict=True):
            assert isinstance(prediction, Prediction)
            assert (prediction.image_name, prediction.request_id, prediction.timestamp) == (
                scored.image_name,
                scored.request_id,
                scored.timestamp,
            )
        assert names(database_url) == [str(number) for number in range(100)]
        assert database.commits == [100]

    run(scenario())


@pytest.mark.parametrize("cut", ["before", "after"])
def test_an_outage_fails_no_request_and_each_row_is_stored_once_in_order(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str, cut: str
) -> None:
    async def scenario() -> None:
        recorder = opened()
        await record(recorder, [row(0), row(1)])
        database.cut = cut
        assert all(isinstance(row, QueuedPrediction) for row in await record(recorder, [row(2), row(3)]))
        assert recorder.queueing
        assert all(isinstance(row, QueuedPrediction) for row in await record(recorder, [row(4)]))
        database.cut = None
        await wait_until(lambda: not recorder.queueing)
        assert all(isinstance(row, Prediction) for row in await record(recorder, [row(5)]))
        assert names(database_url) == [str(number) for number in range(6)]

    run(scenario())


def test_queued_rows_of_an_earlier_process_are_written_first(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        database.cut = "before"
        first = opened()
        await record(first, [row(number) for number in range(1200)])
        first.close()
        database.cut = None
        second = opened()
        await record(second, [row("new")])
        await wait_until(lambda: not second.queueing)
        assert names(database_url) == [*map(str, range(1200)), "new"]

    run(scenario())


def test_a_row_is_found_by_its_key_while_queued_and_after(
    opened: Callable[..., Recorder], database: BreakableDatabase
) -> None:
    async def scenario() -> None:
        recorder, keyed = opened(), row("m51", key="one")
        assert recorder.find(keyed.request_id) is None
        database.cut = "before"
        await record(recorder, [keyed])
        assert recorder.find(keyed.request_id) == QueuedPrediction(keyed)
        database.cut = None
        await wait_until(lambda: not recorder.queueing)
        found = recorder.find(keyed.request_id)
        assert isinstance(found, Prediction)
        assert found.image_name == "m51"

    run(scenario())


def test_a_key_used_by_another_service_during_an_outage_loses_no_row(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        recorder, own = opened(), row("own", key="one")
        database.cut = "before"
        await record(recorder, [own, row("next")])
        other = replace(own, image_name="other", image_sha256="cd" * 32)
        Database.record_many(database, [other])
        database.cut = None
        await wait_until(lambda: not recorder.queueing)
        assert sorted(names(database_url)) == ["next", "other", "own"]

    run(scenario())


def test_positions_given_to_other_services_with_one_key_during_an_outage_are_kept(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        first = replace(row("first", key="one"), ra=10.0, dec=5.0, object_id="A")
        Database.record_many(database, [first])
        for other in (replace(first, ra=20.0), replace(first, object_id="B\0"), replace(first, ra=None, dec=None)):
            recorder, database.cut = opened(), "before"
            await record(recorder, [other])
            database.cut = None
            recorder.close()
        rows = query(database_url, "SELECT ra, object_id FROM predictions ORDER BY id")
        assert rows == [(10.0, "A"), (20.0, "A"), (10.0, "B\ufffd")]

    run(scenario())


def test_a_full_outbox_is_reported_and_its_rows_are_kept(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        recorder = opened(max_bytes=int(2.5 * len(outbox_module._format_line(row(0)))))
        database.cut = "before"
        answers = [answer for number in range(5) for answer in await record(recorder, [row(number)])]
        assert [type(answer) for answer in answers] == [QueuedPrediction] * 2 + [OutboxFull] * 3
        assert recorder.commit_failed
        database.cut = None
        await wait_until(lambda: not recorder.queueing)
        assert names(database_url) == ["0", "1"]
        assert not recorder.commit_failed

    run(scenario())


def test_an_outage_without_room_in_the_outbox_is_one_line_of_the_log(
    opened: Callable[..., Recorder], database: BreakableDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = opened(max_bytes=1)
    for _ in range(2):
        database.cut = "before"
        assert [type(recorder.record([row(0)])[0]) for _ in range(3)] == [OutboxFull] * 3
        database.cut = None
        assert isinstance(recorder.record([row(1)])[0], Prediction)
    assert caplog.messages == ["rows go to the outbox: down"] * 2


def test_an_error_of_the_disk_does_not_end_the_drainer(
    opened: Callable[..., Recorder],
    database: BreakableDatabase,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        recorder = opened()
        drain, failures = Outbox.drain, iter([OSError(24, "Too many open files"), TypeError("of a damaged row")])

        def drain_or_fail(outbox: Outbox, *arguments: Any) -> int:
            if error := next(failures, None):
                raise error
            return drain(outbox, *arguments)

        monkeypatch.setattr(Outbox, "drain", drain_or_fail)
        database.cut = "before"
        await record(recorder, [row(0), row(1)])
        database.cut = None
        await wait_until(lambda: not recorder.queueing)
        assert names(database_url) == ["0", "1"]

    run(scenario())


def test_a_row_that_postgresql_rejects_fails_alone(
    opened: Callable[..., Recorder], database: BreakableDatabase, database_url: str
) -> None:
    async def scenario() -> None:
        query(database_url, "ALTER TABLE predictions ADD CHECK (image_name <> 'bad')")
        recorder = opened()
        database.may_write.clear()
        answers = asyncio.create_task(record(recorder, [row("good"), row("bad"), row("too")]))
        await asyncio.sleep(0.05)
        database.may_write.set()
        good, bad, too = await answers
        assert isinstance(good, Prediction)
        assert isinstance(too, Prediction)
        assert isinstance(bad, DatabaseError)
        assert names(database_url) == ["good", "too"]

    run(scenario())


def test_a_queued_row_that_postgresql_rejects_is_kept_aside_and_the_others_are_written(
    opened: Callable[..., Recorder],
    database: BreakableDatabase,
    database_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        query(
            database_url,
            "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER leave_out BEFORE INSERT ON predictions FOR EACH ROW "
            "WHEN (NEW.image_name = 'left out') EXECUTE FUNCTION leave_out(); "
            "ALTER TABLE predictions ADD CHECK (image_name <> 'checked')",
        )
        first = opened()
        database.cut = "before"
        rejected: list[ScoredImage] = [
            row("checked"),
            row("left out"),
            replace(row("long for an index"), label=random.Random(0).randbytes(4000).hex()),
            replace(row("not JSON"), probabilities={"E": math.nan}),
            replace(row("no number"), score="high"),  # type: ignore[arg-type]
            replace(row("another type"), novelty=True),
            replace(row("no numbers"), vector=(), space="s"),  # edited below
            replace(row("no base64"), description="?", description_kind="k"),
        ]
        rows = [row(0), *(each for number, bad in enumerate(rejected, 1) for each in (bad, row(number)))]
        await record(first, rows)
        first.close()
        [segment] = tmp_path.rglob("*.rows")
        lines = [line.partition(b" ")[2].rstrip(b"\n") for line in segment.read_bytes().splitlines(keepends=True)]
        lines = [line.replace(b'"vector": []', b'"vector": ["a"]') for line in lines]
        segment.write_bytes(b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in lines))
        database.cut = None
        second = opened()
        await wait_until(lambda: not second.queueing)
        assert names(database_url) == [str(number) for number in range(len(rejected) + 1)]
        assert second._outbox.rejected == len(rejected)
        [kept] = tmp_path.rglob("rejected")
        assert [outbox_module._parse_line(line).image_name for line in kept.read_bytes().splitlines(True)] == [  # type: ignore[union-attr]
            bad.image_name for bad in rejected
        ]
        assert f"{len(rejected)} rows are kept in rejected" in caplog.text
        query(database_url, "DROP TRIGGER leave_out ON predictions")
        second.close()
        kept.rename(kept.with_name("1.rows"))  # as the guide says
        third = opened()
        await wait_until(lambda: not third.queueing)
        assert names(database_url)[-1] == "left out"

    run(scenario())


def test_queued_rows_wait_while_the_fault_is_not_theirs(
    opened: Callable[..., Recorder],
    database: BreakableDatabase,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        database.cut = "before"
        recorder = opened()
        await record(recorder, [row(0), row(1)])
        query(database_url, "ALTER TABLE predictions RENAME TO moved")
        database.cut = None
        await wait_until(lambda: "cannot be drained" in caplog.text)
        assert recorder.queueing
        query(database_url, "ALTER TABLE moved RENAME TO predictions")
        await wait_until(lambda: not recorder.queueing)
        assert names(database_url) == ["0", "1"]

    run(scenario())


def test_a_running_recorder_writes_the_rows_of_a_killed_process(
    opened: Callable[..., Recorder], tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "ADOPT_S", 0.05)
    opened()
    with outbox_user(tmp_path) as process:
        time.sleep(0.2)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while query(database_url, "SELECT image_name FROM predictions") != [("other",)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
