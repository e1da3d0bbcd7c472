"""`python -m astrodetect explore` and `split`: once as a process, otherwise in this process."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from programs import ROOT, run_here

from astrodetect.__main__ import main
from astrodetect.api.ranking import describe
from astrodetect.datasets import class_folders, dataset, health
from astrodetect.datasets.simulation import generator
from astrodetect.images import decode_file
from astrodetect.records import ImageContract

run = partial(run_here, main)


@pytest.fixture(scope="module")
def flawed_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with a duplicate, a label conflict and an unreadable file."""
    folder = generator.make_dataset(
        tmp_path_factory.mktemp("sky") / "mine", {"E": 40, "SB": 30}, seed=1, size=64, workers=1
    )
    (folder / "E" / "again.jpg").write_bytes((folder / "E" / "00001.jpg").read_bytes())
    (folder / "SB" / "also.jpg").write_bytes((folder / "E" / "00002.jpg").read_bytes())
    (folder / "SB" / "notes.txt").write_text("seen by eye")
    return folder


def test_explore_writes_a_report_and_prints_its_path(flawed_dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "astrodetect", "explore", str(flawed_dataset)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *recommendations, place = done.stdout.splitlines()
    assert recommendations[0].startswith("1 image has more than one label: ")
    assert (tmp_path / place).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "explore" / "explore.json").read_text())["images"] == 72


def test_explore_json_prints_only_json_and_writes_no_report(flawed_dataset: Path, tmp_path: Path) -> None:
    figures = ("--figures", tmp_path / "figures", "--figure-format", "svg")
    done = run("explore", flawed_dataset, "--json", *figures, folder=tmp_path)
    results = json.loads(done.stdout)
    assert ">E</text>" in (tmp_path / "figures" / "class_imbalance.svg").read_text()
    assert [file["path"] for file in results["unreadable"]] == ["SB/notes.txt"]
    assert {image["path"] for image in results["conflicts"][0]["images"]} == {"E/00002.jpg", "SB/also.jpg"}
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_explore_checks_labels_with_the_features_of_a_model(
    flawed_dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    done = run(
        "explore",
        flawed_dataset,
        "--model",
        "resnet50_model",
        "--output",
        tmp_path / "out",
        environment={"ASTRODETECT_MODELS_DIR": str(model_folder)},
    )
    assert done.returncode == 0, done.stderr
    assert (
        "the features of the model resnet50_model"
        in json.loads((tmp_path / "out" / "explore.json").read_text())["doubts_by"]
    )


def test_split_has_no_leaks_and_is_read_as_parts(flawed_dataset: Path, tmp_path: Path) -> None:
    done = run("split", flawed_dataset, "--output", tmp_path / "out", "--limit", "E=30")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert "notes.txt" in done.stderr
    assert class_folders.part_names(tmp_path / "out") == ["train", "validation", "test"]
    assert Counter(item.label for item in class_folders.list_dataset(tmp_path / "out"))["E"] in {29, 30}
    assert health.examine(tmp_path / "out").leaks == []


def test_split_with_the_same_seed_writes_the_same_table(flawed_dataset: Path, tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        assert run("split", flawed_dataset, "--output", tmp_path / name, "--seed", "3").returncode == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert len(dataset.read_dataset(tmp_path / "one.csv", ["E", "SB"], part="test", title="test")) > 0


def test_cubes_are_read_by_the_planes_that_are_named(flawed_dataset: Path, tmp_path: Path) -> None:
    for path in sorted(flawed_dataset.glob("*/0001*.jpg")):
        bands = decode_file(path, ImageContract(64)).transpose(2, 0, 1)[:, ::-1].astype(np.int16)
        for folder, planes in (("three", [*bands[::-1]]), ("four", [bands[0], bands[0].T, bands[2], bands[1]])):
            cube = tmp_path / folder / path.parent.name / f"{path.stem}.fits"
            cube.parent.mkdir(parents=True, exist_ok=True)
            fits.PrimaryHDU(np.stack(planes)).writeto(cube)
    results = []
    for folder, options in (("three", ()), ("four", ("--planes", "0,3,2"))):
        explored = run("explore", folder, "--json", *options, folder=tmp_path)
        split = run("split", folder, "--output", f"{folder}.csv", *options, folder=tmp_path)
        assert (explored.returncode, split.returncode) == (0, 0), explored.stderr + split.stderr
        text = (explored.stdout + (tmp_path / f"{folder}.csv").read_text()).replace(folder, "")
        features = describe(tmp_path / folder, planes=options[1] if options else None).features
        results.append((re.sub("[0-9a-f]{64}", "", text), features.tolist()))
    assert results[0] == results[1]
    refused = run("anomalies", "four", folder=tmp_path)
    assert "FITS of 4 planes: --planes names three (2,1,0)" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explore", "{}/none"), "no folder"),
        (("explore", "{}/none.csv"), "cannot be read: No such file"),
        (("explore", __file__), "lists no images with labels"),
        (("explore", "{}"), "contains no images"),
        (("split", "{}", "--output", "{}/out", "--validation", "0.6", "--test", "0.6"), "leave no training images"),
        (("explore", "{}", "--model", "none"), "no model none yet"),
    ],
)
def test_explore_and_split_errors_are_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    given = {"ASTRODETECT_MODELS_DIR": str(tmp_path)}
    done = run(*(argument.format(tmp_path) for argument in arguments), environment=given)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert message in line
