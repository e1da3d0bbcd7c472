"""Watches whether predictions can be recorded, so that neither a probe nor a reader has to wait to find out."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Literal, Protocol

from astrodetect.errors import DatabaseError, DatabaseUnavailable, OutboxFull
from astrodetect.service.outbox import Outbox
from astrodetect.service.periodic_thread import PeriodicThread
from astrodetect.service.recorder import Recorder

INTERVAL_S = 0.25
WRITE_INTERVAL_S = 5.0  # between two writes to the disk of the outbox
RESTART_INTERVAL_S = 5.0
FIRST_CHECK_S = 1.0  # at the start; a server that hangs is not waited for


class DatabaseHeartbeat(Protocol):
    """Whether PostgreSQL answers: `db.pool.Heartbeat`."""

    def check(self) -> None: ...
    def check_writes(self) -> None: ...


class StorageMonitor(PeriodicThread):
    """Checks PostgreSQL four times a second and the disk of the outbox every few seconds; restarts a killed server."""

    def __init__(
        self, heartbeat: DatabaseHeartbeat, recorder: Recorder, outbox: Outbox, restart: Callable[[], object] | None
    ) -> None:
        self._heartbeat, self._recorder, self._outbox = heartbeat, recorder, outbox
        self._restart, self._next_restart = restart, 0.0  # of the embedded PostgreSQL
        self._database_error: DatabaseError | None = DatabaseUnavailable("PostgreSQL has not answered yet")
        self._disk_error: OutboxFull | None = None
        self._next_write = 0.0
        self._checked = threading.Event()
        super().__init__(
            "storage-monitor", INTERVAL_S, "it is not known whether predictions can be recorded", first_s=0.0
        )

    async def check(self) -> Literal["committed", "queued"]:
        """Where a row would be recorded now; raises the error that would keep it from being recorded at all."""
        if not self._checked.is_set():
            await asyncio.to_thread(self._checked.wait, FIRST_CHECK_S)
        error, queued = self._database_error, self._recorder.commit_failed or self._recorder.queueing
        if error and not isinstance(error, DatabaseUnavailable):
            raise error
        if self._outbox.full:
            raise OutboxFull("the outbox is full")
        if self._disk_error and (error or queued):
            raise self._disk_error
        return "queued" if error or queued else "committed"

    def step(self) -> None:
        """One check."""
        if time.monotonic() >= self._next_write:
            self._next_write = time.monotonic() + WRITE_INTERVAL_S
            self._disk_error = self._outbox.check_writes()
        try:
            self._heartbeat.check()
            self._database_error = None
            if self._recorder.commit_failed and not self._recorder.queueing:
                self._heartbeat.check_writes()
                self._recorder.commit_failed = False
        except DatabaseError as error:
            self._database_error = error
        finally:
            self._checked.set()
        if self._database_error and self._restart and time.monotonic() >= self._next_restart:
            self._next_restart = time.monotonic() + RESTART_INTERVAL_S
            self._restart()
