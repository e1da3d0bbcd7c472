"""Sets everything up and runs it, with nothing but Python: `python3 run.py`; `python3 run.py test` runs every test.

The first run makes a virtual environment in .venv, installs the pinned packages, makes a sample of simulated galaxies,
trains on it, starts the embedded PostgreSQL and serves. What is already done is skipped. Ctrl-C stops all of it.
"""

from __future__ import annotations  # so that an old Python can read as far as check_python

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
from types import FrameType

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"  # of the requirements, written when all of them were in
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
READY_WITHIN_S = 60
STOP_WITHIN_S = 60
SPEAK_EVERY_S = 5.0
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
LARGEST_PORT = 65535
STOPPED = 130
STEPS = itertools.count(1)


class Failed(Exception):
    """A step could not be done; the message is the one line that says why."""


class Stopped(Exception):
    """Ctrl-C, or whoever runs us asked us to end."""


def main() -> int:
    """Runs the job that was asked for: 0 done, 1 could not, 130 stopped before it was done."""
    arguments = parse()
    os.chdir(ROOT)
    for number in stop_signals():
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP, and means it
            signal.signal(number, stop)
    try:
        check_python()
        if arguments.job == "test":
            test(arguments.pytest)
        else:
            serve(arguments.host, arguments.port)
    except Failed as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 1
    except Stopped:
        print("stopped: the same command goes on where this one was", file=sys.stderr)
        return STOPPED
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python3 run.py
  python3 run.py --port 8001
  python3 run.py test
  python3 run.py test tests/unit -k images
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python3 run.py

Python 3.11 to 3.13. Your own images: README.md. Exit codes: 0 done, 1 could not, 2 wrong usage, 130 stopped.""",
    )
    parser.add_argument("job", nargs="?", choices=("serve", "test"), default="serve", help="default: serve")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)")
    parser.add_argument("--port", type=port_number, default=8000, help="port to serve on (default: 8000)")
    arguments, rest = parser.parse_known_args()
    if rest and arguments.job != "test":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.pytest = rest
    return arguments


def port_number(text: str) -> int:
    """A parser of ports."""
    if not 0 < int(text) <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"from 1 to {LARGEST_PORT}, not {text}")
    return int(text)


def serve(host: str, port: int) -> None:
    """The main job: from a clone to a running service, until Ctrl-C."""
    check_port(host, port)
    install("requirements.txt")
    model = model_path()
    if model.with_suffix(".json").exists():
        say(f"model: {model} is there")
    else:
        say("sample: simulated galaxies, ellipticals (E) and barred spirals (SB), in data/sample")
        call("-m", "astrodetect", "simulate", str(SAMPLE))
        say("training ResNet50 on the sample from scratch: a few minutes on two cores")
        call("train_model.py", "--train", str(SAMPLE / "train"), "--test", str(SAMPLE / "test"), *TRAINING)
    say("database: PostgreSQL and the table predictions")
    call("setup_db.py")
    say(f"service: http://{reachable(host)}:{port}")
    with child("-m", "uvicorn", "main:app", "--host", host, "--port", str(port)) as service:
        wait_until_ready(service, host, port)
        say_what_next(host, port)
        try:
            finish(service)
        except Stopped:
            return
    raise Failed(f"the service ended by itself, exit code {service.returncode}: its messages above say why")


def test(pytest_arguments: Sequence[str]) -> None:
    """Every check and every test, or the tests that were named."""
    install("requirements.txt", "requirements-dev.txt")
    if not pytest_arguments:
        for check in CHECKS:
            call(*check)
    if needs_browser(pytest_arguments):
        say("browser: for the page tests")
        call(str(PAGE_TESTS / "chromium.py"))
    for tests in [pytest_arguments] if pytest_arguments else [SIDE_BY_SIDE, ONE_BY_ONE]:
        call("-m", "pytest", *tests)


def needs_browser(pytest_arguments: Sequence[str]) -> bool:
    """Whether the tests of the pages are among those that were named."""
    paths = (Path(argument.partition("::")[0]) for argument in pytest_arguments)
    named = [(ROOT / path).resolve() for path in paths if (ROOT / path).exists()]
    pages = ROOT / PAGE_TESTS
    return not named or any(pages.is_relative_to(path) or path.is_relative_to(pages) for path in named)


def check_python() -> None:
    """The packages have wheels for these versions only."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        here = ".".join(map(str, sys.version_info[:2]))
        raise Failed(f"this is Python {here}, and 3.11, 3.12 or 3.13 is needed: try python3.12 run.py")


def check_port(host: str, port: int) -> None:
    """Better told now than after the training."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if not WINDOWS:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = f": try --port {port + 1 if port < LARGEST_PORT else port - 1}" if taken else ""
        raise Failed(f"cannot serve on {host}, port {port} ({error.strerror}){advice}") from error


def install(*requirements: str) -> None:
    """The pinned packages in .venv, unless exactly these are there."""
    wanted = "\n".join(hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in requirements)
    installed = STAMP.read_text().split() if STAMP.exists() else []
    if set(wanted.split()) <= set(installed) and PYTHON.exists():
        say("packages: installed in .venv")
        return
    say("packages: into .venv, about 2.5 GB on disk, a minute or more")
    STAMP.unlink(missing_ok=True)
    if not venv_works():
        made = ask(sys.executable, "-m", "venv", "--clear", str(VENV))
        if made.returncode or not venv_works():
            raise Failed(no_venv(made.stdout + made.stderr))
    pip_install(requirements)
    STAMP.write_text(wanted + "\n")


def venv_works() -> bool:
    """Whether .venv is there, whole, and of this Python."""
    if not PYTHON.exists():
        return False
    try:
        answer = ask(str(PYTHON), "-c", "import pip, sys; print(*sys.version_info[:2])")
    except OSError:
        return False
    return answer.stdout.split() == [str(number) for number in sys.version_info[:2]]


def no_venv(said: str) -> str:
    """Why no virtual environment could be made, in one line."""
    if "ensurepip" in said or "No module named venv" in said:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Python's venv module is missing: on Debian or Ubuntu, apt install python{version}-venv, then again"
    return f"no virtual environment could be made in .venv: {last_line(said)}"


def pip_install(requirements: Sequence[str]) -> None:
    """Runs pip, saying how many packages are in hand; its own words go to .venv/install.log."""
    total = sum(line[:1].isalnum() for name in requirements for line in (ROOT / name).read_text().splitlines())
    command = ["-m", "pip", "install", "--progress-bar", "off", "--disable-pip-version-check"]
    for name in requirements:
        command += ["-r", name]
    started = time.monotonic()
    with child(*command, piped=True) as pip:
        seen: list[str] = []
        reader = threading.Thread(target=lambda: seen.extend(pip.stdout or ()), daemon=True)
        reader.start()
        reader.join(SPEAK_EVERY_S)
        while reader.is_alive():
            print(f"  {pip_progress(seen, total)}, {time.monotonic() - started:.0f} s", flush=True)
            reader.join(SPEAK_EVERY_S)
        finish(pip)
    INSTALL_LOG.write_text("".join(seen), encoding="utf-8")
    if pip.returncode:
        error = next((line for line in seen if line.startswith("ERROR: ")), last_line("".join(seen)))
        raise Failed(
            f"the packages could not be installed: {error.removeprefix('ERROR: ').strip()} (see {INSTALL_LOG})"
        )
    print(f"  installed, {time.monotonic() - started:.0f} s", flush=True)


def model_path() -> Path:
    """Where the settings, from the environment and `.env`, say that the model is."""
    code = "from astrodetect.settings import settings as s; print(s().models_dir / f'{s().model}.h5')"
    answer = ask(str(PYTHON), "-c", code)
    if answer.returncode:
        raise Failed(last_line(answer.stderr))
    return Path(answer.stdout.strip())


def pip_progress(lines: Sequence[str], total: int) -> str:
    """How far pip is, by what it said so far."""
    if any(line.startswith("Installing collected packages") for line in lines[-3:]):
        return "unpacking what was fetched"
    found = [line.split()[1] for line in list(lines) if line.startswith("Collecting ")]
    files = [line.split()[1].rpartition("/")[2] for line in list(lines) if line.startswith("  Downloading ")]
    return f"{len(found)} of at most {total} packages found, fetching {files[-1] if files else 'their lists'}"


def wait_until_ready(service: subprocess.Popen[str], host: str, port: int) -> None:
    """Asks the service until it would answer a prediction."""
    give_up = time.monotonic() + READY_WITHIN_S
    answer = "it does not answer"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the environment names
    while time.monotonic() < give_up and service.poll() is None:
        try:
            with direct.open(f"http://{reachable(host)}:{port}/health/ready", timeout=5):
                return
        except urllib.error.HTTPError as error:
            answer = error.read().decode(errors="replace")
        except OSError:
            pass
        time.sleep(0.1)
    if service.poll() is not None:
        raise Failed(f"the service did not start, exit code {service.returncode}: its messages above say why")
    raise Failed(f"the service is not ready after {READY_WITHIN_S} s: {answer}")


def say_what_next(host: str, port: int) -> None:
    """What to paste into another terminal."""
    address = f"http://{reachable(host)}:{port}"
    image = next(iter(sorted((SAMPLE / "test" / "E").glob("*.jpg"))), Path("your-image.jpg"))
    shown = ask(str(PYTHON), "-m", "astrodetect", "psql", "--show")
    print(
        f"""
Ready. In a browser: {address}
In another terminal:
  an image in, a verdict out:  curl -F {quoted(f"file=@{image}")} {address}/detect
  the log of predictions:      {shown.stdout.strip()} -c "{QUERY}"
Your own images: python3 run.py --help and README.md. Ctrl-C stops the service and the database.
""",
        flush=True,
    )


def reachable(host: str) -> str:
    """Where a service that listens on `host` is found from here."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{local}]" if ":" in local else local


def quoted(text: str) -> str:
    """For the user's shell."""
    return f'"{text}"' if WINDOWS else shlex.quote(text)


def ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a short command for its answer."""
    return subprocess.run(command, check=False, capture_output=True, text=True)


def call(*arguments: str) -> None:
    """Runs Python from .venv with these arguments until it ends well; what it says goes to the terminal."""
    with child(*arguments) as process:
        finish(process)
    if process.returncode == STOPPED:
        raise Stopped
    if process.returncode:
        raise Failed(f"failed: python {shlex.join(arguments)} (exit code {process.returncode}, its messages are above)")


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for its end, awake: on Windows a plain wait would not hear Ctrl-C."""
    while process.poll() is None:
        time.sleep(0.1)


@contextmanager
def child(*arguments: str, piped: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A Python process from .venv in a group of its own, so that Ctrl-C reaches it once, through us; ended with us."""
    process = subprocess.Popen(
        [str(PYTHON), *arguments],
        stdout=subprocess.PIPE if piped else None,
        stderr=subprocess.STDOUT if piped else None,
        text=True,
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


def stop(_number: int, _frame: FrameType | None) -> None:
    """Asked to stop: once is enough, what is under way ends in order."""
    for number in stop_signals():
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


def stop_signals() -> list[int]:
    """Ctrl-C, a kind kill, and a terminal that closes, where the platform has them."""
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def say(line: str) -> None:
    """One step, said as it begins."""
    print(f"[{next(STEPS)}] {line}", flush=True)


def last_line(text: str) -> str:
    """What a program said last."""
    return ([line for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main())
