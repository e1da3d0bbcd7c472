"""`python -m astrodetect predict`: text and JSON, for files, folders and tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import colour_models
import pytest
from programs import ROOT, run_here

from astrodetect import images
from astrodetect.__main__ import main

FILES = {name: f"{name}.jpg" for name in colour_models.TWO_CLASSES}


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of each class, and a bad file."""
    folder = tmp_path_factory.mktemp("sky")
    for name, file in FILES.items():
        images.write_jpeg(folder / file, colour_models.image(name))
    (folder / "bad.jpg").write_text("no image")
    return folder


def run(*arguments: object, models: Path, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = {"ASTRODETECT_MODELS_DIR": str(models)}
    return run_here(main, "predict", *arguments, folder=folder, environment=environment)


def test_predict_prints_class_probabilities_novelty_and_domain_of_each_image(
    sky: Path, colour_models_dir: Path
) -> None:
    done = run(".", models=colour_models_dir, folder=sky)
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["class", *colour_models.TWO_CLASSES, "novelty", "in", "domain", "image"]
    rows = {line.split()[-1]: line.split() for line in lines if not line.startswith("bad file")}
    for name, file in FILES.items():
        label, *probabilities, novelty, in_domain, _ = rows[file]
        assert label == name
        assert float(probabilities[colour_models.TWO_CLASSES.index(name)]) == max(map(float, probabilities))
        assert 0 <= float(novelty) <= 1
        assert in_domain in {"yes", "no", "–"}
    assert next(line for line in lines if line.startswith("bad file")).endswith(
        "bad.jpg: not a supported image: send JPEG, PNG, WebP, TIFF or FITS"
    )


def test_json_has_the_same_values_as_the_table_of_score(sky: Path, colour_models_dir: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("file\n" + "".join(f"{sky / name}\n" for name in [*FILES.values(), "bad.jpg"]))
    done = run(table, "--json", models=colour_models_dir)
    predictions = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert predictions["bad.jpg"].keys() == {"path", "error"}
    environment = {"ASTRODETECT_MODELS_DIR": str(colour_models_dir)}
    run_here(main, "score", table, "--output", tmp_path / "scores.csv", environment=environment)
    for line in (tmp_path / "scores.csv").read_text().splitlines()[1:-1]:
        path, score, result, *_ = line.split(",")
        assert (predictions[Path(path).name]["score"], predictions[Path(path).name]["result"]) == (float(score), result)


def test_predict_of_several_classes_and_of_bad_files_only(sky: Path, colour_models_dir: Path) -> None:
    done = run(sky / FILES["lawn"], "--model", "colours", "--json", models=colour_models_dir)
    prediction = json.loads(done.stdout)
    assert (prediction["label"], prediction["result"], prediction["novelty"]) == ("lawn", "lawn", None)
    assert prediction["probabilities"].keys() == set(colour_models.CLASSES)
    bad = run(sky / "bad.jpg", models=colour_models_dir)
    assert (bad.returncode, bad.stderr) == (1, "every file is bad\n")


def test_a_closed_pipe_ends_predict_without_a_traceback(colour_models_dir: Path, tmp_path: Path) -> None:
    images.write_jpeg(tmp_path / "0.jpg", colour_models.image("lawn"))
    for number in range(1, 300):
        (tmp_path / f"{number}.jpg").hardlink_to(tmp_path / "0.jpg")
    command = [sys.executable, "-m", "astrodetect", "predict", str(tmp_path)]
    environ = {**os.environ, "ASTRODETECT_MODELS_DIR": str(colour_models_dir), "ASTRODETECT_DATA_DIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors == b""
