"""Connections to PostgreSQL: opened with limits, shared between threads, and their errors in one clear line."""

import math
import re
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import POLL_OK, POLL_READ, TRANSACTION_STATUS_IDLE, parse_dsn

from astrodetect.errors import DatabaseError, DatabaseNotSetUp, DatabaseUnavailable

Connection: TypeAlias = "psycopg2.extensions.connection"
Values: TypeAlias = Mapping[str, Any] | Sequence[Any]

EXAMPLE = "postgresql://user:password@host:5432/astrodetect"
STRAY = "DATABASE_URL holds a stray @: write @ as %40, / as %2F, ? as %3F in user and password"
SET_UP = "run: python setup_db.py"
NOT_SET_UP = {errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN, errorcodes.INVALID_SCHEMA_NAME}
PASSES = {  # the same statement may succeed later
    errorcodes.QUERY_CANCELED,
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
    errorcodes.READ_ONLY_SQL_TRANSACTION,  # a standby, until it takes over
    errorcodes.SERIALIZATION_FAILURE,
    errorcodes.DEADLOCK_DETECTED,
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.DISK_FULL,
    errorcodes.OUT_OF_MEMORY,
}


class ConnectionRefused(DatabaseUnavailable):
    """A server answered and did not let us in."""


class ServerSilent(DatabaseUnavailable):
    """A server that has the connection says nothing: it hangs, or the network between does."""


def read_url(url: str) -> dict[str, str]:
    """The parts of a PostgreSQL URL; what is wrong with it is said without quoting it, for it may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise DatabaseError(f"DATABASE_URL is not a URL: write {EXAMPLE}")
    if scheme not in {"postgresql", "postgres"}:
        raise DatabaseError(f"DATABASE_URL starts with {scheme}://, but only PostgreSQL will do: write {EXAMPLE}")
    authority, _, path = rest.partition("?")[0].partition("/")
    if authority.count("@") > 1 or "@" in path:
        raise DatabaseError(STRAY)
    try:
        parts: dict[str, str] = parse_dsn(url)
    except (psycopg2.Error, ValueError):  # their text quotes what they could not read
        raise DatabaseError(f"DATABASE_URL cannot be read: write {EXAMPLE}") from None
    if "@" in parts.get("host", "").lstrip("@"):
        raise DatabaseError(STRAY)
    if not re.fullmatch(r"[0-9,]*", parts.get("port", "")):
        raise DatabaseError(f"DATABASE_URL has a port that is no number: write {EXAMPLE}")
    if "dbname" not in parts:
        raise DatabaseError(f"DATABASE_URL names no database: write {EXAMPLE}")
    return parts


def without_password(url: str) -> str:
    """The URL as it may be shown; psql asks for the password that it lacks."""
    url = re.sub(r"^(\w+://[^:/@?]*):[^@/?]*@", r"\1@", url)
    url = re.sub(r"(?<=[?&])(?:ssl)?password=[^&]*&?", "", url)
    return url.rstrip("?&")


def connect(url: str, *, timeout_s: float, bounded: bool = False, **instead: str) -> Connection:
    """A connection that commits each statement by itself; what the URL says goes before our limits.

    Where it is `bounded`, statements go through `ask`.
    """
    limits = {
        "connect_timeout": math.ceil(timeout_s),
        "tcp_user_timeout": math.ceil(timeout_s * 1000),
        "keepalives_idle": math.ceil(timeout_s),
        "keepalives_interval": math.ceil(timeout_s),
        "keepalives_count": 2,
        "application_name": "astrodetect",
        "client_encoding": "UTF8",
    }
    parts: dict[str, Any] = {**limits, **read_url(url), **instead}
    try:
        connection: Connection = psycopg2.connect(**parts, async_=bounded)
        if bounded:  # libpq leaves its limit for each host to us
            _settle(connection, timeout_s * len(parts.get("host", "").split(",")))
        else:
            connection.autocommit = True
    except ServerSilent:
        raise _refused(TimeoutError("timeout expired"), parts) from None
    except (psycopg2.Error, ValueError) as error:
        raise _refused(error, parts) from error
    return connection


def execute_within(connection: Connection, statement: str, values: Values, *, within_s: float) -> list[tuple[Any, ...]]:
    """Its rows, or Silent.

    A blocking call would wait for as long as the other side keeps the connection open: TCP's own limits only count
    bytes that are not acknowledged, and the kernel of a server that hangs, or a proxy, acknowledges them all.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        _settle(connection, within_s)
        return cursor.fetchall()


def _settle(connection: Connection, within_s: float) -> None:
    """Until what was begun is done; a connection that stays silent is closed, as its answer may still come."""
    give_up = time.monotonic() + within_s
    while (state := connection.poll()) != POLL_OK:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE)
            if not selector.select(max(give_up - time.monotonic(), 0)):
                connection.close()
                raise ServerSilent(f"PostgreSQL does not answer: nothing within {within_s:g} seconds")


def as_database_error(error: psycopg2.Error) -> DatabaseError:
    """What PostgreSQL said of a statement, as one of ours."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if error.pgcode in NOT_SET_UP:
        return DatabaseNotSetUp(f"{line}; {SET_UP}")
    if error.pgcode == errorcodes.QUERY_CANCELED:
        return DatabaseUnavailable(f"PostgreSQL took too long: {line}")
    if error.pgcode in PASSES or (error.pgcode is None and isinstance(error, psycopg2.OperationalError)):
        return DatabaseUnavailable(f"PostgreSQL does not answer: {line}")
    return DatabaseError(f"PostgreSQL refused: {line}")


def _refused(error: Exception, parts: dict[str, Any]) -> DatabaseError:
    """libpq says one or two lines for every address that it tried, and gives no code: the last answer counts."""
    lines = [re.sub(r"^connection to server .*? failed: ", "", line) for line in str(error).strip().splitlines()]
    answered = [
        line.partition(": ")[2].strip() for line in lines if re.match(r"\w+: {2}", line)
    ]  # "FATAL:  password …"
    host = parts.get("host") or "/"
    where = "the local socket" if host[0] in "/@" else f"{host}:{parts['port']}" if "port" in parts else host
    if not answered:
        return DatabaseUnavailable(f"cannot reach PostgreSQL at {where}: {lines[0] if lines else type(error).__name__}")
    if re.search(r'^database ".*" does not exist$', answered[-1]):
        return DatabaseNotSetUp(f"{answered[-1]} at {where}; {SET_UP}")
    return ConnectionRefused(f"PostgreSQL at {where} refuses the connection: {answered[-1]}")


class Pool:
    """At most `size` connections, opened when first needed and lent to one thread at a time."""

    def __init__(self, open_one: Callable[[], Connection], *, size: int, timeout_s: float) -> None:
        self._open_one, self._size, self._timeout_s = open_one, size, timeout_s
        self._slots = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """One for this thread alone; kept for the next where it is still good."""
        if not self._slots.acquire(timeout=self._timeout_s):
            raise DatabaseUnavailable(f"all {self._size} connections to PostgreSQL stayed busy")
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._put(connection)
        finally:
            self._slots.release()

    def forget(self) -> None:
        """The idle ones are as dead as the one that just failed."""
        with suppress(IndexError):  # threads whose connections died together come here together
            while True:
                self._idle.pop().close()

    def close(self) -> None:
        """Those that are lent out close as they come back."""
        self._closed = True
        self.forget()

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open_one()

    def _put(self, connection: Connection) -> None:
        status = connection.info.transaction_status
        if self._closed or status != TRANSACTION_STATUS_IDLE:  # broken, or left in the middle of a statement
            connection.close()
        else:
            self._idle.append(connection)
