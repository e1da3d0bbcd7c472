"""Create the predictions database and apply the migrations: the numbered files of sql/, in order, each exactly once."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports needs no traceback

import argparse
import hashlib
import logging
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2 import errorcodes, sql

from astrodetect.db.connections import SET_UP, ConnectionRefused, as_database_error, connect, read_url, without_password
from astrodetect.db.embedded import lifetime
from astrodetect.errors import AstrodetectError, DatabaseError, DatabaseNotSetUp
from astrodetect.progress import escape_output
from astrodetect.settings import settings

MIGRATIONS = Path(__file__).resolve().parent / "sql"
VECTORS = MIGRATIONS / "vectors.sql"
MAINTENANCE_DATABASE = "postgres"  # exists on every server
OLDEST_POSTGRES = 13
OLDEST_PGVECTOR = (0, 7)  # the first with halfvec
CONNECT_WITHIN_S = 10.0
LOCK = 7_237_867_511_894_021  # key of pg_advisory_lock

log = logging.getLogger(__name__)

MIGRATIONS_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""

VECTOR_SUPPORT = """
    SELECT to_regclass('features') IS NOT NULL,
        (SELECT coalesce(installed_version, default_version) FROM pg_available_extensions WHERE name = 'vector')"""

EPILOG = """\
examples:
  python setup_db.py
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python setup_db.py

Running it again changes nothing. Rows are never deleted."""


def main(argv: list[str] | None = None) -> int:
    """Set up the database of the settings and print what was done."""
    parser = argparse.ArgumentParser(
        prog="setup_db.py",
        description="Create the predictions database and bring its tables up to date. "
        "Uses DATABASE_URL, or the embedded PostgreSQL where that is unset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    try:
        with ExitStack() as stack:
            configured = settings().database_url
            embedded = (
                stack.enter_context(lifetime.embedded_server(settings().postgres_dir, lifetime.EMBEDDED_DATABASE))
                if not configured
                else ""
            )
            url = configured.get_secret_value() if configured else embedded
            if create_database(url):
                print(f"created database {read_url(url)['dbname']}")
            result = migrate(url)
            for name in result.applied:
                print(f"applied {name}")
            print(f"up to date: {len(_migrations())} migrations")
            if result.without_vectors:
                print(f'"more like this" is off: {result.without_vectors}; then run this again')
            print("while the service runs, look inside with:" if embedded else "look inside with:")
            print(f"  {lifetime.psql_command(without_password(url))}")
    except AstrodetectError as error:
        print(f"setup_db: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def create_database(url: str) -> bool:
    """Create the database of `url` if it is missing; returns whether it was."""
    try:
        connect(url, timeout_s=CONNECT_WITHIN_S).close()
    except (DatabaseNotSetUp, ConnectionRefused) as refused:  # refused may mean missing, in another language
        return _create(url, refused)
    return False


def _create(url: str, refused: DatabaseError) -> bool:
    name = read_url(url)["dbname"]
    try:
        maintenance = connect(url, timeout_s=CONNECT_WITHIN_S, dbname=MAINTENANCE_DATABASE)
    except DatabaseError:
        raise refused from None
    try:
        require_version(maintenance.server_version)
        with maintenance.cursor() as cursor:
            # Image names may be in any script; template0 allows any encoding.
            create = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0")
            cursor.execute(create.format(sql.Identifier(name)))
    except psycopg2.Error as error:
        if error.pgcode in {errorcodes.DUPLICATE_DATABASE, errorcodes.UNIQUE_VIOLATION}:
            if isinstance(refused, DatabaseNotSetUp):  # another process has just created it
                return False
            raise refused from None
        if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
            user = maintenance.info.user
            raise DatabaseError(
                f'the user "{user}" may not create databases: let an administrator run: createdb -O {user} {name}'
            ) from error
        raise as_database_error(error) from error
    finally:
        maintenance.close()
    return True


@dataclass(frozen=True)
class Migrated:
    """The migrations that were applied, and why vectors are not stored, where they are not."""

    applied: list[str]
    without_vectors: str | None


def migrate(url: str, database: str | None = None) -> Migrated:
    """Apply missing migrations, one transaction each; processes take turns by an advisory lock.

    `database` names another one of the same server.
    """
    connection = connect(url, timeout_s=CONNECT_WITHIN_S, dbname=database or read_url(url)["dbname"])
    try:
        require_version(connection.server_version)
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise DatabaseError(
                f"the database is encoded in {encoding}, and image names may be in any script: use UTF8"
            )
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])  # released when the connection closes
            cursor.execute(MIGRATIONS_TABLE)
            cursor.execute("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
            recorded = {version: (name, digest) for version, name, digest in cursor.fetchall()}
            missing = _missing(_migrations(), recorded)
            for migration in missing:
                _apply(cursor, migration)
            without_vectors = _add_vectors(cursor)
    except psycopg2.Error as error:
        raise as_database_error(error) from error
    finally:
        connection.close()
    return Migrated([migration.name for migration in missing], without_vectors)


def require_version(server_version: int) -> None:
    """DatabaseError if the server is too old; `server_version` is libpq's, such as 130004."""
    if server_version // 10_000 < OLDEST_POSTGRES:
        raise DatabaseError(
            f"PostgreSQL {server_version // 10_000} is too old: the oldest supported version is {OLDEST_POSTGRES}"
        )


@dataclass(frozen=True)
class _Migration:
    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def _migrations() -> list[_Migration]:
    """Read with universal newlines, so that a checkout on Windows has the same SHA-256."""
    files = sorted(path for path in MIGRATIONS.glob("*.sql") if re.match(r"\d{4}_", path.name))
    return [_Migration(int(path.name[:4]), path.stem, path.read_text(encoding="utf-8")) for path in files]


def _missing(migrations: list[_Migration], recorded: dict[int, tuple[str, str]]) -> list[_Migration]:
    versions = {migration.version for migration in migrations}
    missing = [migration for migration in migrations if migration.version not in recorded]
    if newer := [name for version, (name, _) in sorted(recorded.items()) if version not in versions]:
        if missing:
            raise DatabaseError(f"the database is newer than this program, it has {newer[-1]}: update the program")
        log.warning("the database is of a newer version, it has %s: its tables stay as they are", newer[-1])
    for migration in migrations:
        if migration.version in recorded and recorded[migration.version][1] != migration.sha256:
            raise DatabaseError(
                f"sql/{migration.name}.sql is not the file that was applied to this database: restore it, "
                "and put changes into a new one"
            )
    return missing


def _apply(cursor: "psycopg2.extensions.cursor", migration: _Migration) -> None:
    record = "INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
    try:
        cursor.execute("BEGIN")
        cursor.execute(migration.text)
        cursor.execute(record, [migration.version, migration.name, migration.sha256])
        cursor.execute("COMMIT")
    except psycopg2.Error as error:
        reason = str(as_database_error(error)).removesuffix(f"; {SET_UP}")  # which this is
        raise DatabaseError(f"sql/{migration.name}.sql: {reason}") from error


def _add_vectors(cursor: "psycopg2.extensions.cursor") -> str | None:
    """Create the table of vectors if it is missing; returns what prevents it, if anything."""
    cursor.execute(VECTOR_SUPPORT)
    [(exists, version)] = cursor.fetchall()
    if exists:
        return None
    if version is None:
        return "the server has no pgvector: let an administrator install it"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_PGVECTOR:
        return f"its pgvector {version} has no halfvec: let an administrator update it to 0.7 or newer"
    try:
        cursor.execute("BEGIN")
        cursor.execute(VECTORS.read_text(encoding="utf-8"))
        cursor.execute("COMMIT")
    except psycopg2.Error as error:
        cursor.execute("ROLLBACK")
        if error.pgcode == errorcodes.INSUFFICIENT_PRIVILEGE:
            return f"{as_database_error(error)}: let an administrator run CREATE EXTENSION vector in this database"
        return f"sql/{VECTORS.name}: {as_database_error(error)}"
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    escape_output()
    sys.exit(main())
