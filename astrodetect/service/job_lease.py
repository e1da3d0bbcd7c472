"""A lease on work that one of all service processes does at a time, renewed while it is held."""

import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

from astrodetect.db.shared_state import Lease
from astrodetect.errors import DatabaseError

RENEW_S = 1.0
LEASE_S = 15.0  # after this long without renewal, another process takes over: the holder was killed


class Leases(Protocol):
    """The leases in the database: `db.shared_state.LeaseTable`."""

    def take(self, name: str, holder: str, *, seconds: float, state: Mapping[str, Any] | None = None) -> bool: ...
    def end(self, name: str, holder: str, *, seconds: float = 0.0, state: Mapping[str, Any] | None = None) -> None: ...
    def read(self, name: str) -> Lease | None: ...


class LeaseDatabase(Protocol):
    """A database with leases: `database.Database`."""

    @property
    def leases(self) -> Leases: ...


class JobLease:
    """The lease on one kind of work, for one thread; its state is what the pages of all processes show.

    While PostgreSQL does not answer for longer than the lease lasts, another process may begin the same work: it must
    be harmless to do it twice.
    """

    def __init__(self, leases: Leases, name: str) -> None:
        self._leases, self._name = leases, name
        self._holder = uuid.uuid4().hex
        self._state: Mapping[str, Any] = {}
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, state: Mapping[str, Any]) -> bool:
        """Whether no other process holds it; if so, it is held and renewed until `release`."""
        if not self._leases.take(self._name, self._holder, seconds=LEASE_S, state=state):
            return False
        self._state = state
        self._released.clear()
        self._thread = threading.Thread(target=self._renew, name=f"lease {self._name}", daemon=True)
        self._thread.start()
        return True

    def report(self, state: Mapping[str, Any]) -> None:
        """Publishes the state with the next renewal."""
        self._state = state

    def release(self, state: Mapping[str, Any] | None = None, *, shown_s: float = 0.0) -> None:
        """Lets other processes have it; the final state is shown for so long."""
        if self._thread is None:
            return
        self._released.set()
        self._thread.join()
        self._thread = None
        with suppress(DatabaseError, OSError):  # it expires
            self._leases.end(self._name, self._holder, seconds=shown_s, state=state)

    def _renew(self) -> None:
        while not self._released.wait(RENEW_S):
            with suppress(DatabaseError, OSError):
                self._leases.take(self._name, self._holder, seconds=LEASE_S, state=self._state)
