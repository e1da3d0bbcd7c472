"""The progress of a training, in a file beside its checkpoints that every process can read, and requests to stop it.

The training process writes the file every second. A file that is older than `LOST_AFTER_S` is what a process left that
was killed, or is on a machine that was switched off; process ids would mean nothing in another container.
"""

import contextlib
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from astrodetect import atomic_files
from astrodetect.errors import AstrodetectError
from astrodetect.progress import BarState, observing

WRITE_EVERY_S = 1.0
LOST_AFTER_S = 15.0
STARTING_S = 30.0  # a stop request further than this from the start of the process is of an earlier training
MAX_STEPS, MAX_MESSAGES = 20, 4  # the latest, of those that are kept
EPOCH = "epoch"  # what the title of an epoch's progress bar starts with; its metrics are kept instead
PROGRESS, STOP, LOG, LABELS = (
    ".progress",
    ".stop",
    ".log",
    ".labels.csv",
)  # suffixes of the hidden files .NAME.progress…
CHECKPOINTS = ".training"  # suffix of the hidden folder

TrainingState = Literal["running", "stopped", "failed", "lost"]  # a file never says lost


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step of a training that is done."""

    title: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far the training of a model is, or how it ended without a model."""

    name: str
    started: float  # seconds since 1970
    state: TrainingState = "running"
    updated: float = 0.0  # seconds since 1970
    recipe: str = ""  # empty while its images are simulated
    title: str = "starting"  # of the present step
    done: int = 0
    total: int = 0
    note: str = ""
    left_s: float | None = None
    steps: tuple[FinishedStep, ...] = ()
    messages: tuple[str, ...] = ()
    epochs: tuple[dict[str, float], ...] = ()  # the metrics of each
    error: str = ""
    command: tuple[str, ...] = ()  # the arguments of train_model.py or of the package, to resume it
    folder: str = ""  # the working directory that they refer to

    @property
    def summary(self) -> str:
        """The present step in a few words, such as "epoch 2/4, about 40 s left"."""
        count = "" if self.title.startswith(EPOCH) or not self.total else f" {self.done} of {self.total}"
        left = f", about {self.left_s:.0f} s left" if self.left_s and self.left_s >= 1 else ""
        return f"{self.title}{count}{left}"

    @property
    def ending(self) -> str:
        """How a training ended that does not run, such as "was stopped"."""
        endings = {"stopped": "was stopped", "failed": "failed"}
        return endings.get(
            self.state, "ended unexpectedly: its process was killed, its machine switched off, or the disk is full"
        )


class ProgressReporter:
    """Collects the progress of this process, and writes it every second from a thread of its own."""

    def __init__(self, folder: Path, progress: TrainingProgress) -> None:
        self._folder, self._progress = folder, progress
        self._step_started, self._due, self._ended = time.monotonic(), threading.Event(), False
        self._stop = _path(folder, progress.name, STOP)
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def observe(self, event: BarState | str) -> None:
        """Takes over the state of a progress bar, or a message."""
        progress = self._progress
        if isinstance(event, str):
            self._progress = replace(progress, messages=(*progress.messages, event)[-MAX_MESSAGES:])
            return
        is_new = event.title != progress.title
        if is_new:
            now = time.monotonic()
            if not progress.title.startswith(EPOCH):
                step = FinishedStep(progress.title, round(now - self._step_started, 1))
                progress = replace(progress, steps=(*progress.steps, step)[-MAX_STEPS:])
            self._step_started = now
        self._progress = replace(
            progress, title=event.title, done=event.done, total=event.total, note=event.note, left_s=event.left_s
        )
        if is_new:
            self._due.set()  # shown at once

    def show_epochs(self, epochs: Sequence[dict[str, float]]) -> None:
        """Takes over the metrics of all epochs so far."""
        self._progress = replace(self._progress, epochs=tuple(epochs))

    def start(self) -> None:
        """Writes the first state and starts the thread.

        Only here are the times compared: the clock may be set while the training runs.
        """
        with suppress(OSError):
            if abs(self._stop.stat().st_mtime - self._progress.started) > STARTING_S:
                self._stop.unlink()
        write_progress(self._folder, self._progress)
        self._thread.start()

    def end(self, state: TrainingState | None, error: str = "") -> None:
        """Stops the thread; leaves the final state, or no file where that is None."""
        self._ended = True
        self._due.set()
        self._thread.join()
        if state is None:
            remove_progress(self._folder, self._progress.name)
        else:
            write_progress(self._folder, replace(self._progress, state=state, error=error))
            self._stop.unlink(missing_ok=True)

    @property
    def begun(self) -> bool:
        """Whether any step has begun."""
        return bool(self._progress.steps)

    def _run(self) -> None:
        while True:
            self._due.wait(WRITE_EVERY_S)
            self._due.clear()
            if self._ended:
                return
            write_progress(self._folder, self._progress)
            if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
                with suppress(OSError):
                    self._stop.unlink()
                    _interrupt_main_thread()


@contextlib.contextmanager
def report_progress(
    folder: Path, name: str, *, recipe: str = "", command: Sequence[str] = (), keep: bool = False
) -> Iterator[ProgressReporter]:
    """Publishes the progress of the block, and ends it as by Ctrl-C when `request_stop` asks for that.

    Afterwards there is no file; `keep` leaves it for a training that follows. A failure is kept unless it came before
    the first step: the command itself reports that.
    """
    progress = TrainingProgress(
        name, time.time(), recipe=recipe, command=tuple(command), folder=str(Path.cwd()) if command else ""
    )
    reporter = ProgressReporter(folder, progress)
    with observing(reporter.observe):
        reporter.start()
        try:
            yield reporter
        except KeyboardInterrupt:
            reporter.end("stopped" if reporter.begun else None)
            raise
        except BaseException as error:
            expected = isinstance(error, AstrodetectError | OSError)
            reporter.end("failed" if reporter.begun else None, str(error) if expected else type(error).__name__)
            raise
        reporter.end("running" if keep else None)


def read_progress(folder: Path, name: str) -> TrainingProgress | None:
    """The progress of the training of this model; None if there is none."""
    try:
        fields: dict[str, Any] = json.loads(_path(folder, name, PROGRESS).read_text(encoding="utf-8"))
        fields["steps"] = tuple(FinishedStep(**step) for step in fields["steps"])
        fields |= {key: tuple(fields[key]) for key in ("messages", "epochs", "command")}
        progress = TrainingProgress(**fields)
        age_s = time.time() - progress.updated  # below zero where the clock was set back
        lost = progress.state == "running" and abs(age_s) > LOST_AFTER_S
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return replace(progress, state="lost") if lost else progress


def list_trainings(folder: Path) -> list[TrainingProgress]:
    """The trainings of all models in the folder, the newest first."""
    names = [path.name[1 : -len(PROGRESS)] for path in folder.glob(f".*{PROGRESS}")]
    trainings = [progress for name in names if (progress := read_progress(folder, name))]
    return sorted(trainings, key=lambda progress: -progress.started)


def write_progress(folder: Path, progress: TrainingProgress) -> None:
    """Replaces the file; a training goes on where the disk is full."""
    with suppress(OSError):
        text = json.dumps(asdict(replace(progress, updated=time.time())))
        atomic_files.write_text(_path(folder, progress.name, PROGRESS), text, sync=False)


def end_progress(folder: Path, progress: TrainingProgress, error: str) -> None:
    """Says that a training failed whose process could not say so itself."""
    write_progress(folder, replace(progress, state="failed", error=error))


def request_stop(folder: Path, name: str) -> None:
    """Asks the training process to stop as by Ctrl-C; it looks every second."""
    _path(folder, name, STOP).touch()


def remove_progress(folder: Path, name: str, *, checkpoints: bool = False) -> None:
    """Removes the progress of a training that does not run, and with `checkpoints` what it would resume from."""
    for suffix in (PROGRESS, STOP):
        _path(folder, name, suffix).unlink(missing_ok=True)
    if checkpoints:
        labels_path(folder, name).unlink(missing_ok=True)
        shutil.rmtree(_path(folder, name, CHECKPOINTS), ignore_errors=True)


def log_path(folder: Path, name: str) -> Path:
    """The output of a training process that the service started."""
    return _path(folder, name, LOG)


def labels_path(folder: Path, name: str) -> Path:
    """The labels that a network is taught by which the service trains."""
    return _path(folder, name, LABELS)


def _path(folder: Path, name: str, suffix: str) -> Path:
    return folder / f".{name}{suffix}"


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill") and (ident := threading.main_thread().ident):
        signal.pthread_kill(ident, signal.SIGINT)  # also interrupts a wait
    else:
        signal.raise_signal(signal.SIGINT)  # Windows
