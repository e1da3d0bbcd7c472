"""Progress on stderr: a bar on a terminal, elsewhere a line every few seconds; observers are notified."""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_LINE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class BarState:
    """How far a progress bar is."""

    title: str
    done: int
    total: int
    note: str = ""
    left_s: float | None = None  # until it is complete, and the bars of the same length that follow; estimated


Observer = Callable[[BarState | str], None]  # of bars, and of messages
_observers: list[Observer] = []


def escape_output() -> None:
    """Lets stdout print characters that its locale lacks, and bytes of names that are not UTF-8, as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Calls the observer with each new state of any bar, and with each message, within the block."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


class ProgressBar:
    """Progress of a known number of steps; `with ProgressBar("reading", 100) as bar: bar.step()`.

    `following` says how many bars of the same length come after this one, such as the epochs that are left.
    """

    def __init__(self, title: str, total: int, *, following: int = 0) -> None:
        self._title, self._total, self._done, self._note = title, total, 0, ""
        self._following = following
        self._started = self._reported_at = self._first_at = time.monotonic()
        self._first = 0  # steps of the first call
        self._rich: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        if sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - the service starts without it
            from rich.progress import (  # noqa: PLC0415
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._rich = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._rich.add_task(self._title, total=self._total, note="")
            self._rich.start()
        self._notify(None)
        return self

    def step(self, count: int = 1, note: str = "") -> None:
        """Count `count` more steps; `note` is shown until the next one."""
        now = time.monotonic()
        if not self._done:
            self._first, self._first_at = count, now
        self._done += count
        self._note = note or self._note
        step_s = self._seconds_per_step(now)
        self._notify(step_s)
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, advance=count, note=self._note)
        elif now - self._reported_at >= PLAIN_LINE_EVERY_S:
            self._reported_at = now
            left = "" if step_s is None else f", {(self._total - self._done) * step_s:.0f} s left"
            print(self._line() + left, file=sys.stderr, flush=True)

    def _seconds_per_step(self, now: float) -> float | None:
        """From the rate after the first step, which is often much slower than the rest."""
        counted = self._done - self._first
        return (now - self._first_at) / counted if counted else None

    def _notify(self, step_s: float | None) -> None:
        steps_left = self._total - self._done + self._following * self._total
        left_s = None if step_s is None else steps_left * step_s
        for observer in _observers:
            observer(BarState(self._title, self._done, self._total, self._note, left_s))

    def _line(self) -> str:
        return f"{self._title}: {self._done}/{self._total}" + (f" ({self._note})" if self._note else "")

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()
        else:
            elapsed = time.monotonic() - self._started
            print(f"{self._line()}, {elapsed:.1f} s", file=sys.stderr, flush=True)


def print_notice(line: str) -> None:
    """Print a line to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
    for observer in _observers:
        observer(line)


def printable(path: str) -> str:
    """The path with control characters and bytes that are not UTF-8 escaped, for a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)


T = TypeVar("T")


def track_progress(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterate over the items and report progress."""
    with ProgressBar(title, total) as bar:
        for item in items:
            yield item
            bar.step()
