"""Progress on a terminal and elsewhere."""

import io
import sys

import pytest

from astrodetect import progress
from astrodetect.progress import ProgressBar, track_progress


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_progress_is_a_line_every_few_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("reading", 10) as bar:
        for _ in range(10):
            clock.now += 2
            bar.step(note="good")
    assert capsys.readouterr().err.splitlines() == [
        "reading: 3/10 (good), 14 s left",
        "reading: 6/10 (good), 8 s left",
        "reading: 9/10 (good), 2 s left",
        "reading: 10/10 (good), 20.0 s",
    ]


def test_a_slow_first_step_does_not_affect_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("learning", 5) as bar:
        for wait in (60, 1, 5):
            clock.now += wait
            bar.step()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["learning: 1/5", "learning: 3/5, 6 s left", "learning: 3/5, 66.0 s"]


def test_on_a_terminal_progress_is_a_bar_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar("reading", 4) as bar:
        bar.step(4, note="done")
    assert "reading" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "done" in terminal.getvalue()


def test_track_progress_yields_and_counts_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track_progress("abc", "letters", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("letters: 3/3, ")
