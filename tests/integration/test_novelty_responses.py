"""Novelty is the same whoever tells it: the service, alone or in company, and the command that scores folders."""

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
STEP = 1 / USUAL  # between two novelties: a share of the images learnt from
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows plain images, and one without detectors."""
    folder = tmp_path_factory.mktemp("models")
    usual = np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)])
    for name in ("resnet50_model", "plain"):
        colour_models.publish(folder, name, colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, "resnet50_model", usual)
    return folder


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Usual images, and some with a streak."""
    folder, found = tmp_path_factory.mktemp("sky"), []
    for number in range(2 * STRANGE):
        pixels = colour_models.image("lawn", 1000 + number)
        if number % 2:
            pixels[colour_models.SIZE // 2, :, 1] = 255
        (folder / f"{number:02}.png").write_bytes(images.encode_png(pixels))
        found.append(folder / f"{number:02}.png")
    return found


@pytest.fixture
def client(database_url: str, folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=folder))) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def told_alone(client: TestClient, sky: list[Path]) -> list[float]:
    answers = [client.post("/detect", files={"file": (path.name, path.read_bytes())}).json() for path in sky]
    return [answer["novelty"] for answer in answers]


def test_one_image_alone_has_the_novelty_that_it_has_in_any_company(client: TestClient, sky: list[Path]) -> None:
    alone = told_alone(client, sky)
    for order in (sky, sky[::-1]):
        answer = client.post("/detect/batch", files=[("file", (path.name, path.read_bytes())) for path in order])
        together = {line["image_name"]: line["novelty"] for line in map(json.loads, answer.text.splitlines())}
        for path, novelty in zip(sky, alone, strict=True):
            assert abs(together[path.name] - novelty) <= STEP + ROUNDING
    assert min(alone[1::2]) > np.median(alone[::2])


@pytest.fixture
def scored(folder: Path, sky: list[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What `python -m astrodetect score` writes of each image."""
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(folder))
    settings.cache_clear()
    table = folder / "scores.csv"
    assert run(["score", str(sky[0].parent), "--output", str(table)]) == 0
    with table.open(newline="") as file:
        return {Path(row["path"]).name: float(row["novelty"]) for row in csv.DictReader(file)}


def test_the_service_and_the_command_tell_the_same_novelty_and_it_is_in_the_row(
    client: TestClient, sky: list[Path], folder: Path, database_url: str, scored: dict[str, float]
) -> None:
    alone = told_alone(client, sky)
    rows = query(database_url, "SELECT novelty, space FROM predictions ORDER BY id")
    assert rows == [(novelty, read_manifest(folder / "resnet50_model.json").space) for novelty in alone]
    for path, novelty in zip(sky, alone, strict=True):
        assert abs(scored[path.name] - novelty) <= STEP + ROUNDING


def test_a_model_without_detectors_tells_no_novelty(client: TestClient, sky: list[Path]) -> None:
    answer = client.post("/detect?model=plain", files={"file": sky[0].read_bytes()})
    assert answer.status_code == 200
    assert answer.json()["novelty"] is None


def test_detectors_that_are_attached_take_over_in_a_running_service_and_leave_the_scores_alone(
    client: TestClient, sky: list[Path], folder: Path
) -> None:
    def ask() -> dict[str, object]:
        answer: dict[str, object] = client.post("/detect?model=late", files={"file": sky[1].read_bytes()}).json()
        return answer

    colour_models.publish(folder, "late", colour_models.TWO_CLASSES)
    before = ask()
    colour_models.attach_novelty(folder, "late", np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)]))
    for _ in range(100):
        if (after := ask())["novelty"] is not None:
            break
        time.sleep(0.1)  # a model in use is looked at anew every second
    assert before["novelty"] is None
    assert isinstance(after["novelty"], float)
    assert (after["score"], after["model_version"]) == (before["score"], before["model_version"])
