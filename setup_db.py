"""Creates the database and brings its tables up to date: the numbered files of sql/ in order, each exactly once."""

import argparse
import hashlib
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg2
from psycopg2 import errorcodes, sql

from astrodetect.db.connections import ConnectionRefused, as_database_error, connect, read_url, without_password
from astrodetect.db.embedded import server
from astrodetect.errors import AstrodetectError, DatabaseError, DatabaseNotSetUp
from astrodetect.settings import settings

MIGRATIONS = Path(__file__).resolve().parent / "sql"
VECTORS = MIGRATIONS / "vectors.sql"
MAINTENANCE_DATABASE = "postgres"  # every server has it
OLDEST_POSTGRES = 13
OLDEST_PGVECTOR = (0, 7)  # the first with half precision
CONNECT_WITHIN_S = 10.0
LOCK = 7_237_867_511_894_021  # of pg_advisory_lock: any number that nobody else uses

BOOKKEEPING = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""

PGVECTOR = """
    SELECT to_regclass('features') IS NOT NULL,
        (SELECT coalesce(installed_version, default_version) FROM pg_available_extensions WHERE name = 'vector')"""

EPILOG = """\
examples:
  python setup_db.py
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python setup_db.py

Running it again changes nothing. Rows are never deleted."""


def main(argv: list[str] | None = None) -> int:
    """Sets up the database of the settings and says what was done."""
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
            given = settings().database_url
            embedded = (
                stack.enter_context(server.embedded_server(settings().postgres_dir, server.EMBEDDED_DATABASE))
                if not given
                else ""
            )
            url = given.get_secret_value() if given else embedded
            if create_database(url):
                print(f"created database {read_url(url)['dbname']}")
            done = migrate(url)
            for name in done.applied:
                print(f"applied {name}")
            print(f"up to date: {len(_migrations())} migrations")
            if done.without_vectors:
                print(f'"more like this" is off: {done.without_vectors}; then run this again')
            print("while the service runs, look inside with:" if embedded else "look inside with:")
            print(f"  {server.psql_command(without_password(url))}")
    except AstrodetectError as error:
        print(f"setup_db: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def create_database(url: str) -> bool:
    """Makes the database that `url` names where it is missing, and says whether it did."""
    try:
        connect(url, timeout_s=CONNECT_WITHIN_S).close()
    except (
        DatabaseNotSetUp,
        ConnectionRefused,
    ) as refused:  # a server that speaks another language only seems to refuse us
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
            # template0 takes any encoding, and image names come in all scripts.
            create = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0")
            cursor.execute(create.format(sql.Identifier(name)))
    except psycopg2.Error as error:
        if error.pgcode in {errorcodes.DUPLICATE_DATABASE, errorcodes.UNIQUE_VIOLATION}:
            if isinstance(refused, DatabaseNotSetUp):  # another process was faster
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
    """The names of the files that were applied, and why no vectors are kept, where none are."""

    applied: list[str]
    without_vectors: str | None


def migrate(url: str) -> Migrated:
    """Applies what the database lacks, one transaction each; one process at a time does."""
    connection = connect(url, timeout_s=CONNECT_WITHIN_S)
    try:
        require_version(connection.server_version)
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise DatabaseError(f"the database is encoded in {encoding}, and image names come in all scripts: use UTF8")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])  # released as the connection closes
            cursor.execute(BOOKKEEPING)
            cursor.execute("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
            recorded = {version: (name, digest) for version, name, digest in cursor.fetchall()}
            missing = _missing(_migrations(), recorded)
            for step in missing:
                _apply(cursor, step)
            without_vectors = _add_vectors(cursor)
    except psycopg2.Error as error:
        raise as_database_error(error) from error
    finally:
        connection.close()
    return Migrated([step.name for step in missing], without_vectors)


def require_version(server_version: int) -> None:
    """PostgreSQL as libpq numbers it, such as 130004."""
    if server_version // 10_000 < OLDEST_POSTGRES:
        raise DatabaseError(
            f"PostgreSQL {server_version // 10_000} is too old: it gets no more fixes, and nothing here is tested "
            f"below {OLDEST_POSTGRES}"
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
    """Read with universal line ends, so that a checkout on Windows has the same sums."""
    files = sorted(path for path in MIGRATIONS.glob("*.sql") if re.match(r"\d{4}_", path.name))
    return [_Migration(int(path.name[:4]), path.stem, path.read_text(encoding="utf-8")) for path in files]


def _missing(known: list[_Migration], recorded: dict[int, tuple[str, str]]) -> list[_Migration]:
    versions = {step.version for step in known}
    if newer := [name for version, (name, _) in sorted(recorded.items()) if version not in versions]:
        raise DatabaseError(f"the database is newer than this program, it has {newer[-1]}: update the program")
    for step in known:
        if step.version in recorded and recorded[step.version][1] != step.sha256:
            raise DatabaseError(
                f"sql/{step.name}.sql is not the file that was applied to this database: restore it, "
                "and put changes into a new one"
            )
    return [step for step in known if step.version not in recorded]


def _apply(cursor: "psycopg2.extensions.cursor", step: _Migration) -> None:
    record = "INSERT INTO schema_migrations (version, name, sha256) VALUES (%s, %s, %s)"
    try:
        cursor.execute("BEGIN")
        cursor.execute(step.text)
        cursor.execute(record, [step.version, step.name, step.sha256])
        cursor.execute("COMMIT")
    except psycopg2.Error as error:
        raise DatabaseError(f"sql/{step.name}.sql: {as_database_error(error)}") from error


def _add_vectors(cursor: "psycopg2.extensions.cursor") -> str | None:
    """Makes what keeps vectors, where it is not there and the server can; or says what is in the way."""
    cursor.execute(PGVECTOR)
    [(there, version)] = cursor.fetchall()
    if there:
        return None
    if version is None:
        return "the server has no pgvector: let an administrator install it"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_PGVECTOR:
        return f"its pgvector {version} has no half precision: let an administrator bring it to 0.7 or newer"
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
    sys.exit(main())
