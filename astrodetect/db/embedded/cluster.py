"""One PostgreSQL cluster in one folder: made whole, started whatever a crash left behind, found, stopped."""

import logging
import os
import secrets
import shlex
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from astrodetect.db.embedded.account import Account, account_for, let_in
from astrodetect.db.embedded.binaries import MAJOR, program, reason, run
from astrodetect.errors import DatabaseError

log = logging.getLogger(__name__)

SUPERUSER = "postgres"
SOCKET_PORT = 5432  # part of the socket's name; no network port is opened
SOCKET_PATH_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux
OVER_TCP = os.name == "nt"  # Python knows no Unix sockets there: 127.0.0.1 and a password in a file instead
START_WITHIN_S = 60  # recovery after a crash included
STOP_WITHIN_S = 60
NO_SUCH_PROCESS = 3  # what `pg_ctl status` returns for a pid file that a killed server left
BIND_WITHIN_S = 3  # a living server listens this long after it wrote its pid
ORPHANS_LEAVE_WITHIN_S = 20  # what a killed server leaves behind ends by itself


def ensure_running(folder: Path) -> None:
    """Whatever a crash left behind: afterwards the server answers."""
    account = account_for(folder)
    let_in(account, folder, programs=program("postgres").parent.parent)
    if not _runs(folder, account):
        _initialise(folder, account)
        _start(folder, account)


def stop(folder: Path) -> None:
    """Its own sessions are ended; a server that does not stop is reported, for nothing depends on it."""
    if (folder / "postmaster.pid").exists():
        socket_folder = ServerAddress.of(folder).socket_folder
        done = run("pg_ctl", folder, account_for(folder), "stop", "-m", "fast", "-t", str(STOP_WITHIN_S))
        if done.returncode != 0:
            log.warning("the embedded PostgreSQL did not stop: %s", reason(done.stdout))
        elif socket_folder != folder:
            shutil.rmtree(socket_folder, ignore_errors=True)


def _runs(folder: Path, account: Account | None) -> bool:
    """Whether it answers; a pid file that only seems to speak of a living server is removed."""
    pid_file = folder / "postmaster.pid"
    began = time.monotonic()
    while pid_file.exists() and run("pg_ctl", folder, account, "status").returncode != NO_SUCH_PROCESS:
        address, waited = ServerAddress.of(folder), time.monotonic() - began
        if address.listens():
            if address.ready:
                return True
            if waited > START_WITHIN_S:  # it recovers, for a user who did not live to see it, or it stops
                raise DatabaseError(f"PostgreSQL in {folder} is not ready after {START_WITHIN_S} s: see its server.log")
        elif waited > BIND_WITHIN_S:
            # The file is torn, or another program has the pid of a server that was killed, which PostgreSQL would take
            # for that server. Should the server live after all, its shared memory still keeps a second one out.
            log.info("removing the lock of a server that is gone: %s", pid_file)
            (address.socket_folder / f".s.PGSQL.{address.port}.lock").unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)
        time.sleep(0.1)
    return False


def _initialise(folder: Path, account: Account | None) -> None:
    """A new cluster, made beside `folder` and moved there whole."""
    version = folder / "PG_VERSION"
    if version.exists():
        if (made_by := version.read_text().strip()) != str(MAJOR):
            raise DatabaseError(f"{folder} was made by PostgreSQL {made_by}, this is {MAJOR}: move it away")
        return
    if folder.exists() and any(folder.iterdir()):
        raise DatabaseError(f"{folder} is neither empty nor a PostgreSQL data folder: move it away")
    for half_made in folder.parent.iterdir():
        if half_made.name.startswith(f"{folder.name}.new-"):
            shutil.rmtree(half_made, ignore_errors=True)

    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
    try:
        data, password = new / "data", new / "password"
        data.mkdir(0o700)
        auth = ["--auth-local=trust", "--auth-host=reject"]  # who can enter the folder of the socket may connect
        if OVER_TCP:
            auth = ["--auth=scram-sha-256", f"--pwfile={password}"]
            password.touch(0o600)
            password.write_text(secrets.token_urlsafe(32))
        if account:
            for path in new, *new.iterdir():
                os.chown(path, *account)
        # The built-in locale gives the same order and the same upper and lower case on every platform.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = run("initdb", data, account, f"--username={SUPERUSER}", "--no-instructions", *auth, *locale)
        if done.returncode != 0:
            raise DatabaseError(f"PostgreSQL could not make {folder}: {reason(done.stdout)}")
        if OVER_TCP:
            password.write_text(f"127.0.0.1:*:*:{SUPERUSER}:{password.read_text()}\n")
            password.rename(data / "pgpass")
        if folder.exists():
            folder.rmdir()
        data.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _start(folder: Path, account: Account | None) -> None:
    if OVER_TCP:
        with socket.create_server(("127.0.0.1", 0)) as free:
            options = f"-h 127.0.0.1 -p {free.getsockname()[1]} -c unix_socket_directories="
    else:
        directory = str(_socket_folder(folder, account)).replace('"', '""')  # PostgreSQL reads a list of quoted names
        options = f"-h '' -p {SOCKET_PORT} -k " + shlex.quote(f'"{directory}"')
    give_up = time.monotonic() + ORPHANS_LEAVE_WITHIN_S
    server_log = folder / "server.log"
    while True:
        said_before = server_log.stat().st_size if server_log.exists() else 0
        done = run("pg_ctl", folder, account, "start", "-t", str(START_WITHIN_S), "-l", server_log.name, "-o", options)
        if done.returncode == 0:
            return
        with server_log.open("rb") if server_log.exists() else tempfile.TemporaryFile() as file:
            file.seek(said_before)
            said = reason(file.read().decode(errors="replace") or done.stdout)
        if "still in use" not in said or time.monotonic() > give_up:
            raise DatabaseError(f"PostgreSQL did not start in {folder}: {said}")
        time.sleep(0.2)


def _socket_folder(folder: Path, account: Account | None) -> Path:
    """`folder` itself, or a private one with a shorter name."""
    socket_name = f".s.PGSQL.{SOCKET_PORT}.lock"
    if len(os.fsencode(folder / socket_name)) <= SOCKET_PATH_BYTES and "," not in str(folder):  # libpq splits there
        return folder
    name = f"astrodetect-{sha256(os.fsencode(folder)).hexdigest()[:16]}"
    short = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(short / socket_name)) > SOCKET_PATH_BYTES:
        short = Path("/tmp") / name  # noqa: S108 - its owner is checked below
    short.mkdir(mode=0o700, exist_ok=True)
    if short.lstat().st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        raise DatabaseError(f"{short} belongs to someone else: remove it, or move {folder} to a shorter path")
    short.chmod(0o700)
    if account:
        os.chown(short, *account)
        let_in(account, short)
    return short


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens, as it wrote into its pid file."""

    folder: Path
    socket_folder: Path
    port: int
    ready: bool

    @classmethod
    def of(cls, folder: Path) -> "ServerAddress":
        try:
            lines = os.fsdecode((folder / "postmaster.pid").read_bytes()).splitlines()
        except FileNotFoundError:
            lines = []
        lines += [""] * (8 - len(lines))  # it is written line by line
        port = int(lines[3]) if lines[3].isdigit() else SOCKET_PORT
        return cls(folder, Path(lines[4] or folder), port, lines[7].strip() == "ready")

    def listens(self) -> bool:
        """What the operating system knows at once, however busy the server is."""
        kind = socket.AF_INET if OVER_TCP else socket.AF_UNIX
        with socket.socket(kind) as probe:
            try:
                probe.connect(
                    ("127.0.0.1", self.port) if OVER_TCP else str(self.socket_folder / f".s.PGSQL.{self.port}")
                )
            except OSError:
                return False
            return True

    def url(self, database: str) -> str:
        """For libpq: every program that speaks to PostgreSQL takes it as it stands."""
        name = quote(database, safe="")
        if OVER_TCP:
            passfile = quote(os.fsencode(self.folder / "pgpass"), safe="/:")
            return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{name}?passfile={passfile}"
        return f"postgresql://{SUPERUSER}@/{name}?host={quote(os.fsencode(self.socket_folder))}&port={self.port}"
