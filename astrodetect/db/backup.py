"""Dumps of the predictions database: one snapshot, with a checksum of every table that a restored one must have.

A dump is restored into a database beside the configured one, compared, and then renamed, so that a failure or Ctrl-C
changes nothing, and a database that a service uses is never replaced under it.
"""

import datetime as dt
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psycopg2
from psycopg2 import errorcodes, sql
from psycopg2.extensions import make_dsn

from astrodetect.db.connections import Connection, open_session, read_url
from astrodetect.db.embedded.binaries import MAJOR, program_path
from astrodetect.errors import DatabaseError, DatabaseNotSetUp

MAINTENANCE_DATABASE = "postgres"
RESTORE_JOBS = 4  # connections of pg_restore, most of whose time is the building of indexes
NAME_BYTES = 63 - 30  # of a database's name; the rest is for what is appended
# pg_restore sets it, and goes on where an older server does not know it
UNKNOWN_SETTING, SETTING_SINCE = "transaction_timeout", 170_000
ERRORS_IGNORED = ": warning: errors ignored on restore: "  # its last line then
RESTORING = "_restoring"  # ends the name of the database that a dump is read into
Checksums: TypeAlias = dict[str, list[str]]  # table → number of rows, and the sum of their hashes

OWN_ROWS = ["schema_migrations", "novelty_updates", "leases"]  # what a service writes before its first prediction
ALL_TABLES = """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%%' AND relname <> ALL(%s)
    ORDER BY relname <> 'predictions', nspname, relname"""
# Without those of extensions, such as PostGIS's spatial_ref_sys, whose rows its version on the other server brings.
TABLES = """
    SELECT relname FROM pg_class
    WHERE relkind = 'r' AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('predictions'))
        AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
    ORDER BY relname"""
CHECKSUM = "SELECT count(*)::text, coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} AS t"
MIGRATION_NAMES = "SELECT name FROM schema_migrations ORDER BY version"


def dump(url: str, path: Path) -> tuple[Checksums, list[str]]:
    """Write a snapshot of the database to a file; its checksums, and the names of its migrations."""
    with open_session(url) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute(MIGRATION_NAMES)
        migrations = [name for (name,) in cursor.fetchall()]
        cursor.execute("SELECT pg_export_snapshot()")
        [(snapshot,)] = cursor.fetchall()
        _run("pg_dump", connection, url, "--format=custom", f"--snapshot={snapshot}", f"--file={path}")
        return _checksums(connection), migrations


def restore(
    url: str, path: Path, expected: Checksums, *, replace: bool, prepare: Callable[[str], object] | None = None
) -> str | None:
    """Replace the database by the one in a dump; returns the name under which a replaced one with rows was kept.

    The server must let this user create databases. DatabaseError where the database has rows, unless `replace`.
    `prepare` gets the name of the restored database before it takes its place.
    """
    name = read_url(url)["dbname"]
    replaced = _table_with_rows(url)
    if replaced and not replace:
        raise DatabaseError(
            f"the database {name} has {replaced}: set DATABASE_URL to another one, or keep these under another name "
            "with --replace"
        )
    temporary = _shortened(name) + RESTORING
    with open_session(url, MAINTENANCE_DATABASE) as maintenance:
        _execute(maintenance, "DROP DATABASE IF EXISTS {}", temporary)
        _execute(maintenance, "CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0", temporary)
        try:
            options = [f"--jobs={RESTORE_JOBS}", "--no-owner", "--no-privileges", str(path)]
            if maintenance.server_version >= SETTING_SINCE:
                options.append("--exit-on-error")
            _run("pg_restore", maintenance, url, *options, database=temporary)
            with open_session(url, temporary) as connection:
                if differing := _differences(expected, _checksums(connection)):
                    raise DatabaseError(f"the restored tables differ from the backup's: {', '.join(differing)}")
            if prepare:
                prepare(temporary)
            return _exchange(maintenance, name, temporary, keep=bool(replaced))
        finally:
            _execute(maintenance, "DROP DATABASE IF EXISTS {} WITH (FORCE)", temporary)


def _exchange(maintenance: Connection, name: str, temporary: str, *, keep: bool) -> str | None:
    """Rename the restored database; one with rows is kept under another name, an empty one dropped."""
    kept = f"{_shortened(name)}_replaced_{dt.datetime.now(dt.UTC):%Y%m%d%H%M%S%f}" if keep else None
    try:
        if kept:  # both in one transaction: there is always a database of this name
            rename = "ALTER DATABASE {} RENAME TO {}"
            _execute(maintenance, f"{rename}; {rename}", name, kept, temporary, name)
        else:
            _execute(maintenance, "DROP DATABASE IF EXISTS {}", name)
            _execute(maintenance, "ALTER DATABASE {} RENAME TO {}", temporary, name)
    except psycopg2.Error as error:
        if error.pgcode == errorcodes.OBJECT_IN_USE:
            raise DatabaseError(f"the database {name} is in use: stop the service first") from error
        raise
    return kept


def _shortened(name: str) -> str:
    """The start of a database's name: PostgreSQL cuts names, so that with a suffix a long one would be the original."""
    return name.encode()[:NAME_BYTES].decode(errors="ignore")


def _table_with_rows(url: str) -> str | None:
    """What the database has that a restoration would lose: predictions, or rows of any other table, also of others."""
    try:
        with open_session(url) as connection, connection.cursor() as cursor:
            cursor.execute(ALL_TABLES, [OWN_ROWS])
            for schema, table in cursor.fetchall():
                cursor.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(schema, table)))
                if cursor.rowcount:
                    return "predictions" if table == "predictions" else f"rows in {table}"
    except DatabaseNotSetUp:
        pass
    return None


def _checksums(connection: Connection) -> Checksums:
    with connection.cursor() as cursor:
        cursor.execute(TABLES)
        checksums = {}
        for (table,) in cursor.fetchall():
            cursor.execute(sql.SQL(CHECKSUM).format(sql.Identifier(table)))
            checksums[table] = list(cursor.fetchall()[0])
        return checksums


def _differences(expected: Checksums, found: Checksums) -> list[str]:
    return sorted(table for table in expected.keys() | found.keys() if expected.get(table) != found.get(table))


def _execute(connection: Connection, statement: str, *names: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _run(program: str, connection: Connection, url: str, *options: str, database: str | None = None) -> None:
    """Run one of PostgreSQL's own programs on a database; the embedded ones read and write older servers too."""
    parts = read_url(url) | ({"dbname": database} if database else {})
    password = parts.pop("password", None)  # command lines are visible to all users
    installed = shutil.which(program) if connection.server_version // 10_000 > MAJOR else None
    command = [installed or str(program_path(program)), f"--dbname={make_dsn(**parts)}", *options]
    environment = os.environ | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if UNKNOWN_SETTING not in line and ": error: " in line]
        if errors or not (lines and ERRORS_IGNORED in lines[-1]):
            raise DatabaseError((errors or lines or [f"{program} ended with status {done.returncode}"])[0])
