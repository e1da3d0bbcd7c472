"""Novelty is the same from the service, alone or in a batch, and from the command that scores folders."""

import csv
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.__main__ import main as run
from astrodetect.model_store.manifest import read_manifest
from astrodetect.settings import Settings, settings
from main import create_app

USUAL, STRANGE = 40, 6
STEP = 1 / USUAL  # between two novelties: a share of the training images
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with detectors, and one without."""
    folder = tmp_path_factory.mktemp("models")
    usual = np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)])
    for name in ("resnet50_model", "plain"):
        colour_models.publish(folder, name, colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, "resnet50_model", usual)
    return folder


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Usual images, every second one with a streak."""
    folder, paths = tmp_path_factory.mktemp("sky"), []
    for number in range(2 * STRANGE):
        pixels = colour_models.image("lawn", 1000 + number)
        if number % 2:
            pixels[colour_models.SIZE // 2, :, 1] = 255
        (folder / f"{number:02}.png").write_bytes(images.encode_png(pixels))
        paths.append(folder / f"{number:02}.png")
    return paths


@pytest.fixture
def client(database_url: str, folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=folder))) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def novelties_alone(client: TestClient, sky: list[Path]) -> list[float]:
    responses = [client.post("/detect", files={"file": (path.name, path.read_bytes())}).json() for path in sky]
    return [response["novelty"] for response in responses]


def test_batch_composition_does_not_change_novelty(client: TestClient, sky: list[Path]) -> None:
    alone = novelties_alone(client, sky)
    for order in (sky, sky[::-1]):
        response = client.post("/detect/batch", files=[("file", (path.name, path.read_bytes())) for path in order])
        together = {line["image_name"]: line["novelty"] for line in map(json.loads, response.text.splitlines())}
        for path, novelty in zip(sky, alone, strict=True):
            assert abs(together[path.name] - novelty) <= STEP + ROUNDING
    assert min(alone[1::2]) > np.median(alone[::2])


@pytest.fixture
def scored(folder: Path, sky: list[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The novelty that `python -m astrodetect score` writes for each image."""
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(folder))
    settings.cache_clear()
    table = folder / "scores.csv"
    assert run(["score", str(sky[0].parent), "--output", str(table)]) == 0
    with table.open(newline="") as file:
        return {Path(row["path"]).name: float(row["novelty"]) for row in csv.DictReader(file)}


def test_the_service_and_the_score_command_give_the_same_novelty_and_record_it(
    client: TestClient, sky: list[Path], folder: Path, database_url: str, scored: dict[str, float]
) -> None:
    alone = novelties_alone(client, sky)
    rows = query(database_url, "SELECT novelty, space FROM predictions ORDER BY id")
    assert rows == [(novelty, read_manifest(folder / "resnet50_model.json").space) for novelty in alone]
    for path, novelty in zip(sky, alone, strict=True):
        assert abs(scored[path.name] - novelty) <= STEP + ROUNDING


def test_a_model_without_detectors_gives_no_novelty(client: TestClient, sky: list[Path]) -> None:
    response = client.post("/detect?model=plain", files={"file": sky[0].read_bytes()})
    assert response.status_code == 200
    assert response.json()["novelty"] is None


def test_attached_detectors_take_effect_in_a_running_service_without_changing_scores(
    client: TestClient, sky: list[Path], folder: Path
) -> None:
    def detect() -> dict[str, object]:
        response: dict[str, object] = client.post("/detect?model=late", files={"file": sky[1].read_bytes()}).json()
        return response

    colour_models.publish(folder, "late", colour_models.TWO_CLASSES)
    before = detect()
    colour_models.attach_novelty(folder, "late", np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)]))
    for _ in range(100):
        if (after := detect())["novelty"] is not None:
            break
        time.sleep(0.1)  # a model in use is checked every second
    assert before["novelty"] is None
    assert isinstance(after["novelty"], float)
    assert (after["score"], after["model_version"]) == (before["score"], before["model_version"])
