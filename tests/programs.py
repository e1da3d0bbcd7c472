"""Test helpers that run SQL statements, programs as processes, and main functions within this process."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import chdir, closing, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx2
import psycopg2
import pytest

from astrodetect.settings import settings

ROOT = Path(__file__).resolve().parent.parent

SERVER_USER_SCRIPT = """
import sys
from pathlib import Path
from astrodetect.db.embedded.lifetime import embedded_server
with embedded_server(Path(sys.argv[1]), "postgres") as url:
    print(url, flush=True)
    sys.stdin.read()
"""

OUTBOX_USER_SCRIPT = """
import sys
from pathlib import Path
from astrodetect.records import ScoredImage
from astrodetect.service.outbox import Outbox
box = Outbox(Path(sys.argv[1]), max_bytes=10**6)
box.append([ScoredImage("other", "ab", 0.5, 0.5, "m", "1")])
print("kept", flush=True)
sys.stdin.read()
"""


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Execute and commit one statement on a new connection; return its rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


def wait_for_lock_or_end(change: Future[Any], database_url: str) -> None:
    """Wait until the change is done, or a session of this database waits for another one's lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while not (change.done() or query(database_url, waiting)):
        pass


def run_here(
    main: Callable[[list[str]], int],
    *arguments: object,
    folder: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> "subprocess.CompletedProcess[str]":
    """Run a main function in this process, capturing output and exit status: cheaper than a new process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), redirect_stdout(stdout), redirect_stderr(stderr):
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        argv = [str(argument) for argument in arguments]
        try:
            status = main(argv)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            settings.cache_clear()
    return subprocess.CompletedProcess(argv, status, stdout.getvalue(), stderr.getvalue())


@contextmanager
def outbox_user(folder: Path) -> "Iterator[subprocess.Popen[str]]":
    """A process that has queued one row in this outbox, and ends with its standard input."""
    command = [sys.executable, "-c", OUTBOX_USER_SCRIPT, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        yield process


class ServerUser:
    """A process that uses the embedded PostgreSQL, in its own process group."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVER_USER_SCRIPT, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def url(self) -> str:
        """Wait until the server runs; return its URL."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> tuple[int, str]:
        """Exit cleanly; return the exit status and stderr."""
        _, stderr = self.process.communicate()
        return self.process.returncode, without_permission_warnings(stderr)

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.process.kill()
        self.process.communicate()


def without_permission_warnings(stderr: str) -> str:
    """Drop the warnings about folders opened for root's PostgreSQL: pytest creates them for root only."""
    return "".join(line for line in stderr.splitlines(keepends=True) if " runs under a system user: " not in line)


class Program:
    """A Python program in its own process group, with its output captured in a file."""

    def __init__(
        self, *arguments: str, log: Path, folder: Path = ROOT, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """Stdout and stderr so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, within_s: float = 240) -> int:
        """Wait for the exit; return the exit status."""
        return self.process.wait(within_s)

    def wait_until(self, condition: Callable[[], Any], within_s: float = 120) -> None:
        """Poll `condition`; fail with the output if the program exits first or the time is up."""
        deadline = time.monotonic() + within_s
        while not condition():
            if self.process.poll() is not None and not condition():
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.output}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s} s:\n{self.output}")
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Service(Program):
    """`uvicorn main:app` on a free port."""

    def __init__(self, *, log: Path, environment: Mapping[str, str], arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = ("-m", "uvicorn", "main:app", "--port", str(self.port), *arguments)
        super().__init__(*command, log=log, environment=environment)

    def ready(self) -> bool:
        """Whether /health/ready answers 200."""
        try:
            return httpx2.get(f"{self.url}/health/ready").status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    def detect(self, data: bytes, name: str = "sky.jpg") -> httpx2.Response:
        """Send one image to /detect."""
        return httpx2.post(f"{self.url}/detect", files={"file": (name, data)}, timeout=60)


def free_port() -> int:
    """A free TCP port on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
