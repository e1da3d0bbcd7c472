"""A service as a process of its own, ended with this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from astrodetect.settings import ROOT
from benchmarks import http_messages

START_WITHIN_S = 180.0
END_WITHIN_S = 10.0
ANSWER_WITHIN_S = 60.0
LOOK_EVERY_S = 0.005
OK = 200


class BenchmarkError(Exception):
    """A run that must not be reported."""


class ServiceProcess:
    """`uvicorn APP` on a free port of this machine."""

    def __init__(self, app: str, environment: Mapping[str, str], log: Path) -> None:
        self.app, self._log = app, log
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(port)]
        with log.open("ab") as file:
            self._began = time.perf_counter()
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C comes to us alone, and we end all of it
            )

    def until_answered(self, request: bytes) -> float:
        """Seconds from its start to the first 200 to this request."""
        while request_status(self.url, request) != OK:
            if self.process.poll() is not None:
                raise BenchmarkError(f"{self.app} ended with {self.process.returncode}:\n{self.said()}")
            if time.perf_counter() - self._began > START_WITHIN_S:
                raise BenchmarkError(f"{self.app} did not answer with 200 in {START_WITHIN_S:.0f} s:\n{self.said()}")
            time.sleep(LOOK_EVERY_S)
        return time.perf_counter() - self._began

    def said(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        """Asked, then made to; descendants too."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_WITHIN_S)
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Every signal to end leaves through every `finally`, Ctrl-C too where a shell started us deaf to it."""
    numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
    before = {number: signal.signal(number, lambda got, _: sys.exit(128 + got)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_module(module: str, *arguments: str, may_fail: bool = False) -> str:
    """What `python -m MODULE …` prints; what it says besides goes to our stderr."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        printed, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0 and not (may_fail and printed):
        raise BenchmarkError(f"python -m {module} {' '.join(arguments)} ended with {process.returncode}")
    return printed


def print_progress(line: str) -> None:
    """To whoever watches: stdout is the report's."""
    print(line, file=sys.stderr, flush=True)


def request_status(url: str, request: bytes) -> int | None:
    """The status of one answer, on a connection of its own; None where none came."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(http_messages.address(url), ANSWER_WITHIN_S) as line,
    ):
        line.sendall(request)
        received = b""
        while chunk := line.recv(65536):
            received += chunk
            if whole := http_messages.parse(received):
                return whole[0]
    return None


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
