"""Databases with settings and extensions of their own are backed up, and restored as they were."""

from pathlib import Path

import pytest
from programs import query

from astrodetect.db import backup as db_backup
from astrodetect.db.backup import restore
from astrodetect.db.connections import Connection, read_url


def test_settings_of_the_database_change_no_checksum_and_no_timeout_of_it_ends_a_dump(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = read_url(database_url)["dbname"]
    query(database_url, "CREATE TABLE measurements AS SELECT '\\x00ff'::bytea AS a, '1 day 2 hours'::interval AS b")
    for setting in ("bytea_output = 'escape'", "IntervalStyle = 'sql_standard'"):
        query(database_url, f"ALTER DATABASE {name} SET {setting}")
    timeouts = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    for timeout in timeouts:
        query(database_url, f"ALTER DATABASE {name} SET {timeout} = '10min'")

    run_program = db_backup._run

    def run(program: str, connection: Connection, *arguments: str, **options: str) -> None:
        with connection.cursor() as cursor:
            for timeout in timeouts:
                cursor.execute(f"SHOW {timeout}")
                assert cursor.fetchall() == [("0",)]
        run_program(program, connection, *arguments, **options)

    monkeypatch.setattr(db_backup, "_run", run)
    checksums, _ = db_backup.dump(database_url, tmp_path / "dump")
    query(database_url, "DROP TABLE measurements")
    restore(database_url, tmp_path / "dump", checksums, replace=False)


def test_tables_of_extensions_are_as_the_server_has_them(database_url: str, tmp_path: Path) -> None:
    query(database_url, "CREATE TABLE spatial_ref_sys AS SELECT 4326 AS srid")
    query(database_url, "ALTER EXTENSION vector ADD TABLE spatial_ref_sys")
    checksums, _ = db_backup.dump(database_url, tmp_path / "dump")
    restore(database_url, tmp_path / "dump", checksums, replace=True)
