"""The progress of a training: written by its process, read by any other, and honest about how it ended."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from astrodetect.errors import DataError
from astrodetect.model_store import training_progress
from astrodetect.model_store.manifest import invalid_manifests
from astrodetect.model_store.training_progress import (
    TrainingProgress,
    list_trainings,
    read_progress,
    report_progress,
    request_stop,
    write_progress,
)
from astrodetect.progress import ProgressBar, print_notice

NAME = "galaxies"
COMMAND = ("--data", "my/images")
EPOCHS = [{"train_loss": 0.5, "accuracy": 0.9}]


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_progress, "WRITE_EVERY_S", 0.01)


def wait_for(folder: Path, title: str) -> TrainingProgress:
    """The progress once this step is written."""
    give_up = time.monotonic() + 10
    while (progress := read_progress(folder, NAME)) is None or progress.title != title:
        assert time.monotonic() < give_up, progress
        time.sleep(0.01)
    return progress


def test_other_processes_see_steps_messages_epochs_and_the_time_left(tmp_path: Path) -> None:
    with report_progress(tmp_path, NAME, recipe="cnn", command=COMMAND) as reporter:
        with ProgressBar("reading", 2) as bar:
            bar.step(2)
        print_notice("training images: 3 E")
        with ProgressBar("epoch 1/4", 10, following=3) as bar:
            for _ in range(3):
                time.sleep(0.01)
                bar.step(note="loss 0.5")
            reporter.show_epochs(EPOCHS)
            time.sleep(0.05)
            progress = wait_for(tmp_path, "epoch 1/4")
        assert (progress.state, progress.recipe, progress.command) == ("running", "cnn", COMMAND)
        assert (progress.done, progress.total, progress.note) == (3, 10, "loss 0.5")
        assert [step.title for step in progress.steps] == ["starting", "reading"]
        assert (progress.messages, progress.epochs) == (("training images: 3 E",), tuple(EPOCHS))
        assert progress.left_s is not None
        assert progress.left_s > 30 * 0.01  # of this epoch 7 steps, and three more of 10
        assert invalid_manifests(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []  # the model is what is left of a training that ended well


def test_a_stop_request_interrupts_the_training_as_ctrl_c_does(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from astrodetect.model_store.training_progress import report_progress, request_stop
from astrodetect.progress import ProgressBar

with report_progress(Path({str(tmp_path)!r}), {NAME!r}), ProgressBar("epoch 1/4", 10):
    request_stop(Path({str(tmp_path)!r}), {NAME!r})
    time.sleep(60)
"""
    training = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=90)
    assert training.returncode != 0
    assert "KeyboardInterrupt" in training.stderr
    [progress] = list_trainings(tmp_path)
    assert (progress.state, progress.title) == ("stopped", "epoch 1/4")
    assert [path.name for path in tmp_path.iterdir()] == [f".{NAME}.progress"]


def test_a_stop_request_for_an_earlier_training_is_ignored(tmp_path: Path) -> None:
    request_stop(tmp_path, NAME)
    os.utime(tmp_path / f".{NAME}.stop", (time.time() - 60,) * 2)
    with report_progress(tmp_path, NAME):
        time.sleep(0.1)


def test_a_stop_request_counts_after_the_clock_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    with report_progress(tmp_path, NAME):
        monkeypatch.undo()
        request_stop(tmp_path, NAME)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(5)


def test_a_failure_is_kept_unless_it_comes_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(DataError), report_progress(tmp_path, NAME):
        raise DataError("no folder my/images")
    assert list_trainings(tmp_path) == []
    with pytest.raises(DataError), report_progress(tmp_path, NAME), ProgressBar("reading", 2):
        raise DataError("no folder my/images")
    [progress] = list_trainings(tmp_path)
    assert (progress.state, progress.error) == ("failed", "no folder my/images")


def test_the_progress_of_the_simulation_stays_for_the_training_that_follows(tmp_path: Path) -> None:
    with report_progress(tmp_path, NAME, keep=True), ProgressBar("simulating images", 5) as bar:
        bar.step(5)
    [progress] = list_trainings(tmp_path)
    assert (progress.state, progress.summary) == ("running", "simulating images 5 of 5")


@pytest.mark.parametrize("clock_s", [training_progress.LOST_AFTER_S + 1, -3600])
def test_a_training_that_no_longer_writes_is_lost_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock_s: float
) -> None:
    progress = TrainingProgress(NAME, time.time(), title="epoch 2/4")
    write_progress(tmp_path, progress)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + clock_s)
    lost = read_progress(tmp_path, NAME)
    assert lost is not None
    assert (lost.state, "the disk is full" in lost.ending) == ("lost", True)
    write_progress(tmp_path, replace(lost, state="running"))
    assert [training.state for training in list_trainings(tmp_path)] == ["running"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', '{"name": "x", "steps": [1]}'])
def test_a_damaged_progress_file_is_no_training(tmp_path: Path, text: str) -> None:
    (tmp_path / f".{NAME}.progress").write_text(text)
    assert list_trainings(tmp_path) == []
