"""`backup` and `restore`: everything is destroyed in between, and comes back."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import colour_models
import pytest
from programs import outbox_user, query, run_here
from starlette.testclient import TestClient

from astrodetect import atomic_files, images
from astrodetect.__main__ import main
from astrodetect.cli import backup as cli_backup
from astrodetect.cli.backup import checked_contents
from astrodetect.db import backup as db_backup
from astrodetect.db.backup import restore
from astrodetect.db.connections import read_url
from astrodetect.db.embedded.binaries import program_path
from astrodetect.errors import BackupError, DatabaseError
from astrodetect.model_store.manifest import list_manifests
from astrodetect.model_store.publication import ready_folder
from astrodetect.model_store.store import read_current
from astrodetect.service.outbox import Outbox
from astrodetect.settings import Settings
from database import Database
from main import create_app

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Serve = Callable[[], TestClient]
ROWS = "SELECT * FROM predictions ORDER BY id"
IMAGE = images.encode_png(colour_models.image("nebula"))


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of the models, to be destroyed."""
    return shutil.copytree(models_dir, tmp_path / "models")


@pytest.fixture
def astrodetect(database_url: str, models: Path, tmp_path: Path) -> Run:
    """A function that runs a command on this database, these models and this data folder."""
    environment = {
        "DATABASE_URL": database_url,
        "ASTRODETECT_MODELS_DIR": str(models),
        "ASTRODETECT_DATA_DIR": str(tmp_path / "data"),
    }
    return lambda *arguments, **changed: run_here(main, *arguments, environment=environment | changed)


@pytest.fixture
def serve(database_url: str, models: Path, tmp_path: Path) -> Serve:
    """A function that makes a test client, which is the running service while it is entered."""
    fields = {"database_url": database_url, "models_dir": models, "data_dir": tmp_path / "data"}
    return lambda: TestClient(create_app(Settings.model_validate(fields)))


def upload(client: TestClient, name: str) -> int:
    response = client.post("/detect", files={"file": (name, IMAGE)})
    assert response.status_code == 200, response.text
    return int(response.json()["id"])


def drop(url: str) -> None:
    maintenance = url.replace(f"/{read_url(url)['dbname']}?", "/postgres?", 1)
    query(maintenance, f'DROP DATABASE "{read_url(url)["dbname"]}" WITH (FORCE)')


def test_after_the_loss_of_everything_a_restored_service_goes_on(
    astrodetect: Run, serve: Serve, database_url: str, models: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with serve() as client:
        ids = [upload(client, f"{n}.jpg") for n in range(3)]
        assert client.post(f"/predictions/{ids[0]}/label", json={"label": "interesting"}).status_code == 201
        with outbox_user(data / "outbox"):  # another process whose row waits
            (data / "outbox" / "1" / "rejected").write_bytes(b"a row\n")
            (data / "outbox" / "1" / "00000007.unreadable").write_bytes(b"a row\n")
            done = astrodetect("backup", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert "3 predictions" in done.stdout
    rows, files = query(database_url, ROWS), {path.name: path.read_bytes() for path in models.glob("[!.]*")}

    drop(database_url)
    shutil.rmtree(models)
    shutil.rmtree(data)
    done = astrodetect("restore", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    drop(database_url)
    done = astrodetect("restore", tmp_path / "backup", "--replace")  # while the rows of the first one still wait
    assert done.returncode == 0, done.stderr
    assert query(database_url, ROWS) == rows
    assert {path.name: path.read_bytes() for path in models.glob("[!.]*")} == files
    outbox = Outbox(data / "outbox", max_bytes=10**6)
    assert (len(outbox), outbox.rejected) == (2, 4)  # of both restorations
    outbox.close()
    with serve() as client:
        assert upload(client, "next.jpg") > ids[-1]
    assert len(query(database_url, ROWS)) == len(ids) + 2  # the waiting row once


def test_a_backup_under_load_has_every_prediction_acknowledged_before_it(
    astrodetect: Run, serve: Serve, tmp_path: Path
) -> None:
    stop, ids = threading.Event(), list[int]()

    def load(client: TestClient) -> None:
        while not stop.is_set():
            ids.append(upload(client, "load.jpg"))

    with serve() as client:
        thread = threading.Thread(target=load, args=[client])
        thread.start()
        try:
            while len(ids) < 5 and thread.is_alive():
                stop.wait(0.01)
            acknowledged = len(ids)
            done = astrodetect("backup", tmp_path / "backup")
        finally:
            stop.set()
            thread.join()
    assert done.returncode == 0, done.stderr
    contents = json.loads((tmp_path / "backup" / "backup.json").read_text())
    assert acknowledged <= int(contents["tables"]["predictions"][0]) <= len(ids)


def test_a_lock_that_cannot_be_written_is_named(astrodetect: Run, tmp_path: Path) -> None:
    (tmp_path / ".monday.part.lock").mkdir()
    done = astrodetect("backup", tmp_path / "monday")
    assert (done.returncode, done.stderr) == (1, f"astrodetect: {tmp_path / '.monday.part.lock'}: Is a directory\n")


def test_two_at_once_do_not_write_one_folder(astrodetect: Run, models: Path, tmp_path: Path) -> None:
    assert astrodetect("backup", tmp_path / "first").returncode == 0
    holder = "import fasteners, sys; lock = fasteners.InterProcessLock(sys.argv[1]); lock.acquire(); print(); input()"
    for folder, command in (
        (tmp_path / ".second.part", ["backup", tmp_path / "second"]),
        (models / ".restoring", ["restore", tmp_path / "first", "--replace"]),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", holder, f"{folder}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            process.stdout.readline()
            folder.mkdir()  # the other process writes here
            done = astrodetect(*command)
            process.kill()
        assert (done.returncode, folder.is_dir()) == (1, True)
        assert done.stderr.splitlines()[-1] == f"astrodetect: another process is writing {folder}"
        assert astrodetect(*command).returncode == 0  # it was killed
        assert not folder.exists()


def test_what_is_there_is_never_overwritten(
    astrodetect: Run, serve: Serve, database_url: str, models: Path, tmp_path: Path
) -> None:
    with serve() as client:
        upload(client, "before.jpg")
        assert astrodetect("backup", tmp_path / "backup").returncode == 0
        upload(client, "after.jpg")
        again = astrodetect("backup", tmp_path / "backup")
        assert again.stderr == f"astrodetect: {tmp_path / 'backup'} exists: name a new folder\n"

        refused = astrodetect("restore", tmp_path / "backup")
        assert refused.returncode == 1
        assert f"{models} has models" in refused.stderr
        refused = astrodetect("restore", tmp_path / "backup", ASTRODETECT_MODELS_DIR=str(tmp_path / "other"))
        assert "has predictions: set DATABASE_URL to another one" in refused.stderr
        in_use = astrodetect("restore", tmp_path / "backup", "--replace")
        assert "is in use: stop the service first" in in_use.stderr.splitlines()[-1]
        assert len(query(database_url, ROWS)) == 2

    version = read_current(models, "resnet50_model").version
    colour_models.publish(tmp_path / "killed", "resnet50_model", colour_models.TWO_CLASSES, scale=0.1)
    (tmp_path / "killed").rename(ready_folder(models, "resnet50_model"))  # as its publication was killed
    done = astrodetect("restore", tmp_path / "backup", "--replace")
    assert done.returncode == 0, done.stderr
    assert [row[1] for row in query(database_url, ROWS)] == ["before.jpg"]
    name = read_url(database_url)["dbname"]
    kept = next(word for word in done.stdout.split() if word.startswith(f"{name}_replaced"))
    assert len(query(database_url.replace(f"/{name}?", f"/{kept}?"), ROWS)) == 2
    drop(database_url.replace(f"/{name}?", f"/{kept}?"))
    [aside] = models.glob(".replaced-*")
    assert (aside / "resnet50_model.json").is_file()
    assert read_current(models, "resnet50_model").version == version


@pytest.mark.parametrize("name", ["database.dump", "models/resnet50_model.xml", "backup.json"])
def test_a_damaged_backup_changes_nothing(
    astrodetect: Run, database_url: str, models: Path, tmp_path: Path, name: str
) -> None:
    assert astrodetect("backup", tmp_path / "backup").returncode == 0
    damaged = tmp_path / "backup" / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    shutil.rmtree(models)
    done = astrodetect("restore", tmp_path / "backup")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "use another backup" in done.stderr
    assert not models.exists()
    Database(database_url, connections=1, timeout_s=5).close()


def _link(backup: Path) -> None:
    (backup / "models" / "x.html").symlink_to("/etc/hostname")


def _pipe(backup: Path) -> None:
    os.mkfifo(backup / "models" / "x.html")


def _unlisted(backup: Path) -> None:
    (backup / "models" / "x.html").write_text("x")


def _outside(backup: Path) -> None:
    (backup.parent / "x").write_text("x")
    contents = json.loads((backup / "backup.json").read_text())
    contents["files"]["../x"] = atomic_files.file_sha256(backup.parent / "x")
    (backup / "backup.json").write_text(json.dumps(contents))


def _deep(backup: Path) -> None:
    (backup / "backup.json").write_text("[" * 100_000)


@pytest.mark.parametrize("change", [_link, _pipe, _unlisted, _outside, _deep])
def test_a_backup_has_the_files_that_it_lists_and_nothing_else(tmp_path: Path, change: Callable[[Path], None]) -> None:
    backup = tmp_path / "backup"
    (backup / "models").mkdir(parents=True)
    (backup / "database.dump").write_text("dump")
    contents = {
        "format": 1,
        "created": "now",
        "migrations": [],
        "tables": {"predictions": ["1", "0"]},
        "files": {"database.dump": atomic_files.file_sha256(backup / "database.dump")},
    }
    (backup / "backup.json").write_text(json.dumps(contents))
    assert checked_contents(backup) == contents
    change(backup)
    with pytest.raises(BackupError, match="use another") as refused:
        checked_contents(backup)
    assert "\n" not in str(refused.value)


def test_a_database_with_the_longest_name_is_not_lost(database_url: str, tmp_path: Path) -> None:
    name, short = "d" * 63, read_url(database_url)["dbname"]
    query(database_url.replace(f"/{short}?", "/postgres?"), f'CREATE DATABASE "{name}" TEMPLATE "{short}"')
    url = database_url.replace(f"/{short}?", f"/{name}?")
    query(url, "INSERT INTO predictions (image_name, score, result) VALUES ('here', 0, 'No Anomaly')")
    (tmp_path / "dump").write_text("damaged")
    with pytest.raises(DatabaseError):
        restore(url, tmp_path / "dump", {}, replace=True)
    assert [row[1] for row in query(url, ROWS)] == ["here"]
    drop(url)


@pytest.mark.parametrize("table", ["api_keys", "measurements"])
def test_a_database_without_predictions_but_with_other_rows_is_not_lost(
    database_url: str, tmp_path: Path, table: str
) -> None:
    query(database_url, "CREATE SCHEMA survey")
    query(database_url, "CREATE TABLE survey.measurements (id serial)")
    columns = " (name, sha256, scopes)" if table == "api_keys" else ""
    values = "VALUES ('joe', '', '{}')" if columns else "DEFAULT VALUES"
    query(database_url, f"INSERT INTO {'' if columns else 'survey.'}{table}{columns} {values}")
    with pytest.raises(DatabaseError, match=f"has rows in {table}: set DATABASE_URL to another one"):
        restore(database_url, tmp_path / "missing", {}, replace=False)


def test_tables_may_be_in_another_schema(astrodetect: Run, database_url: str, tmp_path: Path) -> None:
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('a', 0, 'No Anomaly')")
    query(database_url, "ALTER SCHEMA public RENAME TO astro")
    query(database_url, "CREATE SCHEMA public")
    environment = {"DATABASE_URL": f"{database_url}&options=-csearch_path%3Dastro"}
    environment["ASTRODETECT_MODELS_DIR"] = str(tmp_path / "models")
    done = astrodetect("backup", tmp_path / "backup", **environment)
    assert (done.returncode, " 1 predictions, " in done.stdout) == (0, True), done.stderr
    done = astrodetect("restore", tmp_path / "backup", "--replace", **environment)
    assert done.returncode == 0, done.stderr
    assert query(database_url, "SELECT image_name FROM astro.predictions") == [("a",)]


@pytest.mark.parametrize("other", ["", "permission denied"])
def test_a_setting_that_an_older_server_does_not_know_is_no_error(
    astrodetect: Run, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('a', 0, 'No Anomaly')")
    rows = query(database_url, ROWS)
    assert astrodetect("backup", tmp_path / "backup").returncode == 0
    drop(database_url)
    unknown = 'pg_restore: error: could not execute query: ERROR:  unrecognized parameter "transaction_timeout"'
    errors = [unknown, "Command was: SET transaction_timeout = 0;", *([f"pg_restore: error: {other}"] if other else [])]
    last = "pg_restore: warning: errors ignored on restore: 1"
    echo = "\n".join(f"echo '{line}' >&2" for line in [*errors, last])
    (tmp_path / "pg_restore").write_text(f'#!/bin/sh\n{program_path("pg_restore")} "$@"\n{echo}\nexit 1\n')
    (tmp_path / "pg_restore").chmod(0o755)
    monkeypatch.setattr(db_backup, "program_path", tmp_path.joinpath)
    done = astrodetect("restore", tmp_path / "backup", ASTRODETECT_MODELS_DIR=str(tmp_path / "new"))
    if other:
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"astrodetect: pg_restore: error: {other}")
    else:
        assert done.returncode == 0, done.stderr
        assert query(database_url, ROWS) == rows


def test_ctrl_c_between_the_steps_of_the_replacement_waits_for_all_of_them(
    astrodetect: Run, database_url: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert astrodetect("backup", tmp_path / "backup").returncode == 0
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('after', 0, 'No Anomaly')")
    execute, statements, handler = db_backup._execute, list[str](), signal.getsignal(signal.SIGINT)

    def interrupted(connection: Any, statement: str, *names: str) -> None:
        execute(connection, statement, *names)
        statements.append(statement)
        if "RENAME" in statement:
            signal.raise_signal(signal.SIGINT)

    def interrupted_cleanup(folder: Path, **options: Any) -> None:
        remove(folder, **options)
        if any("RENAME" in statement for statement in statements):
            signal.raise_signal(signal.SIGINT)

    remove = shutil.rmtree
    monkeypatch.setattr(db_backup, "_execute", interrupted)
    monkeypatch.setattr(shutil, "rmtree", interrupted_cleanup)
    done = astrodetect("restore", tmp_path / "backup", "--replace")
    assert done.returncode == 0, done.stderr
    assert query(database_url, ROWS) == []
    assert (models / "resnet50_model.json").is_file()
    assert len(list(models.glob(".replaced-*"))) == 1
    assert sum("RENAME" in statement for statement in statements) == 1  # or a killed one leaves no database
    assert signal.getsignal(signal.SIGINT) is handler
    kept = next(word for word in done.stdout.split() if "_replaced_" in word)
    drop(database_url.replace(f"/{read_url(database_url)['dbname']}?", f"/{kept}?"))


def test_no_model_is_there_in_part_while_models_are_replaced(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored, rename, states = shutil.copytree(models, tmp_path / "restored"), Path.rename, list[int]()

    def checked(path: Path, target: Path) -> Path:
        assert cli_backup._damaged_models(models) == []
        states.append(len(list(list_manifests(models))))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", checked)
    cli_backup._move_into_place(cli_backup._model_entries(models), restored, models)
    assert 0 in states
    assert cli_backup._damaged_models(models) == []


def test_damaged_models_are_not_backed_up(astrodetect: Run, models: Path, tmp_path: Path) -> None:
    (models / "colours.bin").write_bytes(b"")
    done = astrodetect("backup", tmp_path / "backup")
    assert done.returncode == 1
    assert "models that are damaged, or change all the time: colours" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_a_disk_that_fills_up_leaves_everything_as_it_was(
    astrodetect: Run, database_url: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert astrodetect("backup", tmp_path / "backup").returncode == 0
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('after', 0, 'No Anomaly')")
    files = {path.name for path in models.iterdir()}

    def fail(source: str, target: str, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr(shutil, "copyfile", fail)
    (models / ".colours.earlier" / "0001.ab").mkdir(parents=True)
    (models / ".colours.earlier" / "0001.ab" / "colours.bin").write_bytes(b"")
    full = astrodetect("backup", tmp_path / "second")
    copy = tmp_path / ".second.part" / "models" / ".colours.earlier" / "0001.ab" / "colours.bin"
    assert full.stderr.splitlines()[-1] == f"astrodetect: {copy}: No space left on device"
    shutil.rmtree(models / ".colours.earlier")
    done = astrodetect("restore", tmp_path / "backup", "--replace")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert len(query(database_url, ROWS)) == 1
    assert {path.name for path in models.iterdir()} == files
