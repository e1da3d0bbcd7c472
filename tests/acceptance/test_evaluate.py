"""`python -m astrodetect evaluate` as people run it: once as a process, else within this one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from programs import ROOT, run_here

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.datasets import dataset
from astrodetect.datasets.simulation import generator
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.inference.engine import Engine, load_model
from astrodetect.model_store.manifest import list_manifests, read_manifest
from astrodetect.records import Outputs
from astrodetect.scoring import evaluate

COUNT = 12  # images of each class in each part


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Galaxies in train and test, the latter with a file that is no image."""
    folder = tmp_path_factory.mktemp("sky")
    generator.make_sample(folder, COUNT, COUNT, classes=("E", "SB"), seed=0, size=48)
    (folder / "test" / "E" / "bad.jpg").write_text("no image")
    return folder


@pytest.fixture
def models(model_folder: Path, tmp_path: Path) -> Path:
    """The model, where reports can be made beside it."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in model_folder.iterdir():
        if path.is_file():
            (folder / path.name).hardlink_to(path)
    return folder


def run(*arguments: object, models: Path) -> "subprocess.CompletedProcess[str]":
    return run_here(main, "evaluate", *arguments, environment={"ASTRODETECT_MODELS_DIR": str(models)})


def measured(page: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(page.with_suffix(".metrics.json").read_text())["parts"]
    return found


def test_the_test_part_is_evaluated_and_the_page_stands_beside_the_model(models: Path, sky: Path) -> None:
    command = [sys.executable, "-m", "astrodetect", "evaluate", "resnet50_model", str(sky)]
    given = {**os.environ, "ASTRODETECT_MODELS_DIR": str(models)}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *figures, last = done.stdout.splitlines()
    page = models / "resnet50_model.html"
    assert (first, last) == (f"test: {2 * COUNT} images", str(page))
    assert figures[0].strip().startswith("Accuracy: ")
    assert list(measured(page)) == ["test"]
    assert re.search(r">test, evaluated here<.*>1</td></tr>", page.read_text())  # the file that was left out
    assert [manifest.name for manifest in list_manifests(models)] == ["resnet50_model"]  # the figures are none


def test_eight_views_are_the_mean_over_turned_and_mirrored_images(models: Path, sky: Path) -> None:
    done = run("resnet50_model", sky / "train", "--views", 8, "--output", models / "views.html", models=models)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 views: ") == 3
    assert list(measured(models / "views.html")) == ["train"]
    engine = Engine(load_model(models, "resnet50_model"))
    catalogue = dataset.read_dataset(sky / "train", ["SB", "E"], title="images").subset(np.array([3]))
    found = evaluate.compute_outputs(catalogue, engine, "one image", 8)
    pixels = images.read_file(catalogue.paths[0], engine.manifest.image)
    said = engine.run_all(np.stack([orient(pixels, view) for view in range(ORIENTATIONS)]))
    assert np.allclose(found.probabilities[0], said.probabilities.mean(axis=0), atol=1e-3)
    assert np.allclose(found.features[0], said.features.mean(axis=0), rtol=1e-2, atol=1e-3)


def test_maps_of_turned_views_are_turned_back(model_folder: Path, tmp_path: Path) -> None:
    """What is bright in one corner stays in that corner."""

    class Bright:
        """A network whose map is how bright each quarter of the image is."""

        manifest = read_manifest(model_folder / "resnet50_model.json")
        batch_size, streams = 4, 1

        def run(self, pixels: NDArray[np.uint8]) -> Outputs:
            half = pixels.shape[1] // 2
            quarters = pixels[..., 0].reshape(len(pixels), 2, half, 2, half).mean(axis=(2, 4), dtype=np.float32)
            return Outputs(np.ones((len(pixels), 2), np.float32), np.ones((len(pixels), 1), np.float32), quarters)

    size = Bright.manifest.image.size
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    pixels[: size // 2, size // 2 :] = 200
    pixels[size // 2 :, size // 2 :] = 80
    for name in ("SB", "E"):
        (tmp_path / name).mkdir()
        images.write_jpeg(tmp_path / name / "corner.jpg", pixels)
    catalogue = dataset.read_dataset(tmp_path, ["SB", "E"], title="corners")
    one, eight = (evaluate.compute_outputs(catalogue, Bright(), "corners", views) for views in (1, 8))  # type: ignore[arg-type]
    assert one.maps[0, 0, 1] > one.maps[0, 1, 1] > one.maps[0, 0, 0]
    assert np.allclose(one.maps, eight.maps, atol=2)


def test_a_report_after_training_has_every_part_and_knows_what_was_learnt(models: Path, sky: Path) -> None:
    train, test = (dataset.read_dataset(sky / part, ["SB", "E"], title=part) for part in ("train", "test"))
    learn, validation = train.split(0.25, 0)
    parts = {"validation": validation, "test": test}
    page = evaluate.evaluate_and_report(models, "resnet50_model", parts, train=learn, remarks=["a leak"])
    assert page == models / "resnet50_model.html"
    assert list(measured(page)) == ["validation", "test"]
    text = page.read_text()
    assert "images that it learnt from" in text
    assert "a leak" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("resnet50_model", "{sky}", "--part", "validation"), "has no part validation"),
        (("other_model", "{sky}"), "no model other_model"),
        (("resnet50_model", "{sky}/nowhere"), "no folder"),
        (("resnet50_model", "{sky}", "--output", "{sky}/test/E/bad.jpg/x.html"), "cannot write the report"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    models: Path, sky: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = run(*(argument.format(sky=sky) for argument in arguments), models=models)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_page_has_to_be_called_one(models: Path, sky: Path) -> None:
    done = run("resnet50_model", sky, "--output", "report.pdf", models=models)
    assert done.returncode == 2
    assert "ends in .html" in done.stderr
