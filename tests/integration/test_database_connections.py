"""Connections of the predictions database: restarts, outages, timeouts and the pool."""

import socket
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from programs import query

import setup_db
from astrodetect.db.connections import ValuesRejected, connect, read_url
from astrodetect.db.embedded.binaries import account_for, run_program
from astrodetect.db.embedded.lifetime import embedded_server
from astrodetect.errors import DatabaseError, DatabaseUnavailable
from astrodetect.records import Prediction, ScoredImage
from database import Database

SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")


def scored(name: str) -> ScoredImage:
    return replace(SCORED, image_name=name, request_id=uuid.uuid4())


def recorded(log: Database, scored: ScoredImage) -> Prediction:
    [row] = log.record_many([scored])
    return row


def test_the_next_call_after_a_restart_of_postgresql_succeeds(
    log: Database, postgres_folder: Path, database_url: str
) -> None:
    with ThreadPoolExecutor(2) as both:  # so that both connections are open, and idle, when it goes
        gate = threading.Barrier(2)

        def in_step(name: str) -> None:
            gate.wait()
            recorded(log, scored(name))

        list(both.map(in_step, ["one", "two"]))
    done = run_program("pg_ctl", postgres_folder, account_for(postgres_folder), "restart", "-m", "fast")
    assert done.returncode == 0
    assert recorded(log, scored("three")).image_name == "three"
    assert recorded(log, scored("four")).image_name == "four"
    assert query(database_url, "SELECT count(*) FROM predictions") == [(4,)]


def test_a_terminated_connection_is_replaced(log: Database, database_url: str) -> None:
    first = recorded(log, SCORED)
    end_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    query(database_url, end_others + " AND pid <> pg_backend_pid()")
    assert recorded(log, SCORED) == first


def test_calls_fail_while_postgresql_is_unavailable_and_succeed_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    with embedded_server(folder, "postgres") as url:
        setup_db.migrate(url)
        log = Database(url, connections=2, timeout_s=2)
        log.check()
    for call in (log.check, lambda: recorded(log, SCORED), lambda: log.prediction(1)):
        with pytest.raises(DatabaseUnavailable, match="cannot reach PostgreSQL"):
            call()
    with embedded_server(folder, "postgres"):
        assert recorded(log, SCORED).image_name == "m51.jpg"
        log.close()


def test_connecting_to_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        log = Database(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d", connections=1, timeout_s=1)
        with pytest.raises(DatabaseUnavailable, match="timeout expired"):
            log.check()


def test_the_next_host_is_tried_after_one_that_hangs(database_url: str) -> None:
    parts = read_url(database_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = f"127.0.0.1,{parts['host']}", f"{silent.getsockname()[1]},{parts.get('port', 5432)}"
        connect(database_url, timeout_s=1, bounded=True, host=host, port=port).close()


def test_a_slow_statement_times_out(database_url: str) -> None:
    log = Database(database_url, connections=1, timeout_s=1)
    log.check()
    blocker = connect(database_url, timeout_s=5)
    with blocker.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE predictions")
        with pytest.raises(DatabaseUnavailable, match="took too long"):
            recorded(log, SCORED)
        cursor.execute("ROLLBACK")
    blocker.close()
    assert recorded(log, SCORED).id > 0
    log.close()


def test_errors_of_the_server_pass_errors_of_a_row_do_not(log: Database, database_url: str) -> None:
    query(
        database_url,
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE EXCEPTION USING ERRCODE = NEW.image_name; END'; "
        "CREATE TRIGGER fail BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    for code, expected in {
        "58030": DatabaseUnavailable,  # an error of the disk
        "53000": DatabaseUnavailable,  # no descriptors
        "42501": DatabaseError,  # no permission
        "23514": ValuesRejected,  # a constraint
        "AB123": ValuesRejected,  # of a trigger's author
    }.items():
        with pytest.raises(DatabaseError) as raised:
            recorded(log, scored(code))
        assert type(raised.value) is expected, code


def test_many_threads_share_the_pool(log: Database, database_url: str) -> None:
    with ThreadPoolExecutor(16) as crowd:
        rows = list(crowd.map(lambda number: recorded(log, scored(str(number))), range(200)))
    assert len({row.id for row in rows}) == 200
    ours = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'astrodetect' AND datname = current_database()"
    )
    assert query(database_url, ours)[0][0] in {1, 2}


def test_waiting_for_a_busy_pool_times_out(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Database(database_url, connections=1, timeout_s=30)
    with log._pool.connection():  # which a busy machine opens in its own time
        monkeypatch.setattr(log._pool, "_timeout_s", 0.5)
        with pytest.raises(DatabaseUnavailable, match="all 1 connections to PostgreSQL stayed busy"):
            log.check()
    log.check()
    log.close()
