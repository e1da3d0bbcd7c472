"""What several tests need: SQL in one line, and programs of ours, as processes or within this one."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import httpx2
import psycopg2
import pytest

from astrodetect.settings import settings

ROOT = Path(__file__).resolve().parent.parent

USER = """
import sys
from pathlib import Path
from astrodetect.db.embedded.server import serve
with serve(Path(sys.argv[1]), "postgres") as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one statement, committed, on a connection of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


def run_here(
    main: Callable[[list[str]], int],
    *arguments: object,
    folder: Path = ROOT,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> "subprocess.CompletedProcess[str]":
    """What a program of ours does and says, without the seconds that a process of its own takes to start."""
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), redirect_stdout(said), redirect_stderr(complained):
        for name, value in environment.items():
            patch.setenv(name, value)
        settings.cache_clear()
        words = [str(argument) for argument in arguments]
        try:
            status = main(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            settings.cache_clear()
    return subprocess.CompletedProcess(words, status, said.getvalue(), complained.getvalue())


class User:
    """A process of its own that is inside `serve`, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def url(self) -> str:
        """Waits until the server runs."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> tuple[int, str]:
        """A clean exit: its status, and what it complained of."""
        _, complaints = self.process.communicate()
        return self.process.returncode, beside_widening(complaints)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.process.kill()
        self.process.communicate()


def beside_widening(said: str) -> str:
    """What was said but for the folders that root's PostgreSQL was let through: pytest makes them for root alone."""
    return "".join(line for line in said.splitlines(keepends=True) if " runs under a system user: " not in line)


class Program:
    """A Python program of ours, in a process group of its own; all that it says is kept."""

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
    def said(self) -> str:
        """Its words so far, both kinds together."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait(self, within_s: float = 240) -> int:
        """Its exit status."""
        return self.process.wait(within_s)

    def wait_until(self, happened: Callable[[], Any], within_s: float = 120) -> None:
        """Until it `happened`; a program that ends before, or a wait that is too long, shows what was said."""
        give_up = time.monotonic() + within_s
        while not happened():
            if self.process.poll() is not None and not happened():
                raise AssertionError(f"ended with {self.process.returncode}:\n{self.said}")
            if time.monotonic() > give_up:
                raise AssertionError(f"not within {within_s} s:\n{self.said}")
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """As a person's Ctrl-C, or worse."""
        self.process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Service(Program):
    """`uvicorn main:app` on a free port."""

    def __init__(self, *, log: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__("-m", "uvicorn", "main:app", "--port", str(self.port), log=log, environment=environment)

    def ready(self) -> bool:
        """Whether it says so itself."""
        try:
            return httpx2.get(f"{self.url}/health/ready").status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    def detect(self, data: bytes, name: str = "sky.jpg") -> httpx2.Response:
        """One image to /detect."""
        return httpx2.post(f"{self.url}/detect", files={"file": (name, data)}, timeout=60)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
