"""The worker process of `score`: whatever ends it, the run goes on or is continued, and it never outlives the run."""

import csv
import signal
import time
from pathlib import Path

import colour_models
import psutil
import pytest
from programs import Program, run_here

from astrodetect import __main__, images

IMAGES = 192
CRASHING_DECODER = str(Path(__file__).parent.parent / "crashing_decoder")
INTERRUPTED_IN_EXEC = """
import sys
class Finder:
    def find_spec(name, *_):
        if name == "astrodetect.scoring.batch_scoring":
            exec("raise KeyboardInterrupt")
sys.meta_path.insert(0, Finder)
"""
QUARANTINED = "its decoder process ended: quarantined"


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, of which none crashes the decoder."""
    folder = tmp_path_factory.mktemp("sky")
    for number in range(IMAGES):
        images.write_jpeg(
            folder / f"{number:03}.jpg", colour_models.image(colour_models.TWO_CLASSES[number % 2], number)
        )
    return folder


def score(sky: Path, output: Path, models: Path, *, crashing: bool = False) -> Program:
    environment = {"ASTRODETECT_MODELS_DIR": str(models)}
    if crashing:
        environment["PYTHONPATH"] = CRASHING_DECODER
    command = ("-m", "astrodetect", "score", str(sky), "--output", str(output))
    return Program(*command, log=output.with_suffix(".log"), environment=environment)


def rows(output: Path) -> list[list[str]]:
    with output.open(newline="") as file:
        return list(csv.reader(file))[1:]


def parts(output: Path) -> int:
    return len(list(output.with_name(f"{output.name}.parts").glob("part-*")))


def worker_of(program: Program) -> psutil.Process:
    [worker] = psutil.Process(program.process.pid).children()
    return worker


@pytest.fixture(scope="module")
def uninterrupted(sky: Path, colour_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of an uninterrupted run."""
    output = tmp_path_factory.mktemp("uninterrupted") / "scores.csv"
    with score(sky, output, colour_models_dir) as program:
        assert program.wait() == 0, program.output
    return output


def test_images_that_crash_the_decoder_are_quarantined_and_change_no_other_score(
    sky: Path, uninterrupted: Path, colour_models_dir: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "sky", tmp_path / "scores.csv"
    folder.mkdir()
    for path in sky.iterdir():
        (folder / path.name).hardlink_to(path)
    crashing = ("017.jpg", "021.jpg")
    for name in crashing:
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).write_bytes(data + b"CRASH")
    with score(folder, output, colour_models_dir, crashing=True) as program:
        assert program.wait() == 0, program.output
    assert "SIGABRT" in program.output
    [summary] = [line for line in program.output.splitlines() if line.startswith(str(output))]
    assert f"{IMAGES} files scored" in summary
    named = " ".join(str(folder / name) for name in crashing)
    assert f"quarantined, since reading them ended the process: {named}" in program.output.splitlines()
    for row, expected in zip(rows(output), rows(uninterrupted), strict=True):
        name = Path(row[0]).name
        assert name == Path(expected[0]).name
        if name in crashing:
            assert row[1:4] == ["", "", QUARANTINED]
        else:  # the batch has other images: the last digits of a score may differ
            assert row[2:4] == expected[2:4]
            assert float(row[1]) == pytest.approx(float(expected[1]), abs=1e-5)


def test_a_killed_worker_is_replaced_and_the_table_is_that_of_an_undisturbed_run(
    sky: Path, uninterrupted: Path, colour_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    with score(sky, output, colour_models_dir) as program:
        program.wait_until(lambda: parts(output) > 0)
        worker_of(program).kill()
        assert program.wait() == 0, program.output
    assert "the scoring process was ended by SIGKILL: its images are scored again" in program.output
    assert output.read_bytes() == uninterrupted.read_bytes()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_worker_ends_with_its_run_however_that_ends(
    sky: Path, uninterrupted: Path, colour_models_dir: Path, tmp_path: Path, end: signal.Signals
) -> None:
    output = tmp_path / "scores.csv"
    with score(sky, output, colour_models_dir) as program:
        program.wait_until(lambda: parts(output) > 0)
        worker = worker_of(program)
        program.signal(end)
        assert program.wait() == (130 if end == signal.SIGINT else -end)
        worker.wait(20)
    assert "Traceback" not in program.output
    if end == signal.SIGINT:
        assert program.output.splitlines()[-1].startswith("stopped: run the same command")
    models = {"ASTRODETECT_MODELS_DIR": str(colour_models_dir)}
    assert run_here(__main__.main, "score", sky, "--output", output, environment=models).returncode == 0
    assert output.read_bytes() == uninterrupted.read_bytes()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_while_the_model_is_loaded_ends_it_at_once(
    sky: Path, colour_models_dir: Path, tmp_path: Path, end: signal.Signals
) -> None:
    output = tmp_path / "scores.csv"
    with score(sky, output, colour_models_dir) as program:
        program.wait_until(lambda: psutil.Process(program.process.pid).children())
        worker = worker_of(program)
        program.signal(end)
        began = time.monotonic()
        assert program.wait() == (130 if end == signal.SIGINT else -end), program.output
        assert time.monotonic() - began < 5
        worker.wait(5)
    assert "Traceback" not in program.output


def test_ctrl_c_while_a_dataclass_is_made_exits_with_130(sky: Path, colour_models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IN_EXEC)
    environment = {"ASTRODETECT_MODELS_DIR": str(colour_models_dir), "PYTHONPATH": str(tmp_path)}
    command = ("-m", "astrodetect", "score", str(sky), "--output", str(tmp_path / "scores.csv"))
    with Program(*command, log=tmp_path / "log", environment=environment) as program:
        assert program.wait() == 130
    assert program.output == "stopped: run the same command again to continue\n"


def test_a_worker_that_cannot_start_is_one_line(sky: Path, colour_models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'score_worker' in str(sys.orig_argv): os.abort()\n")
    environment = {"ASTRODETECT_MODELS_DIR": str(colour_models_dir), "PYTHONPATH": str(tmp_path)}
    command = ("-m", "astrodetect", "score", str(sky), "--output", str(tmp_path / "scores.csv"))
    with Program(*command, log=tmp_path / "log", environment=environment) as program:
        assert program.wait() == 1
    assert program.output.splitlines()[-1].startswith("astrodetect: the scoring process was ended by SIGABRT while")
    assert not list(tmp_path.glob("scores*"))
