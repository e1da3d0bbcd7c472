"""A thread-safe pool of connections, and a heartbeat that says whether PostgreSQL answers at all."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from astrodetect.db.connections import (
    SILENCE_CHECK_S,
    Connection,
    Parameters,
    Row,
    ServerSilent,
    as_database_error,
    execute_within,
)
from astrodetect.errors import DatabaseUnavailable

HEARTBEAT_S = 0.75  # for an answer to a statement that reads nothing
STATEMENT_TIMEOUT = "SELECT set_config('statement_timeout', '500ms', false)"  # a lock is no silence


class Pool:
    """At most `size` connections, opened on demand, each used by one thread at a time.

    Half of them are for `urgent` statements alone. Other ones fail at once while `silent` is set: PostgreSQL hangs.
    """

    def __init__(self, connect: Callable[[threading.Event | None], Connection], *, size: int, timeout_s: float) -> None:
        self._connect, self._size, self._timeout_s = connect, size, timeout_s
        self.silent = threading.Event()
        self._slots = threading.BoundedSemaphore(size)
        self._shared_slots = threading.BoundedSemaphore(max(1, size - size // 2))
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self, *, urgent: bool = False) -> Iterator[Connection]:
        """Borrow a connection; it returns to the pool if it is still usable."""
        deadline = time.monotonic() + self._timeout_s
        with ExitStack() as stack:
            for slots in [self._slots] if urgent else [self._shared_slots, self._slots]:
                self._acquire(slots, deadline, urgent=urgent)
                stack.callback(slots.release)
            connection = self._take(None if urgent else self.silent)
            try:
                yield connection
            finally:
                self._put(connection)

    def _acquire(self, slots: threading.Semaphore, deadline: float, *, urgent: bool) -> None:
        while True:
            if not urgent and self.silent.is_set():
                raise DatabaseUnavailable("PostgreSQL does not answer")
            left_s = deadline - time.monotonic()
            if slots.acquire(timeout=max(0, left_s if urgent else min(left_s, SILENCE_CHECK_S))):
                return
            if left_s <= 0:
                raise DatabaseUnavailable(f"all {self._size} connections to PostgreSQL stayed busy")

    def discard_idle(self) -> None:
        """Close the idle connections, which are as dead as the one that just failed."""
        with suppress(IndexError):  # other threads may be discarding too
            while True:
                self._idle.pop().close()

    def close(self) -> None:
        """Close the idle connections, and the borrowed ones as they are returned."""
        self._closed = True
        self.discard_idle()

    def _take(self, silent: threading.Event | None) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect(silent)

    def _put(self, connection: Connection) -> None:
        status = connection.info.transaction_status
        if self._closed or status != TRANSACTION_STATUS_IDLE:  # broken, or in the middle of a statement
            connection.close()
        else:
            self._idle.append(connection)

    def execute(self, statement: str, parameters: Parameters, *, within_s: float, urgent: bool = False) -> list[Row]:
        """The rows of a statement; it is repeated once where the connection proves dead, as after a restart."""
        for may_retry in (True, False):
            with self.connection(urgent=urgent) as connection:
                try:
                    silent = None if urgent else self.silent
                    return execute_within(connection, statement, parameters, within_s=within_s, silent=silent)
                except ServerSilent:
                    self.discard_idle()
                    raise
                except psycopg2.Error as error:
                    if not (connection.closed and may_retry):
                        raise as_database_error(error) from error
                    self.discard_idle()
        raise AssertionError


class Heartbeat:
    """Statements on a connection of their own, for one thread; sets `silent` while PostgreSQL does not answer them."""

    def __init__(self, connect: Callable[[], Connection], sql: Mapping[str, str], silent: threading.Event) -> None:
        self._connect, self._sql, self._silent = connect, sql, silent
        self._connection: Connection | None = None

    def check(self) -> None:
        """Raises DatabaseUnavailable or DatabaseNotSetUp if the table cannot be read."""
        self._execute(self._sql["check"])

    def check_writes(self) -> None:
        """Raises DatabaseUnavailable if a table cannot be written, as on a full disk."""
        self._execute(self._sql["check_writes"])

    def close(self) -> None:
        """Closes the connection."""
        if self._connection:
            self._connection.close()

    def _execute(self, statement: str) -> None:
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
                execute_within(self._connection, STATEMENT_TIMEOUT, {}, within_s=HEARTBEAT_S)
            execute_within(self._connection, statement, {}, within_s=HEARTBEAT_S)
        except ServerSilent:
            self._silent.set()
            raise
        except psycopg2.Error as error:
            self._silent.clear()
            raise as_database_error(error) from error
        self._silent.clear()
