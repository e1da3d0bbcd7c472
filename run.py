"""Set up astrodetect and serve, with nothing but Python: `python3 run.py`. Run all tests: `python3 run.py test`.

The first run creates a virtual environment in .venv, installs the pinned packages, simulates a sample of galaxies,
trains a model on it, starts the embedded PostgreSQL and serves. Completed steps are skipped. Ctrl-C stops everything.
"""

from __future__ import annotations  # so that an old Python gets as far as check_python

import argparse
import errno
import hashlib
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"  # of the requirements, written once all of them are installed
INSTALL_LOG = VENV / "install.log"
SAMPLE = ROOT / "data" / "sample"
TRAINING = ["--size", "64", "--crop", "0.7", "--epochs", "4", "--learning-rate", "2e-3", "--weights", "none"]
CHECKS = (  # what a change must pass besides its tests
    ["-m", "ruff", "check", "."],
    ["-m", "ruff", "format", "--check", "."],
    ["-m", "mypy"],
    ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
    ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(VENV / "docs")],
)
PAGE_TESTS = Path("tests", "browser")
FAULTS = "tests/faults"
SIDE_BY_SIDE = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", "--ignore", FAULTS)  # the slowest first
ONE_BY_ONE = (FAULTS,)  # they overload a service, and time what it answers
QUERY = "SELECT id, image_name, score, result, timestamp FROM predictions ORDER BY id DESC LIMIT 10"
READY_WITHIN_S = STOP_WITHIN_S = 60
PROGRESS_EVERY_S = 5.0
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
LARGEST_PORT = 65535
EXIT_INTERRUPTED = 130
STEPS = itertools.count(1)
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StepFailed(Exception):
    """A step failed; the message is one line with the reason."""


def main() -> int:
    """Run the job: exit code 0 done, 1 failed, 130 interrupted."""
    arguments = parse_arguments()
    os.chdir(ROOT)
    for number in STOP_SIGNALS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(number, interrupt)
    try:
        check_python()
        if arguments.job == "test":
            test(arguments.pytest)
        else:
            run_service(arguments.host, arguments.port)
    except StepFailed as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python3 run.py
  python3 run.py --port 8001
  python3 run.py test
  python3 run.py test tests/unit -k images
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python3 run.py

Needs Python 3.11 to 3.13. Your own images: README.md. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.""",
    )
    parser.add_argument("job", nargs="?", choices=("serve", "test"), default="serve", help="default: serve")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to serve on (default: 8000)")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.job != "test":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if not 0 < arguments.port <= LARGEST_PORT:
        parser.error(f"argument --port: from 1 to {LARGEST_PORT}, not {arguments.port}")
    arguments.pytest = rest
    return arguments


def run_service(host: str, port: int) -> None:
    """From a clone to a running service, until Ctrl-C."""
    check_port(host, port)
    install("requirements.txt")
    if (model := model_path()).with_suffix(".json").exists():
        print_step(f"model: {model} exists")
    else:
        print_step("sample: simulated elliptical (E) and barred spiral (SB) galaxies, in data/sample")
        call("-m", "astrodetect", "simulate", str(SAMPLE))
        print_step("training: ResNet50 on the sample, from scratch; a few minutes on two cores")
        call("train_model.py", "--train", str(SAMPLE / "train"), "--test", str(SAMPLE / "test"), *TRAINING)
    print_step("database: PostgreSQL with the table predictions")
    call("setup_db.py")
    print_step(f"service: http://{reachable(host)}:{port}")
    with child("-m", "uvicorn", "main:app", "--host", host, "--port", str(port)) as service:
        wait_until_ready(service, host, port)
        print_next_steps(host, port)
        try:
            wait_for(service)
        except KeyboardInterrupt:
            return
    raise StepFailed(f"the service ended with exit code {service.returncode}: see its messages above")


def test(pytest_arguments: Sequence[str]) -> None:
    """Every check and every test, or the tests that were named."""
    install("requirements.txt", "requirements-dev.txt")
    if not pytest_arguments:
        for check in CHECKS:
            call(*check)
    if needs_browser(pytest_arguments):
        print_step("browser: for the page tests")
        call(str(PAGE_TESTS / "chromium.py"))
    for tests in [pytest_arguments] if pytest_arguments else [SIDE_BY_SIDE, ONE_BY_ONE]:
        call("-m", "pytest", *tests)


def needs_browser(pytest_arguments: Sequence[str]) -> bool:
    """Whether the page tests are among the tests that were named."""
    paths = (Path(argument.partition("::")[0]) for argument in pytest_arguments)
    named = [(ROOT / path).resolve() for path in paths if (ROOT / path).exists()]
    pages = ROOT / PAGE_TESTS
    return not named or any(pages.is_relative_to(path) or path.is_relative_to(pages) for path in named)


def check_python() -> None:
    """Fail on Python versions that the packages have no wheels for."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        version = ".".join(map(str, sys.version_info[:2]))
        raise StepFailed(f"this is Python {version}, and 3.11, 3.12 or 3.13 is needed: try python3.12 run.py")


def check_port(host: str, port: int) -> None:
    """Fail before the training if the port cannot be bound."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if not WINDOWS:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = f": try --port {port + 1 if port < LARGEST_PORT else port - 1}" if taken else ""
        raise StepFailed(f"cannot serve on {host}, port {port} ({error.strerror}){advice}") from error


def install(*requirements: str) -> None:
    """Install the pinned packages in .venv, unless exactly these are installed."""
    hashes = [hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in requirements]
    installed = STAMP.read_text().split() if STAMP.exists() else []
    if set(hashes) <= set(installed) and PYTHON.exists():
        print_step("packages: installed in .venv")
        return
    print_step("packages: installing into .venv, about 2.5 GB on disk; a minute or more")
    STAMP.unlink(missing_ok=True)
    if not venv_works():
        result = capture(sys.executable, "-m", "venv", "--clear", str(VENV))
        if result.returncode or not venv_works():
            raise StepFailed(venv_error(result.stdout + result.stderr))
    pip_install(requirements)
    STAMP.write_text("\n".join(hashes) + "\n")


def venv_works() -> bool:
    """Whether .venv is complete and of this Python version."""
    try:
        result = capture(str(PYTHON), "-c", "import pip, sys; print(*sys.version_info[:2])")
    except OSError:
        return False
    return result.stdout.split() == [str(number) for number in sys.version_info[:2]]


def venv_error(output: str) -> str:
    """One line with the reason why venv failed."""
    if "ensurepip" in output or "No module named venv" in output:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Python's venv module is missing: on Debian or Ubuntu, apt install python{version}-venv, then retry"
    return f"cannot create the virtual environment .venv: {last_line(output)}"


def pip_install(requirements: Sequence[str]) -> None:
    """Run pip, printing its progress; its output goes to .venv/install.log."""
    total = sum(line[:1].isalnum() for name in requirements for line in (ROOT / name).read_text().splitlines())
    files = [f"-r{name}" for name in requirements]
    started = time.monotonic()
    with child(
        "-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check", *files, piped=True
    ) as pip:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(pip.stdout or ()), daemon=True)
        reader.start()
        while reader.is_alive():
            print(f"  {pip_progress(lines, total)}, {time.monotonic() - started:.0f} s", flush=True)
            reader.join(PROGRESS_EVERY_S)
        wait_for(pip)
    INSTALL_LOG.write_text("".join(lines), encoding="utf-8")
    if pip.returncode:
        error = next((line for line in lines if line.startswith("ERROR: ")), last_line("".join(lines)))
        raise StepFailed(f"pip failed: {error.removeprefix('ERROR: ').strip()} (see {INSTALL_LOG})")
    print(f"  installed, {time.monotonic() - started:.0f} s", flush=True)


def pip_progress(lines: Sequence[str], total: int) -> str:
    """One line on how far pip is, from its output so far."""
    if any(line.startswith("Installing collected packages") for line in lines[-3:]):
        return "unpacking"
    collected = sum(line.startswith("Collecting ") for line in list(lines))
    files = [line.split()[1].rpartition("/")[2] for line in list(lines) if line.startswith("  Downloading ")]
    return f"{collected} of at most {total} packages, downloading {files[-1] if files else 'package lists'}"


def model_path() -> Path:
    """The path of the model by the settings (environment and `.env`)."""
    code = "from astrodetect.settings import settings as s; print(s().models_dir / f'{s().model}.h5')"
    result = capture(str(PYTHON), "-c", code)
    if result.returncode:
        raise StepFailed(last_line(result.stderr))
    return Path(result.stdout.strip())


def wait_until_ready(service: subprocess.Popen[str], host: str, port: int) -> None:
    """Poll the service until it is ready."""
    deadline = time.monotonic() + READY_WITHIN_S
    reason = "no response"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # bypasses proxies of the environment
    while time.monotonic() < deadline and service.poll() is None:
        try:
            with direct.open(f"http://{reachable(host)}:{port}/health/ready", timeout=5):
                return
        except OSError as error:
            reason = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else reason
        time.sleep(0.1)
    if service.poll() is not None:
        raise StepFailed(f"the service did not start, exit code {service.returncode}: see its messages above")
    raise StepFailed(f"the service is not ready after {READY_WITHIN_S} s: {reason}")


def print_next_steps(host: str, port: int) -> None:
    """Print commands to paste into another terminal."""
    url = f"http://{reachable(host)}:{port}"
    image = next(iter(sorted((SAMPLE / "test" / "E").glob("*.jpg"))), Path("your-image.jpg"))
    field = f'"file=@{image}"' if WINDOWS else shlex.quote(f"file=@{image}")
    psql = capture(str(PYTHON), "-m", "astrodetect", "psql", "--show").stdout.strip()
    message = f"""
Ready. In a browser: {url}
In another terminal:
  classify an image:     curl -F {field} {url}/detect
  list the predictions:  {psql} -c "{QUERY}"
Your own images: python3 run.py --help and README.md. Ctrl-C stops the service and the database.
"""
    print(message, flush=True)


def reachable(host: str) -> str:
    """The host for URLs to a service that listens on `host`."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{local}]" if ":" in local else local


def capture(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a short command and capture its output."""
    return subprocess.run(command, check=False, capture_output=True, text=True)


def call(*arguments: str) -> None:
    """Run Python from .venv with its output on the terminal; raise if it fails."""
    with child(*arguments) as process:
        wait_for(process)
    if process.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        raise StepFailed(f"failed: python {shlex.join(arguments)} (exit code {process.returncode}, see above)")


def wait_for(process: subprocess.Popen[str]) -> None:
    """Wait by polling: on Windows Ctrl-C does not interrupt a plain wait."""
    while process.poll() is None:
        time.sleep(0.1)


@contextmanager
def child(*arguments: str, piped: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A Python process from .venv, terminated on exit; in its own group, so that Ctrl-C reaches it only through us."""
    process = subprocess.Popen(
        [str(PYTHON), *arguments],
        stdout=subprocess.PIPE if piped else None,
        stderr=subprocess.STDOUT if piped else None,
        encoding="utf-8",
        errors="replace",
        start_new_session=not WINDOWS,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def interrupt(*_: object) -> None:
    """Signal handler: ignore further signals and unwind."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def print_step(line: str) -> None:
    """Print the title of a step, numbered."""
    print(f"[{next(STEPS)}] {line}", flush=True)


def last_line(text: str) -> str:
    """The last line of a program's output that is not empty."""
    return ([line for line in text.splitlines() if line.strip()] or ["no output"])[-1]


if __name__ == "__main__":
    sys.exit(main())
