"""`python setup_db.py` as a program, against real servers."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import ROOT, query, without_permission_warnings

import setup_db
from astrodetect.db.embedded import server_process
from astrodetect.db.embedded.lifetime import embedded_server
from astrodetect.errors import DatabaseError

MIGRATIONS = sorted(path.stem for path in setup_db.MIGRATIONS.glob("0*.sql"))
UP_TO_DATE = f"up to date: {len(MIGRATIONS)} migrations"

COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'predictions'
    ORDER BY ordinal_position"""
OLD_TABLE = """
    CREATE TABLE predictions (
        id SERIAL PRIMARY KEY, image_name VARCHAR(255), score REAL, result VARCHAR(50),
        timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP
    );
    INSERT INTO predictions (image_name, score, result, timestamp)
    VALUES ('a.jpg', 0.75, 'Anomaly Detected', '2024-05-01 12:00'), ('b.jpg', 0.25, 'No Anomaly', '2024-05-02 12:00')"""
BARE_TABLE = """
    CREATE TABLE predictions (id INTEGER, image_name TEXT, score FLOAT, result TEXT, timestamp TIMESTAMPTZ);
    INSERT INTO predictions VALUES
        (7, 'a.jpg', 0.75, 'Anomaly Detected', '2024-05-01 12:00Z'), (9, 'b.jpg', 0.25, 'No Anomaly', now())"""


def run(url: str = "", *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "setup_db.py"), *arguments],
        env={**os.environ, "DATABASE_URL": url, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def other_database(url: str, name: str) -> str:
    """URL of the database `name` on the same server."""
    before, _, query_part = url.partition("?")
    return before.rpartition("/")[0] + f"/{name}?{query_part}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server over TCP with password authentication: the URL of its user `owner`."""
    folder = tmp_path_factory.mktemp("guarded") / "postgres"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_process, "OVER_TCP", True)
        with embedded_server(folder, "postgres") as url:
            query(url, "CREATE ROLE owner LOGIN CREATEDB PASSWORD 'open-sesame'")
            query(url, "CREATE ROLE guest LOGIN PASSWORD 'open-sesame'")
            yield url.partition("?")[0].replace("postgres@", "owner:open-sesame@")


def test_the_embedded_database_is_created_migrated_and_stopped(tmp_path: Path) -> None:
    done = run(ASTRODETECT_DATA_DIR=str(tmp_path / "data"))
    assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
    *steps, count, hint, psql = done.stdout.splitlines()
    assert steps == ["created database astrodetect", *(f"applied {name}" for name in MIGRATIONS)]
    assert count == UP_TO_DATE
    assert hint == "while the service runs, look inside with:"
    assert "psql" in psql
    assert "/astrodetect?" in psql
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_the_five_original_columns_come_first(postgres_url: str) -> None:
    setup_db.migrate(postgres_url)
    assert query(postgres_url, COLUMNS)[:5] == [
        ("id", "bigint"),
        ("image_name", "text"),
        ("score", "double precision"),
        ("result", "text"),
        ("timestamp", "timestamp with time zone"),
    ]


def test_a_missing_database_is_created_and_a_second_run_changes_nothing(postgres_url: str) -> None:
    url = other_database(postgres_url, 'it"s new')
    first = run(url.replace('"', "%22").replace(" ", "%20"))
    assert (first.returncode, without_permission_warnings(first.stderr)) == (0, "")
    assert first.stdout.startswith('created database it"s new\napplied 0001_predictions\n')
    second = run(url.replace('"', "%22").replace(" ", "%20"))
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.startswith(f"{UP_TO_DATE}\nlook inside with:\n")


def test_eight_concurrent_runs_create_and_migrate_once(postgres_url: str) -> None:
    url = other_database(postgres_url, f"crowd_{os.getpid()}")
    with ThreadPoolExecutor(8) as crowd:
        runs = list(crowd.map(run, [url] * 8))
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 8
    output = "".join(done.stdout for done in runs)
    assert output.count("created database") == 1
    assert output.count("applied 0001_predictions") == 1
    assert output.count("applied 0002_provenance") == 1
    assert output.count(UP_TO_DATE) == 8


@pytest.mark.parametrize("statement", [OLD_TABLE, BARE_TABLE], ids=["serial", "no-key-no-default"])
def test_a_table_of_an_older_version_is_migrated_with_its_rows(postgres_url: str, statement: str) -> None:
    query(postgres_url, statement)
    before = query(postgres_url, "SELECT id, image_name, score, result, timestamp::timestamptz FROM predictions")
    fresh = query(postgres_url, "SELECT max(id) + 1 FROM predictions")

    done = run(postgres_url)

    assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
    assert query(postgres_url, "SELECT id, image_name, score, result, timestamp FROM predictions") == before
    assert query(postgres_url, COLUMNS)[:5] == [
        ("id", "bigint"),
        ("image_name", "text"),
        ("score", "double precision"),
        ("result", "text"),
        ("timestamp", "timestamp with time zone"),
    ]
    insert = "INSERT INTO predictions (image_name, score, result) VALUES ('c', 0, 'No Anomaly') RETURNING id"
    assert query(postgres_url, insert) == fresh
    sequence = "SELECT data_type::text FROM pg_sequences WHERE sequencename = 'predictions_id_seq'"
    assert query(postgres_url, sequence) == [("bigint",)]


def test_an_incompatible_table_is_rejected_and_unchanged(postgres_url: str) -> None:
    query(postgres_url, "CREATE TABLE predictions (id SERIAL PRIMARY KEY, horoscope TEXT)")
    query(postgres_url, "INSERT INTO predictions (horoscope) VALUES ('luck')")
    done = run(postgres_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("setup_db: sql/0001_predictions.sql: ")
    assert done.stderr.endswith('column "image_name" of relation "predictions" does not exist\n')
    assert query(postgres_url, "SELECT * FROM predictions") == [(1, "luck")]
    assert query(postgres_url, "SELECT * FROM schema_migrations") == []


def test_a_failing_migration_is_rolled_back_and_can_be_repeated(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(setup_db.MIGRATIONS, tmp_path / "sql"))
    monkeypatch.setattr(setup_db, "MIGRATIONS", folder)
    more = folder / "9999_more.sql"
    more.write_text("CREATE TABLE half (n int); SELECT 1/0;")
    with pytest.raises(DatabaseError, match=r"^sql/9999_more\.sql: .*division by zero$"):
        setup_db.migrate(postgres_url)
    assert query(postgres_url, "SELECT to_regclass('half')") == [(None,)]
    more.write_text("CREATE TABLE half (n int);")
    assert setup_db.migrate(postgres_url).applied == ["9999_more"]


@pytest.mark.parametrize(
    ("version", "message"), [(None, "the server has no pgvector"), ("0.6.2", "its pgvector 0.6.2 has no halfvec")]
)
def test_without_pgvector_everything_else_is_set_up_and_vectors_are_added_later(
    postgres_url: str, version: str | None, message: str
) -> None:
    literal = f"'{version}'" if version else "NULL"
    query(
        postgres_url,  # a table in front of this server's own view
        "CREATE SCHEMA cover; CREATE VIEW cover.pg_available_extensions AS SELECT 'vector'::text AS name,"
        f" {literal}::text AS installed_version, NULL::text AS default_version",
    )
    covered = postgres_url + "&options=-csearch_path%3Dpublic,cover,pg_catalog"
    done = run(covered)
    assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
    assert f'"more like this" is off: {message}' in done.stdout
    assert "then run this again" in done.stdout
    assert query(postgres_url, "SELECT to_regclass('features'), to_regclass('labels')") == [(None, "labels")]
    assert "more like this" not in run(postgres_url).stdout
    assert query(postgres_url, "SELECT count(*) FROM features") == [(0,)]


def test_without_the_privilege_for_extensions_everything_else_is_set_up_and_the_command_is_named(
    postgres_url: str,
) -> None:
    query(postgres_url, "CREATE ROLE visitor LOGIN; GRANT ALL ON SCHEMA public TO visitor")
    theirs = postgres_url.replace("//postgres@", "//visitor@")
    for _ in range(2):
        done = run(theirs)
        assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
        [line] = [line for line in done.stdout.splitlines() if "more like this" in line]
        assert "let an administrator run CREATE EXTENSION vector in this database; then run this again" in line
    query(postgres_url, "CREATE EXTENSION vector")
    assert "more like this" not in run(theirs).stdout
    assert query(theirs, "SELECT count(*) FROM features") == [(0,)]


def test_a_changed_migration_is_rejected(database_url: str) -> None:
    query(database_url, "UPDATE schema_migrations SET sha256 = 'another' WHERE version = 2")
    done = run(database_url)
    assert done.returncode == 1
    assert done.stderr.startswith("setup_db: sql/0002_provenance.sql is not the file that was applied")


def test_tables_of_a_newer_version_are_left_and_used(database_url: str) -> None:
    query(database_url, "INSERT INTO schema_migrations VALUES (9999, '9999_future', '')")
    done = run(database_url)
    assert done.returncode == 0
    assert done.stderr == "the database is of a newer version, it has 9999_future: its tables stay as they are\n"
    query(database_url, "DELETE FROM schema_migrations WHERE version = 2")  # tables of which version, then?
    done = run(database_url)
    assert done.returncode == 1
    assert done.stderr == (
        "setup_db: the database is newer than this program, it has 9999_future: update the program\n"
    )


def test_a_server_that_is_too_old_is_rejected() -> None:
    setup_db.require_version(130_000)
    with pytest.raises(DatabaseError, match="PostgreSQL 12 is too old"):
        setup_db.require_version(120_022)


def test_a_database_that_is_not_utf8_is_rejected(postgres_url: str) -> None:
    query(postgres_url, "CREATE DATABASE latin ENCODING LATIN1 LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0")
    done = run(other_database(postgres_url, "latin"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "LATIN1" in done.stderr


def test_setup_over_tcp_never_prints_the_password(guarded: str) -> None:
    done = run(other_database(guarded, "tcp"))
    assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
    assert "created database tcp" in done.stdout
    assert "owner@127.0.0.1" in done.stdout
    assert "open-sesame" not in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("open-sesame", "s3cret-guess", 'password authentication failed for user "owner"'),
        ("owner:open-sesame", "nobody:s3cret-guess", 'password authentication failed for user "nobody"'),
        ("owner:open-sesame", "guest:open-sesame", 'the user "guest" may not create databases'),
        ("127.0.0.1", "nowhere.invalid", "cannot reach PostgreSQL at nowhere.invalid"),
        ("open-sesame", "s3cret@guess", "unescaped @"),
        ("open-sesame", "s3cret/guess", "unescaped @"),
        ("open-sesame", "s3cret%zz", "DATABASE_URL cannot be read"),
        ("postgresql://", "mysql://", "starts with mysql://"),
        ("postgresql://", "", "is not a URL"),
        ("/missing", "", "names no database"),
    ],
)
def test_errors_of_the_url_are_one_line_without_the_password(guarded: str, old: str, new: str, complaint: str) -> None:
    url = other_database(guarded, "missing").rstrip("?")
    assert old in url
    done = run(url.replace(old, new))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("setup_db: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
    assert "sesame" not in done.stderr
    assert "s3cret" not in done.stderr
    assert "guess" not in done.stderr


def test_the_error_of_a_closed_port_names_it(guarded: str) -> None:
    done = run("postgresql://owner:open-sesame@127.0.0.1:1/astrodetect")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "setup_db: cannot reach PostgreSQL at 127.0.0.1:1: Connection refused\n"


def test_help_shows_an_example() -> None:
    done = run("", "--help")
    assert (done.returncode, without_permission_warnings(done.stderr)) == (0, "")
    assert "DATABASE_URL=postgresql://" in done.stdout


def test_a_migration_that_was_undone_as_documented_is_applied_again(database_url: str) -> None:
    notes = (ROOT / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
    undone = re.findall(r"^\| `(\d+)(_\w+)` \| `([A-Z][^`]+)`", notes, re.MULTILINE)
    assert len(undone) >= 3
    for version, _, statement in undone:
        query(database_url, f"BEGIN; {statement}; DELETE FROM schema_migrations WHERE version = {int(version)}; COMMIT")
    assert setup_db.migrate(database_url).applied == sorted(version + name for version, name, _ in undone)
