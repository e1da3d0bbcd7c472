"""Where a row would be recorded: in PostgreSQL, on disk, or nowhere."""

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from astrodetect.errors import DatabaseError, DatabaseNotSetUp, DatabaseUnavailable, OutboxFull
from astrodetect.service import storage_monitor
from astrodetect.service.storage_monitor import StorageMonitor


class Storage:
    """A heartbeat, a recorder and an outbox, each of which can fail."""

    def __init__(self) -> None:
        self.database_error: DatabaseError | None = None
        self.database_full = False
        self.recorder = SimpleNamespace(commit_failed=False, queueing=False)
        self.outbox = SimpleNamespace(full=False, check_writes=lambda: self.disk_error)
        self.disk_error: OutboxFull | None = None
        self.steps = self.restarts = 0

    def restart(self) -> None:
        self.restarts += 1

    def check(self) -> None:
        self.steps += 1
        if self.database_error:
            raise self.database_error

    def check_writes(self) -> None:
        if self.database_full:
            raise DatabaseUnavailable("No space left on device")


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def state(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """The state after the next step: where a row would go, or the error."""
    monkeypatch.setattr(storage_monitor, "INTERVAL_S", 0.001)
    monkeypatch.setattr(storage_monitor, "WRITE_INTERVAL_S", 0.0)
    monitor = StorageMonitor(storage, cast(Any, storage.recorder), cast(Any, storage.outbox), storage.restart)

    async def read() -> str:
        steps = storage.steps
        while storage.steps < steps + 2:
            await asyncio.sleep(0.001)
        try:
            return await monitor.check()
        except DatabaseError as error:
            return str(error)

    yield lambda: asyncio.run(read())
    monitor.close()


def test_a_row_goes_to_postgresql_or_to_the_disk(storage: Storage, state: Callable[[], str]) -> None:
    assert state() == "committed"
    assert storage.restarts == 0
    storage.database_error = DatabaseUnavailable("down")
    assert state() == "queued"
    assert storage.restarts == 1
    storage.database_error = DatabaseNotSetUp("run setup_db")
    assert state() == "run setup_db"
    storage.database_error, storage.recorder.queueing = None, True
    assert state() == "queued"


def test_a_full_disk_is_an_error_where_postgresql_does_not_take_the_rows(
    storage: Storage, state: Callable[[], str]
) -> None:
    storage.disk_error = OutboxFull("No space left")
    assert state() == "committed"
    storage.recorder.commit_failed = storage.database_full = True
    assert state() == "No space left"  # though PostgreSQL answers
    storage.disk_error = None
    assert state() == "queued"
    storage.disk_error, storage.database_full = OutboxFull("No space left"), False
    assert state() == "committed"
    storage.database_error = DatabaseUnavailable("down")
    assert state() == "No space left"
    storage.outbox.full = True
    assert state() == "the outbox is full"
