"""Connections to PostgreSQL: with timeouts, LISTEN, and errors as exceptions of this package."""

import math
import re
import selectors
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import psycopg2
from psycopg2 import errorcodes
from psycopg2.extensions import POLL_OK, POLL_READ, parse_dsn

from astrodetect.errors import DatabaseError, DatabaseNotSetUp, DatabaseUnavailable
from astrodetect.settings import SETUP_DB_COMMAND

Connection: TypeAlias = "psycopg2.extensions.connection"
Parameters: TypeAlias = Mapping[str, Any] | Sequence[Any]
Row: TypeAlias = dict[str, Any]

EXAMPLE = "postgresql://user:password@host:5432/astrodetect"
UNESCAPED_AT = "DATABASE_URL has an unescaped @: write @ as %40, / as %2F, ? as %3F in user and password"
SET_UP = f"run: {SETUP_DB_COMMAND}"
NOT_SET_UP = {errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN, errorcodes.INVALID_SCHEMA_NAME}
TRANSIENT = {errorcodes.READ_ONLY_SQL_TRANSACTION, errorcodes.LOCK_NOT_AVAILABLE}  # the first of a standby
TRANSIENT_CLASSES = {"08", "40", "53", "57", "58"}  # connections, conflicts, resources, operators, system calls
STATE_CLASSES = TRANSIENT_CLASSES | {"0A", "25", "26", "28", "2B", "3D", "3F", "42", "55", "F0", "HV", "XX"}
REJECTED = {errorcodes.DATATYPE_MISMATCH, errorcodes.CANNOT_COERCE}  # though of class 42

SILENCE_CHECK_S = 0.1
CONNECT_WITHIN_S = 10.0  # of commands


class ConnectionRefused(DatabaseUnavailable):
    """The server answered and refused the connection."""


class ValuesRejected(DatabaseError):
    """The server is well, and refuses these values whenever they are sent."""


class ServerSilent(DatabaseUnavailable):
    """The server holds the connection but sends nothing: it hangs, or the network does."""


def read_url(url: str) -> dict[str, str]:
    """The parts of a PostgreSQL URL; errors do not quote it, for it may hold a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise DatabaseError(f"DATABASE_URL is not a URL: write {EXAMPLE}")
    if scheme not in {"postgresql", "postgres"}:
        raise DatabaseError(f"DATABASE_URL starts with {scheme}://, but only PostgreSQL is supported: write {EXAMPLE}")
    authority, _, path = rest.partition("?")[0].partition("/")
    if authority.count("@") > 1 or "@" in path:
        raise DatabaseError(UNESCAPED_AT)
    try:
        parts: dict[str, str] = parse_dsn(url)
    except (psycopg2.Error, ValueError):  # their message quotes the URL
        raise DatabaseError(f"DATABASE_URL cannot be read: write {EXAMPLE}") from None
    if "@" in parts.get("host", "").lstrip("@"):
        raise DatabaseError(UNESCAPED_AT)
    if not re.fullmatch(r"[0-9,]*", parts.get("port", "")):
        raise DatabaseError(f"DATABASE_URL has a port that is not a number: write {EXAMPLE}")
    if "dbname" not in parts:
        raise DatabaseError(f"DATABASE_URL names no database: write {EXAMPLE}")
    return parts


def without_password(url: str) -> str:
    """The URL without its password, for display; psql asks for it."""
    url = re.sub(r"^(\w+://[^:/@?]*):[^@/?]*@", r"\1@", url)
    url = re.sub(r"(?<=[?&])(?:ssl)?password=[^&]*&?", "", url)
    return url.rstrip("?&")


def connect(
    url: str, *, timeout_s: float, bounded: bool = False, silent: threading.Event | None = None, **overrides: str
) -> Connection:
    """An autocommit connection; parameters in the URL override the limits here.

    Statements of a `bounded` connection go through `execute_within`.
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
    parts: dict[str, Any] = {**limits, **read_url(url), **overrides}
    try:
        connection: Connection = psycopg2.connect(**parts, async_=bounded)
        if bounded:  # libpq does not apply its timeout to asynchronous connections
            _settle(connection, timeout_s, silent)
        else:
            connection.autocommit = True
    except ServerSilent:
        hosts = {name: parts[name] for name in ("host", "hostaddr", "port") if "," in parts.get(name, "")}
        if hosts:  # nor does it try the next one after a host that hangs
            overrides |= {name: values.partition(",")[2] for name, values in hosts.items()}
            return connect(url, timeout_s=timeout_s, bounded=bounded, silent=silent, **overrides)
        raise _refused(TimeoutError("timeout expired"), parts) from None
    except (psycopg2.Error, ValueError) as error:
        raise _refused(error, parts) from error
    return connection


# Texts do not depend on settings of the role or the database, and no timeout of theirs ends the session. Servers know
# the last two since versions 14 and 17.
LONG_SESSION = """
    SELECT set_config(name, chosen.value, false) FROM pg_settings JOIN (VALUES
        ('TimeZone', 'UTC'), ('extra_float_digits', '1'), ('bytea_output', 'hex'), ('IntervalStyle', 'postgres'),
        ('statement_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
        ('idle_session_timeout', '0'), ('transaction_timeout', '0')
    ) AS chosen (name, value) USING (name)"""


@contextmanager
def open_session(url: str, database: str | None = None) -> Iterator[Connection]:
    """A connection for long statements, whose errors are those of this package."""
    name = database or read_url(url)["dbname"]
    with closing(connect(url, timeout_s=CONNECT_WITHIN_S, dbname=name)) as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(LONG_SESSION)
            yield connection
        except psycopg2.Error as error:
            raise as_database_error(error) from error


def execute_within(
    connection: Connection,
    statement: str,
    parameters: Parameters,
    *,
    within_s: float,
    silent: threading.Event | None = None,
) -> list[Row]:
    """Execute a statement and return its rows by column name; ServerSilent after `within_s`, or once `silent` is set.

    A blocking call would wait for as long as the peer keeps the connection open: TCP timeouts only count bytes that
    are not acknowledged, and the kernel of a hanging server, or a proxy, acknowledges them all.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        try:
            _settle(connection, within_s, silent)
        except psycopg2.Error as error:
            if error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION:  # its session may stay so, and new ones not
                connection.close()
            raise
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _settle(connection: Connection, within_s: float, silent: threading.Event | None) -> None:
    """Poll until the pending operation ends; a silent connection is closed, since its answer may still come."""
    started = time.monotonic()
    while (state := connection.poll()) != POLL_OK:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ if state == POLL_READ else selectors.EVENT_WRITE)
            while not selector.select(max(min(started + within_s - time.monotonic(), SILENCE_CHECK_S), 0)):
                waited_s = time.monotonic() - started
                if waited_s >= within_s or (silent and silent.is_set()):
                    connection.close()
                    raise ServerSilent(
                        f"PostgreSQL does not answer: nothing within {min(waited_s, within_s):.2g} seconds"
                    )


def as_database_error(error: psycopg2.Error) -> DatabaseError:
    """psycopg2's error as one of this package."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if error.pgcode in NOT_SET_UP:
        return DatabaseNotSetUp(f"{line}; {SET_UP}")
    if error.pgcode == errorcodes.QUERY_CANCELED:
        return DatabaseUnavailable(f"PostgreSQL took too long: {line}")
    if error.pgcode is None:
        unavailable = isinstance(error, psycopg2.OperationalError)
        rejected = isinstance(error, psycopg2.ProgrammingError | psycopg2.DataError)
    else:
        unavailable = error.pgcode in TRANSIENT or error.pgcode[:2] in TRANSIENT_CLASSES
        rejected = error.pgcode in REJECTED or error.pgcode[:2] not in STATE_CLASSES  # triggers have any others
    if unavailable:
        return DatabaseUnavailable(f"PostgreSQL does not answer: {line}")
    if rejected:
        return ValuesRejected(f"PostgreSQL refused: {line}")
    return DatabaseError(f"PostgreSQL refused: {line}")


def _refused(error: Exception, parts: dict[str, Any]) -> DatabaseError:
    """libpq writes one or two lines for each address that it tried, and no error code: the last answer counts."""
    lines = [re.sub(r"^connection to server .*? failed: ", "", line) for line in str(error).strip().splitlines()]
    answered = [line.partition(": ")[2].strip() for line in lines if re.match(r"\w+: {2}", line)]  # "FATAL:  …"
    host = parts.get("host") or "/"
    where = "the local socket" if host[0] in "/@" else f"{host}:{parts['port']}" if "port" in parts else host
    if not answered:
        return DatabaseUnavailable(f"cannot reach PostgreSQL at {where}: {lines[0] if lines else type(error).__name__}")
    if re.search(r'^database ".*" does not exist$', answered[-1]):
        return DatabaseNotSetUp(f"{answered[-1]} at {where}; {SET_UP}")
    return ConnectionRefused(f"PostgreSQL at {where} refuses the connection: {answered[-1]}")


class Listener:
    """LISTEN on a channel while enabled; for one thread, which owns the bounded connection."""

    def __init__(
        self, connection: Connection, channel: str, enable_sql: str, disable_sql: str, *, within_s: float
    ) -> None:
        self._connection, self._within_s = connection, within_s
        self._enable_sql, self._disable_sql = enable_sql, disable_sql  # tell the notifiers whether anybody listens
        try:
            self._execute(f'LISTEN "{channel}"; SELECT 1')
        except BaseException:
            connection.close()
            raise

    def enable(self) -> None:
        """Receive notifications from now on; pending ones are dropped."""
        self._execute(self._enable_sql)
        self._connection.notifies.clear()

    def disable(self) -> None:
        """Receive no more notifications."""
        self._execute(self._disable_sql)

    def wait(self, timeout_s: float) -> bool:
        """Whether a notification arrived within this time; DatabaseUnavailable if the connection is lost."""
        try:
            if not self._connection.notifies:
                with selectors.DefaultSelector() as selector:  # select.select is limited to descriptors below 1024
                    selector.register(self._connection, selectors.EVENT_READ)
                    selector.select(timeout_s)
                self._connection.poll()
        except psycopg2.Error as error:
            raise as_database_error(error) from error
        notified = bool(self._connection.notifies)
        self._connection.notifies.clear()
        return notified

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _execute(self, statement: str) -> None:
        try:
            execute_within(self._connection, statement, {}, within_s=self._within_s)
        except psycopg2.Error as error:
            raise as_database_error(error) from error
