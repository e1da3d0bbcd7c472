"""`python -m astrodetect evaluate`, once as a process, otherwise within this one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import colour_models
import numpy as np
import pytest
from numpy.typing import NDArray
from programs import ROOT, run_here

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.datasets import dataset
from astrodetect.datasets.simulation import generator
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.model_store.manifest import read_manifest
from astrodetect.records import Outputs
from astrodetect.scoring import evaluate

COUNT = 12  # images of each class in each part


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Galaxies in train and test, the latter with an unreadable file."""
    folder = tmp_path_factory.mktemp("sky")
    generator.make_sample(folder, COUNT, COUNT, classes=("E", "SB"), seed=0, size=48, workers=1)
    (folder / "test" / "E" / "bad.jpg").write_text("no image")
    return folder


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A folder with a model of the galaxies' classes, for reports beside it."""
    colour_models.publish(tmp_path / "models", "resnet50_model", ("SB", "E"))
    return tmp_path / "models"


def run(*arguments: object, models_dir: Path) -> "subprocess.CompletedProcess[str]":
    return run_here(main, "evaluate", *arguments, environment={"ASTRODETECT_MODELS_DIR": str(models_dir)})


def metrics_of(page: Path) -> dict[str, object]:
    parts: dict[str, object] = json.loads(page.with_suffix(".metrics.json").read_text())["parts"]
    return parts


def test_the_test_part_is_evaluated_and_the_report_of_the_training_is_left_alone(
    models_dir: Path, galaxies: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "astrodetect", "evaluate", "resnet50_model", str(galaxies)]
    environ = {**os.environ, "ASTRODETECT_MODELS_DIR": str(models_dir), "PYTHONPATH": str(ROOT)}
    before = sorted(models_dir.iterdir())
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *metrics, last = done.stdout.splitlines()
    page = tmp_path / "resnet50_model-evaluation.html"
    assert (first, last) == (f"test: {2 * COUNT} images", page.name)
    assert metrics[0].strip().startswith("Accuracy: ")
    assert list(metrics_of(page)) == ["test"]
    assert re.search(r">test, evaluated here<.*>1</td></tr>", page.read_text())  # the unreadable file
    assert sorted(models_dir.iterdir()) == before


def test_other_classes_are_named_or_mapped_to_those_of_the_model(
    models_dir: Path, galaxies: Path, tmp_path: Path
) -> None:
    rows = [f"{path},{name}\n" for name in ("E", "SB") for path in sorted((galaxies / "train" / name).iterdir())[:3]]
    table, page = tmp_path / "list.csv", tmp_path / "report.html"
    table.write_text("path,label\n" + "".join(rows) + rows[0].replace(",E", ",round") + rows[-1].replace(",SB", ",odd"))
    done = run("resnet50_model", table, "--output", page, models_dir=models_dir)
    assert "left out, since the model has no such class: odd (1 images), round (1 images)" in done.stdout
    assert "odd (1 images)" in page.read_text()
    mapped = run("resnet50_model", table, "--map", "round=E,odd=SB", "--output", page, models_dir=models_dir)
    assert mapped.stdout.startswith("list: 8 images"), mapped.stderr
    assert "left out" not in mapped.stdout


def test_eight_views_average_over_rotated_and_mirrored_images(models_dir: Path, galaxies: Path) -> None:
    done = run(
        "resnet50_model",
        galaxies / "train",
        *("--views", 8, "--output", models_dir / "views.html", "--figures", models_dir / "figures"),
        models_dir=models_dir,
    )
    assert (models_dir / "figures" / "roc.png").is_file()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 views: ") == 3
    assert list(metrics_of(models_dir / "views.html")) == ["train"]
    engine = Engine(load_verified(models_dir, "resnet50_model"))
    catalogue = dataset.read_dataset(galaxies / "train", ["SB", "E"], title="images").subset(np.array([3]))
    averaged = evaluate.compute_outputs(catalogue, engine, "one image", 8)
    pixels = images.decode_file(catalogue.paths[0], engine.manifest.image)
    outputs = engine.run_all(np.stack([orient(pixels, view) for view in range(ORIENTATIONS)]))
    assert np.allclose(averaged.probabilities[0], outputs.probabilities.mean(axis=0), atol=1e-3)
    assert np.allclose(averaged.features[0], outputs.features.mean(axis=0), rtol=1e-2, atol=1e-3)


def test_activation_maps_of_rotated_views_are_rotated_back(models_dir: Path, tmp_path: Path) -> None:
    """A map that is bright in one corner stays bright in that corner."""

    class BrightnessEngine:
        """An engine whose activation map is the brightness of each quadrant."""

        manifest = read_manifest(models_dir / "resnet50_model.json")
        batch_size, streams = 4, 1

        def run(self, pixels: NDArray[np.uint8]) -> Outputs:
            half = pixels.shape[1] // 2
            quadrants = pixels[..., 0].reshape(len(pixels), 2, half, 2, half).mean(axis=(2, 4), dtype=np.float32)
            return Outputs(np.ones((len(pixels), 2), np.float32), np.ones((len(pixels), 1), np.float32), quadrants)

    size = BrightnessEngine.manifest.image.size
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    pixels[: size // 2, size // 2 :] = 200
    pixels[size // 2 :, size // 2 :] = 80
    for name in ("SB", "E"):
        (tmp_path / name).mkdir()
        images.write_jpeg(tmp_path / name / "corner.jpg", pixels)
    catalogue = dataset.read_dataset(tmp_path, ["SB", "E"], title="corners")
    single, eight = (evaluate.compute_outputs(catalogue, BrightnessEngine(), "corners", views) for views in (1, 8))  # type: ignore[arg-type]
    assert single.maps[0, 0, 1] > single.maps[0, 1, 1] > single.maps[0, 0, 0]
    assert np.allclose(single.maps, eight.maps, atol=2)


def test_a_report_after_training_has_every_part_and_the_nearest_training_images(
    models_dir: Path, galaxies: Path
) -> None:
    train, test = (dataset.read_dataset(galaxies / part, ["SB", "E"], title=part) for part in ("train", "test"))
    learn, validation = train.split(0.25, 0)
    parts = {"validation": validation, "test": test}
    report = evaluate.evaluate_and_report(models_dir, "resnet50_model", parts, train=learn, remarks=["a leak"])
    page = report.page
    assert page == models_dir / "resnet50_model.html"
    assert list(metrics_of(page)) == ["validation", "test"]
    text = page.read_text()
    assert "to the nearest training images" in text
    assert "a leak" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet50_model", "{galaxies}", "--part", "validation"), "has no part validation"),
        (("other_model", "{galaxies}"), "no model other_model"),
        (("resnet50_model", "{galaxies}", "--map", "E=elliptical"), "the model has no class elliptical, only SB, E"),
        (("resnet50_model", "{galaxies}", "--map", "round=E"), "has no class round"),
        (("resnet50_model", "{galaxies}/nowhere"), "no folder"),
        (("resnet50_model", "{galaxies}", "--output", "{galaxies}/test/E/bad.jpg/x.html"), "is no folder"),
    ],
)
def test_evaluation_errors_are_one_line(
    models_dir: Path, galaxies: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run(*(argument.format(galaxies=galaxies) for argument in arguments), models_dir=models_dir)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_report_path_must_end_in_html_and_a_map_has_pairs(models_dir: Path, galaxies: Path) -> None:
    done = run("resnet50_model", galaxies, "--output", "report.pdf", models_dir=models_dir)
    assert done.returncode == 2
    assert "ends in .html" in done.stderr
    done = run("resnet50_model", galaxies, "--map", "E", models_dir=models_dir)
    assert "NAME=CLASS" in done.stderr
