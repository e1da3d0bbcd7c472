"""Set up astrodetect and serve, with nothing but Python: `python3 run.py`. Run all tests: `python3 run.py test`.

The first run creates a virtual environment in .venv, installs the pinned packages, starts the embedded PostgreSQL and
serves; meanwhile it simulates galaxies and trains a model on them. Completed steps are skipped. Ctrl-C stops all.
"""

from __future__ import annotations  # so that an old Python can look for a newer one

import argparse
import ctypes
import errno
import hashlib
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"  # of the requirements, written once all of them are installed
INSTALL_LOG = VENV / "install.log"
SAMPLE = ROOT / "data" / "sample"
IMAGES = ["--train", str(SAMPLE / "train"), "--test", str(SAMPLE / "test")]
TRAINING = [*IMAGES, "--size", "64", "--crop", "0.3", "--weights", "packaged", "--no-augment"]
PYTHONS = (  # below the home folder or the root: where installers put a Python, besides PATH
    "opt/homebrew/bin/python3.%d",
    "Library/Frameworks/Python.framework/Versions/3.%d/bin/python3",
    ".local/share/uv/python/cpython-3.%d.*/bin/python3",
    ".pyenv/versions/3.%d.*/bin/python3",
    "AppData/Local/Programs/Python/Python3%d/python.exe",
)
INSTALL_PYTHON = "apt install python3.13-venv, brew install python@3.13, uv python install 3.13, or python.org"
SERVICE_ENDED = "the service ended with exit code {}: see its messages above"
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
        if not OLDEST <= sys.version_info[:2] <= NEWEST:
            return rerun_with_supported_python()
        if arguments.job == "test":
            return test(arguments.pytest)
        run_service(arguments.host, arguments.port)
    except StepFailed as failure:
        print(f"run.py: {failure}", file=sys.stderr)
        return 1
    except OSError as error:  # .venv or a file beside it that another user owns, a full disk, `| head`
        print(f"run.py: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would write to it once more
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
    model, local = model_path(), {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound
    url = f"http://{f'[{local}]' if ':' in local else local}:{port}"
    print_step("database: PostgreSQL with the table predictions")
    call("setup_db.py")
    print_step(f"service: {url}")
    uvicorn = ("-m", "uvicorn", "main:app", "--host", host, "--port", str(port))
    with child(*uvicorn, stop=signal.SIGTERM) as service:  # at SIGINT it prints a traceback while it imports
        wait_until_answers(service, f"{url}/health/live")
        if model.with_suffix(".json").exists() or train_on_sample(model.stem, service, url):
            wait_until_answers(service, f"{url}/health/ready")
            print(next_steps(url, model.stem), flush=True)
        with suppress(KeyboardInterrupt):
            wait_for(service)
            raise StepFailed(SERVICE_ENDED.format(service.returncode))


def train_on_sample(model: str, service: subprocess.Popen[str], url: str) -> bool:
    """Simulate the sample and train on it, while the service shows the progress; False if its page stopped that."""
    print_step(f"sample: simulated elliptical (E) and barred spiral (SB) galaxies; progress: {url}")
    trained = call("-m", "astrodetect", "simulate", str(SAMPLE), "--model", model, service=service)
    if trained:
        print_step(f"training: ResNet50 on the sample, from packaged weights; a minute on two cores; progress: {url}")
        trained = call("train_model.py", *TRAINING, service=service)
    if not trained:
        print(f"stopped: resume it at {url} or by the same command; Ctrl-C stops the service", flush=True)
    return trained


def test(pytest_arguments: Sequence[str]) -> int:
    """Every test, or the tests that were named."""
    install("requirements.txt", "requirements-dev.txt")
    with child("tests/suite.py", *pytest_arguments) as suite:
        wait_for(suite)
    return suite.returncode


def rerun_with_supported_python() -> int:
    """Run this program with the newest supported Python on PATH or where installers put it."""
    version = "{}.{}".format(*sys.version_info)
    home = Path.home()
    for minor in reversed(range(OLDEST[1], NEWEST[1] + 1)):
        places = [path for place in PYTHONS for root in (home, Path(home.anchor)) for path in root.glob(place % minor)]
        for python in filter(None, [shutil.which(f"python3.{minor}"), *map(str, places)]):
            if python_version(python) == (3, minor):
                print(f"run.py: Python {version} is not supported, continuing with {python}", flush=True)
                command = [python, str(ROOT / "run.py"), *sys.argv[1:]]
                if not WINDOWS:
                    os.execv(python, command)  # noqa: S606
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both
                return subprocess.run(command, check=False).returncode
    raise StepFailed(f"this is Python {version}, and no Python 3.11, 3.12 or 3.13 was found: {INSTALL_PYTHON}")


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
    if python_version(str(PYTHON), "pip") != sys.version_info[:2]:
        result = capture(sys.executable, "-m", "venv", "--clear", str(VENV))
        if result.returncode or not python_version(str(PYTHON), "pip"):
            raise StepFailed(venv_error(result.stdout + result.stderr))
    pip_install(requirements)
    STAMP.write_text("\n".join(hashes) + "\n")


def python_version(python: str, module: str = "sys") -> tuple[int, ...]:
    """The version of this Python; empty if it does not run or lacks the module."""
    code = f"import {module}, sys; print(*sys.version_info[:2])"
    try:
        return tuple(map(int, capture(python, "-c", code).stdout.split()))
    except (OSError, ValueError):
        return ()


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
    pip_options = ("install", "--progress-bar", "off", "--disable-pip-version-check")
    with child("-m", "pip", *pip_options, *files, piped=True) as pip:
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


def wait_until_answers(service: subprocess.Popen[str], url: str) -> None:
    """Poll the service until this address answers with a success."""
    deadline = time.monotonic() + READY_WITHIN_S
    reason = "no response"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # bypasses proxies of the environment
    while service.poll() is None and time.monotonic() < deadline:
        try:
            with direct.open(url, timeout=5):
                return
        except OSError as error:
            reason = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else reason
        time.sleep(0.1)
    if service.poll() is None:
        raise StepFailed(f"the service is not ready after {READY_WITHIN_S} s: {reason}")
    raise StepFailed(SERVICE_ENDED.format(service.returncode))


def next_steps(url: str, model: str) -> str:
    """What the model is, and commands to paste into another terminal."""
    image = next(iter(sorted((SAMPLE / "test" / "E").glob("*.jpg"))), Path("your-image.jpg"))
    field = f'"file=@{image}"' if WINDOWS else shlex.quote(f"file=@{image}")
    commands = (("psql", "--show"), ("models", "list", model))
    psql, about = (capture(str(PYTHON), "-m", "astrodetect", *command).stdout.strip() for command in commands)
    return f"""
Ready. In a browser: {url}
The model: {about}
In another terminal:
  classify an image:     curl -F {field} {url}/detect
  list the predictions:  {psql} -c "{QUERY}"
Your own images: python3 run.py --help and README.md. Ctrl-C stops the service and the database.
"""


def capture(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a short command and capture its output."""
    return subprocess.run(command, check=False, capture_output=True, text=True)


def call(*arguments: str, service: subprocess.Popen[str] | None = None) -> bool:
    """Run Python from .venv with its output on the terminal; False if the page of `service` stopped it."""
    with child(*arguments) as process:
        wait_for(process, service or process)
    if service and service.returncode is not None:
        raise StepFailed(SERVICE_ENDED.format(service.returncode))
    if process.returncode == EXIT_INTERRUPTED and not service:
        raise KeyboardInterrupt
    if process.returncode not in {0, EXIT_INTERRUPTED}:
        raise StepFailed(f"failed: python {shlex.join(arguments)} (exit code {process.returncode}, see above)")
    return process.returncode == 0


def wait_for(*processes: subprocess.Popen[str]) -> None:
    """Wait until one of them ends, by polling: on Windows Ctrl-C does not interrupt a plain wait."""
    while all(process.poll() is None for process in processes):
        time.sleep(0.1)


@contextmanager
def child(*arguments: str, piped: bool = False, stop: int = signal.SIGINT) -> Iterator[subprocess.Popen[str]]:
    """A Python process from .venv, ended by `stop` on exit; in its own group: Ctrl-C reaches it only through us."""
    process = subprocess.Popen(
        [str(PYTHON), *arguments],
        preexec_fn=end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no thread runs then
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
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", stop))
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_parent() -> None:
    """In a child on Linux: SIGINT where this program is killed, or it would keep the port or write .venv beside us."""
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


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
