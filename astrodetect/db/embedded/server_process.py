"""One PostgreSQL cluster in one folder: initialised atomically, started whatever a crash left behind, stopped."""

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

from astrodetect.db.embedded.binaries import (
    MAJOR,
    Account,
    account_for,
    failure_cause,
    grant_access,
    program_path,
    run_program,
)
from astrodetect.errors import DatabaseError

log = logging.getLogger(__name__)

SUPERUSER = "postgres"
SOCKET_PORT = 5432  # part of the socket's name; no network port is opened
SOCKET_PATH_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux
OVER_TCP = os.name == "nt"  # Python has no Unix sockets there: 127.0.0.1, and a password in a file
START_WITHIN_S = 60  # including crash recovery
STOP_WITHIN_S = 60
NO_SUCH_PROCESS = 3  # exit status of `pg_ctl status` for the pid file of a killed server
BIND_WITHIN_S = 3  # a live server listens this long after it wrote its pid
ORPHANS_EXIT_WITHIN_S = 20  # child processes of a killed server exit by themselves


def ensure_running(folder: Path) -> None:
    """Start the server if it does not answer, after initialising the cluster if there is none."""
    account = account_for(folder)
    grant_access(account, folder, programs=program_path("postgres").parent.parent)
    if not _is_running(folder, account):
        _initialise(folder, account)
        _start(folder, account)


def stop_server(folder: Path) -> None:
    """Stop the server and end its sessions; a failure is only logged, since nothing depends on it."""
    if (folder / "postmaster.pid").exists():
        socket_folder = ServerAddress.of(folder).socket_folder
        done = run_program("pg_ctl", folder, account_for(folder), "stop", "-m", "fast", "-t", str(STOP_WITHIN_S))
        if done.returncode != 0:
            log.warning("the embedded PostgreSQL did not stop: %s", failure_cause(done.stdout))
        elif socket_folder != folder:
            shutil.rmtree(socket_folder, ignore_errors=True)


def _is_running(folder: Path, account: Account | None) -> bool:
    """Whether the server accepts connections; the pid file of a dead server is removed."""
    pid_file = folder / "postmaster.pid"
    began = time.monotonic()
    while pid_file.exists() and run_program("pg_ctl", folder, account, "status").returncode != NO_SUCH_PROCESS:
        address, waited = ServerAddress.of(folder), time.monotonic() - began
        if address.listens():
            if address.ready:
                return True
            if waited > START_WITHIN_S:  # in recovery, started by a process that is gone, or shutting down
                raise DatabaseError(f"PostgreSQL in {folder} is not ready after {START_WITHIN_S} s: see its server.log")
        elif waited > BIND_WITHIN_S:
            # The file is torn, or another program has the pid of a killed server and PostgreSQL would take it for
            # that server. If the server is alive after all, its shared memory still keeps a second one out.
            log.info("removing the lock file of a dead server: %s", pid_file)
            (address.socket_folder / f".s.PGSQL.{address.port}.lock").unlink(missing_ok=True)
            pid_file.unlink(missing_ok=True)
        time.sleep(0.1)
    return False


def _initialise(folder: Path, account: Account | None) -> None:
    """Run initdb in a temporary folder beside `folder` and rename it."""
    version = folder / "PG_VERSION"
    if version.exists():
        if (major := version.read_text().strip()) != str(MAJOR):
            raise DatabaseError(f"{folder} was made by PostgreSQL {major}, this is {MAJOR}: move it away")
        return
    if folder.exists() and any(folder.iterdir()):
        raise DatabaseError(f"{folder} is neither empty nor a PostgreSQL data folder: move it away")
    for path in folder.parent.iterdir():
        if path.name.startswith(f"{folder.name}.new-"):
            shutil.rmtree(path, ignore_errors=True)

    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}.new-", dir=folder.parent))
    try:
        data, password = new / "data", new / "password"
        data.mkdir(0o700)
        auth = ["--auth-local=trust", "--auth-host=reject"]  # access to the socket's folder is the permission
        if OVER_TCP:
            auth = ["--auth=scram-sha-256", f"--pwfile={password}"]
            password.touch(0o600)
            password.write_text(secrets.token_urlsafe(32))
        if account:
            for path in new, *new.iterdir():
                os.chown(path, *account)
        # The built-in locale sorts and changes case alike on every platform.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        options = [f"--username={SUPERUSER}", "--no-instructions", *auth, *locale]
        done = run_program("initdb", data, account, *options)
        if done.returncode != 0:
            raise DatabaseError(f"PostgreSQL could not make {folder}: {failure_cause(done.stdout)}")
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
        socket_folder = _socket_folder(folder, account)
        if not ServerAddress(folder, socket_folder, SOCKET_PORT, ready=False).listens():  # of a killed server
            (socket_folder / f".s.PGSQL.{SOCKET_PORT}.lock").unlink(missing_ok=True)
        directory = str(socket_folder).replace('"', '""')  # a list of quoted names
        options = f"-h '' -p {SOCKET_PORT} -k " + shlex.quote(f'"{directory}"')
    deadline = time.monotonic() + ORPHANS_EXIT_WITHIN_S
    server_log = folder / "server.log"
    arguments = ["start", "-t", str(START_WITHIN_S), "-l", server_log.name, "-o", options]
    while True:
        offset = server_log.stat().st_size if server_log.exists() else 0
        done = run_program("pg_ctl", folder, account, *arguments)
        if done.returncode == 0:
            return
        with server_log.open("rb") if server_log.exists() else tempfile.TemporaryFile() as file:
            file.seek(offset)
            cause = failure_cause(file.read().decode(errors="replace") or done.stdout)
        if "still in use" not in cause or time.monotonic() > deadline:
            raise DatabaseError(f"PostgreSQL did not start in {folder}: {cause}")
        time.sleep(0.2)


def _socket_folder(folder: Path, account: Account | None) -> Path:
    """`folder` itself, or a private folder with a shorter path where a socket's name would be too long."""
    socket_name = f".s.PGSQL.{SOCKET_PORT}.lock"
    if len(os.fsencode(folder / socket_name)) <= SOCKET_PATH_BYTES and "," not in str(folder):  # libpq splits there
        return folder
    name = f"astrodetect-{sha256(os.fsencode(folder)).hexdigest()[:16]}"
    short = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(short / socket_name)) > SOCKET_PATH_BYTES:
        short = Path("/tmp") / name  # noqa: S108 - its owner is checked below
    short.mkdir(mode=0o700, exist_ok=True)
    if short.lstat().st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        raise DatabaseError(f"{short} belongs to another user: remove it, or move {folder} to a shorter path")
    short.chmod(0o700)
    if account:
        os.chown(short, *account)
        grant_access(account, short)
    return short


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens, according to its pid file."""

    folder: Path
    socket_folder: Path
    port: int
    ready: bool

    @classmethod
    def of(cls, folder: Path) -> "ServerAddress":
        """Read postmaster.pid; a line that is not written yet is empty."""
        try:
            lines = os.fsdecode((folder / "postmaster.pid").read_bytes()).splitlines()
        except FileNotFoundError:
            lines = []
        lines += [""] * (8 - len(lines))
        port = int(lines[3]) if lines[3].isdigit() else SOCKET_PORT
        return cls(folder, Path(lines[4] or folder), port, lines[7].strip() == "ready")

    def listens(self) -> bool:
        """Whether the socket accepts connections, which the operating system answers however busy the server is."""
        family = socket.AF_INET if OVER_TCP else socket.AF_UNIX
        address = ("127.0.0.1", self.port) if OVER_TCP else str(self.socket_folder / f".s.PGSQL.{self.port}")
        with socket.socket(family) as probe:
            try:
                probe.connect(address)
            except OSError:
                return False
            return True

    def url(self, database: str) -> str:
        """URL for libpq, as any PostgreSQL program takes it."""
        name = quote(database, safe="")
        if OVER_TCP:
            passfile = quote(os.fsencode(self.folder / "pgpass"), safe="/:")
            return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{name}?passfile={passfile}"
        return f"postgresql://{SUPERUSER}@/{name}?host={quote(os.fsencode(self.socket_folder))}&port={self.port}"
