"""Subprocesses of benchmarks: services and other benchmarks, terminated with this process."""

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
POLL_EVERY_S = 0.005
OK = 200


class BenchmarkError(Exception):
    """The run failed and has no report."""


class ServiceProcess:
    """`uvicorn MODULE:APP`, or the program MODULE, on a free port, with more options."""

    def __init__(self, app: str, environment: Mapping[str, str], log: Path, *options: str) -> None:
        self.app, self._log, self._asked_to_end = app, log, False
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        program = ["uvicorn", app] if ":" in app else [app]
        command = [sys.executable, "-m", *program, "--port", str(port), *options]
        with log.open("ab") as file:
            self._began = time.perf_counter()
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C reaches this process only, which terminates the group
            )

    def wait_for_response(self, request: bytes) -> float:
        """Seconds from its start until this request is answered with 200."""
        while request_status(self.url, request) != OK:
            if self.process.poll() is not None:
                raise BenchmarkError(f"{self.app} ended with {self.process.returncode}:\n{self.log_tail()}")
            if time.perf_counter() - self._began > START_WITHIN_S:
                raise BenchmarkError(f"{self.app} sent no 200 in {START_WITHIN_S:.0f} s:\n{self.log_tail()}")
            time.sleep(POLL_EVERY_S)
        return time.perf_counter() - self._began

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def ask_to_end(self) -> None:
        """Terminate it, once: a second signal has another meaning."""
        if not self._asked_to_end:
            self._asked_to_end = True
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def end(self) -> None:
        """Terminate, then kill, descendants too."""
        self.ask_to_end()
        with contextlib.suppress(ProcessLookupError), contextlib.suppress(subprocess.TimeoutExpired):
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
    """Exit through `finally` blocks on SIGINT, SIGTERM and SIGHUP, also where a shell started us ignoring SIGINT."""
    numbers = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])
    previous = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_module(module: str, *arguments: str, may_fail: bool = False) -> str:
    """Run `python -m MODULE …` and return its stdout; its stderr is ours."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0 and not (may_fail and output):
        raise BenchmarkError(f"python -m {module} {' '.join(arguments)} ended with {process.returncode}")
    return output


def print_progress(line: str) -> None:
    """Print to stderr: stdout is for the report."""
    print(line, file=sys.stderr, flush=True)


def request_status(url: str, request: bytes) -> int | None:
    """The status of the response to one request on a new connection; None if there is none."""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(http_messages.address(url), ANSWER_WITHIN_S) as connection,
    ):
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            if response := http_messages.parse(received):
                return response[0]
    return None


def free_port() -> int:
    """A free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
