"""Trainings started on the page: train_model.py, or the command `teach`, as a process of its own.

One runs at a time, and ends with the service.
"""

import ipaddress
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from astrodetect import atomic_files
from astrodetect.datasets import class_folders
from astrodetect.datasets.dataset import MIN_IMAGES_PER_CLASS
from astrodetect.errors import DataError, ModelError, TrainingConflict, TrainingNotAllowed
from astrodetect.extras import require_extra
from astrodetect.model_store import store, training_progress
from astrodetect.model_store.training_progress import TrainingProgress
from astrodetect.service.authentication import ApiKeys, identity_of
from astrodetect.settings import PACKAGE, PROGRAMS
from astrodetect.storage.references import is_url

PROGRAM, TEACH = PROGRAMS / "train_model.py", "teach"
STOP_WITHIN_S = 20.0  # then its process is killed, and resumes from its last checkpoint
STARTING = ".starting"  # no model's name: the lock while a training is started
EXIT_INTERRUPTED = 130
FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "via")


class TrainingJobs:
    """Starts, stops and lists the trainings whose models go to `folder`, those of other programs included."""

    def __init__(self, folder: Path, api_keys: ApiKeys, *, enabled: bool) -> None:
        self._folder, self._api_keys, self._enabled = folder, api_keys, enabled
        self._processes: dict[str, subprocess.Popen[bytes]] = {}  # those that this service started
        self._waiting: list[threading.Thread] = []

    def all(self) -> list[TrainingProgress]:
        """Every training that runs, or ended without a model, the newest first."""
        return training_progress.list_trainings(self._folder)

    def refusal(self, connection: HTTPConnection) -> str:
        """Why this client may not start and stop trainings; empty if it may.

        A training reads any folder that the service can read: this takes a key, or without keys the machine itself.
        """
        if not self._enabled:
            return "trainings are not started on this page (ASTRODETECT_TRAIN_ON_PAGE is off, or models must be signed)"
        if self._api_keys:
            identity = identity_of(connection.scope)
            allowed = identity is not None and "operate" in identity.scopes
            return "" if allowed else "starting and stopping trainings needs a key that may operate"
        if _is_local(connection):
            return ""
        return "trainings are started in a browser on the machine of the service, or with a key (ASTRODETECT_API_KEY)"

    def require_allowed(self, connection: HTTPConnection) -> None:
        """Raises TrainingNotAllowed where there is a refusal."""
        if refusal := self.refusal(connection):
            raise TrainingNotAllowed(refusal)

    def start(
        self,
        name: str,
        recipe: str,
        command: Sequence[str],
        folder: Path,
        *,
        labels: Iterable[str] = (),
        again: bool = False,
    ) -> None:
        """Starts train_model.py, or `teach` if that comes first, with these arguments in this working directory.

        The parts of `labels` are written to the file of its labels: another training that runs keeps its own. `again`:
        TrainingConflict if it was discarded meanwhile.
        """
        require_extra("train", "training")
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with store.exclusive_lock(self._folder, STARTING):
                for training in self.all():
                    if training.state == "running":
                        raise TrainingConflict(f"the training of {training.name} runs: wait for it, or cancel it")
                if again:
                    self._find(name)
                training_progress.remove_progress(self._folder, name)
                if text := "".join(labels):
                    atomic_files.write_text(training_progress.labels_path(self._folder, name), text)
                progress = TrainingProgress(
                    name, time.time(), recipe=recipe, command=tuple(command), folder=str(folder)
                )
                self._run(progress)
        except ModelError as error:
            raise TrainingConflict("another training is just being started") from error
        except OSError as error:
            raise DataError(f"the training cannot be started: {error.strerror}") from error

    def cancel(self, name: str) -> None:
        """Asks a running training to stop, also one started elsewhere; it keeps what it has learnt so far."""
        if self._find(name).state != "running":
            raise TrainingConflict(f"no training of {name} runs")
        training_progress.request_stop(self._folder, name)

    def resume(self, name: str) -> None:
        """Starts a training again that ended without a model; it continues from its last checkpoint."""
        training = self._find(name)
        if training.state == "running" or not training.command:
            raise TrainingConflict(f"the training of {name} cannot be resumed here")
        self.start(name, training.recipe, training.command, Path(training.folder), again=True)

    def discard(self, name: str) -> None:
        """Forgets a training that ended without a model, with its checkpoints."""
        try:
            with store.exclusive_lock(self._folder, STARTING):
                if self._find(name).state == "running":
                    raise TrainingConflict(f"the training of {name} runs: cancel it first")
                with store.exclusive_lock(self._folder, name):
                    training_progress.remove_progress(self._folder, name, checkpoints=True)
                    training_progress.log_path(self._folder, name).unlink(missing_ok=True)
                    with store.staging(self._folder, name):
                        pass  # which removes the files of a model that it was killed while writing
        except ModelError as error:  # perhaps suspended, so that it is taken for lost
            raise TrainingConflict(f"the process of the training of {name} has not ended: try again") from error

    def close(self) -> None:
        """Stops the trainings that this service started; they can be resumed."""
        for name in list(self._processes):
            training_progress.request_stop(self._folder, name)
        deadline = time.monotonic() + STOP_WITHIN_S
        for process in list(self._processes.values()):
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        for thread in self._waiting:
            thread.join()

    def _find(self, name: str) -> TrainingProgress:
        training = training_progress.read_progress(self._folder, name)
        if training is None:
            raise TrainingConflict(f"no training of {name} is going on")
        return training

    def _run(self, progress: TrainingProgress) -> None:
        training_progress.write_progress(self._folder, progress)
        try:
            with training_progress.log_path(self._folder, progress.name).open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, *_program(progress.command), *progress.command],
                    cwd=progress.folder,
                    env=os.environ | {"ASTRODETECT_MODELS_DIR": str(self._folder.absolute()), **_python_path()},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the service's terminal reaches it through `close` alone
                )
        except OSError:
            training_progress.remove_progress(self._folder, progress.name)
            raise
        self._processes[progress.name] = process
        thread = threading.Thread(target=self._wait, args=(progress, process), name="training", daemon=True)
        self._waiting = [*(waiting for waiting in self._waiting if waiting.is_alive()), thread]
        thread.start()

    def _wait(self, progress: TrainingProgress, process: "subprocess.Popen[bytes]") -> None:
        """Waits for the process, and says how it ended where it could not do so itself."""
        code, name = process.wait(), progress.name
        if self._processes.get(name) is not process:  # resumed already: it stopped before it ended
            return
        log = training_progress.log_path(self._folder, name)
        training = training_progress.read_progress(self._folder, name)
        if code not in {0, EXIT_INTERRUPTED} and (training is None or training.state in {"running", "lost"}):
            error = f"its process was killed by signal {-code}" if code < 0 else _last_line(log)
            training_progress.end_progress(self._folder, training or progress, error)
        if code == 0:
            with suppress(ModelError), store.exclusive_lock(self._folder, STARTING):  # else they are another's already
                if training_progress.read_progress(self._folder, name) is None:
                    log.unlink(missing_ok=True)
                    training_progress.labels_path(self._folder, name).unlink(missing_ok=True)
        if self._processes.get(name) is process:
            del self._processes[name]


def _program(command: Sequence[str]) -> list[str]:
    return ["-m", "astrodetect"] if command[:1] == (TEACH,) else [str(PROGRAM)]


def _python_path() -> dict[str, str]:
    """So that the package is found from any working directory."""
    return {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])}


def check_images(path: Path, positive: str, negative: str) -> None:
    """DataError unless these labelled images can be trained on: all classes, or the two that are named."""
    try:
        items = class_folders.list_dataset(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if any(is_url(str(item.path)) for item in items):
        raise DataError(f"{path} names URLs, which a training from the page does not read: start it from the terminal")
    counts, parts = Counter(item.label for item in items), {item.part for item in items} - {""}
    classes = ", ".join(sorted(counts))
    if parts and not {"train", "test"} <= parts:
        raise DataError(f"{path} has the part {', '.join(sorted(parts))} alone: it needs train and test, or no parts")
    if len(counts) < 2:
        raise DataError(f"{path} has one class, {classes}: put the images into a folder for each class")
    if bool(positive) != bool(negative) or (positive and positive == negative):
        raise DataError(f"name both the anomaly and its opposite, or neither; the classes are {classes}")
    for name in (positive, negative) if positive else sorted(counts):
        if name not in counts:
            raise DataError(f"{path} has no class {name}: its classes are {classes}")
        if counts[name] < MIN_IMAGES_PER_CLASS:
            raise DataError(f"the class {name} has {counts[name]} images: at least {MIN_IMAGES_PER_CLASS} are needed")


def _is_local(connection: HTTPConnection) -> bool:
    """Whether a program on this machine asks, under a local name: another name may be an attacker's.

    What comes through a proxy on this machine may come from anywhere.
    """
    if any(name in connection.headers for name in FORWARDING_HEADERS):
        return False
    host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    return _is_loopback(connection.client.host if connection.client else "") and (
        host == "localhost" or _is_loopback(host)
    )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False


def _last_line(log: Path) -> str:
    """The last line of a program's output, without the program's name."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return last.removeprefix("train_model: ").removeprefix("astrodetect: ")
