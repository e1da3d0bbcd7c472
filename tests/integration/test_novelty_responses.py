"""Novelty and domain are the same from the service, alone or in a batch, and from the command that scores folders."""

import csv
import json
import time
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import query
from pyarrow import parquet
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.__main__ import main as run
from astrodetect.anomalies.detectors.registry import VIEWS
from astrodetect.model_store.manifest import read_manifest
from astrodetect.settings import settings

USUAL, STRANGE = 120, 6
STEP = 1 / USUAL  # between two novelties: a share of the training images
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with detectors, and one without."""
    folder = tmp_path_factory.mktemp("models")
    lawns = np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)])
    colour_models.publish_with_detectors(folder, "resnet50_model", lawns)
    colour_models.publish(folder, "plain", colour_models.TWO_CLASSES)
    return folder


@pytest.fixture(scope="module")
def lawn_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Usual images, every second one with a streak."""
    folder, paths = tmp_path_factory.mktemp("sky"), []
    for number in range(2 * STRANGE):
        pixels = colour_models.image("lawn", 1000 + number)
        if number % 2:
            pixels[colour_models.SIZE // 2, :, 1] = 255
        (folder / f"{number:02}.png").write_bytes(images.encode_png(pixels))
        paths.append(folder / f"{number:02}.png")
    return paths


def encoded(name: str, seed: int = 0) -> bytes:
    """A PNG file of a random image of this class's colour."""
    return images.encode_png(colour_models.image(name, seed))


def novelties_alone(client: TestClient, lawn_images: list[Path]) -> list[float]:
    responses = [client.post("/detect", files={"file": (path.name, path.read_bytes())}).json() for path in lawn_images]
    return [response["novelty"] for response in responses]


def test_batch_composition_does_not_change_novelty(client: TestClient, lawn_images: list[Path]) -> None:
    alone = novelties_alone(client, lawn_images)
    for order in (lawn_images, lawn_images[::-1]):
        response = client.post("/detect/batch", files=[("file", (path.name, path.read_bytes())) for path in order])
        together = {line["image_name"]: line["novelty"] for line in map(json.loads, response.text.splitlines())}
        for path, novelty in zip(lawn_images, alone, strict=True):
            assert abs(together[path.name] - novelty) <= STEP + ROUNDING
    assert min(alone[1::2]) > np.median(alone[::2])


@pytest.fixture
def scored(
    models_dir: Path, lawn_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, str]]:
    """The row that `python -m astrodetect score` writes for each image."""
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(models_dir))
    settings.cache_clear()
    table = tmp_path / "scores.csv"
    assert run(["score", str(lawn_images[0].parent), "--output", str(table)]) == 0
    with table.open(newline="") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


def test_the_service_and_the_score_command_give_the_same_novelty_and_record_it(
    client: TestClient, lawn_images: list[Path], models_dir: Path, database_url: str, scored: dict[str, dict[str, str]]
) -> None:
    alone = novelties_alone(client, lawn_images)
    rows = query(database_url, "SELECT novelty, space FROM predictions ORDER BY id")
    assert rows == [(novelty, read_manifest(models_dir / "resnet50_model.json").space) for novelty in alone]
    for path, novelty in zip(lawn_images, alone, strict=True):
        assert abs(float(scored[path.name]["novelty"]) - novelty) <= STEP + ROUNDING


def test_images_unlike_the_training_set_are_out_of_domain_in_responses_rows_filters_exports_and_tables(
    client: TestClient, lawn_images: list[Path], database_url: str, scored: dict[str, dict[str, str]]
) -> None:
    ordinary, foreign = lawn_images[0], encoded("nebula", 0)
    assert client.post("/detect", files={"file": ordinary.read_bytes()}).json()["in_domain"] is True
    for route in ("/detect", "/classify", "/detect/batch"):
        assert client.post(route, files={"file": foreign}).json()["in_domain"] is False
    assert query(database_url, "SELECT in_domain FROM predictions ORDER BY id") == [(True,), *[(False,)] * 3]
    for value, ids in (("true", [1]), ("false", [4, 3, 2])):
        page = client.get(f"/predictions?in_domain={value}").json()["predictions"]
        assert [row["id"] for row in page] == ids
        export = client.get(f"/predictions.csv?in_domain={value}").text
        assert [row["id"] for row in csv.DictReader(export.splitlines())] == [str(id_) for id_ in ids]
    assert scored[ordinary.name]["in_domain"] == "true"


def test_responses_rows_exports_and_pages_name_the_view_that_finds_an_image_unusual(
    client: TestClient, database_url: str
) -> None:
    response = client.post("/detect", files={"file": encoded("nebula", 0)}).json()
    view = response["novelty_view"]
    assert view in VIEWS
    assert query(database_url, "SELECT novelty_view FROM predictions") == [(view,)]
    export = client.get("/predictions.csv").text
    assert [row["novelty_view"] for row in csv.DictReader(export.splitlines())] == [view]
    assert ", most by " in client.get(f"/history/{response['id']}").text


def test_pages_say_that_an_image_is_out_of_domain(client: TestClient) -> None:
    client.post("/detect", files={"file": encoded("nebula", 0)})
    for path in ("/history", "/history?in_domain=false", "/live"):
        assert "≠ out of domain" in client.get(path).text
    assert "<b>Out of domain</b>" in client.get("/history/1").text
    assert "≠ out of domain" not in client.get("/history?in_domain=true").text


def test_a_notice_says_that_most_of_the_latest_images_are_out_of_domain(client: TestClient) -> None:
    def detect(name: str, seeds: range) -> str:
        for seed in seeds:
            client.post("/detect", files={"file": encoded(name, seed)}).raise_for_status()
        deadline = time.monotonic() + 60
        while "being described" in (notice := client.get("/domain").text) and time.monotonic() < deadline:
            time.sleep(0.1)  # each start looks whether the log is described by the present detectors
        return str(notice.strip())

    assert 'hx-get="/domain"' in client.get("/").text
    assert not detect("lawn", range(2000, 2020))
    assert not detect("nebula", range(17))
    notice = detect("nebula", range(17, 25))  # and one of the others is among the tenth that is unusual
    assert "26 of 45 images are more unusual than 90 % of the images that resnet50_model was trained on" in notice


def test_the_same_image_again_and_again_is_no_other_domain(client: TestClient) -> None:
    for _ in range(25):
        client.post("/detect", files={"file": encoded("nebula", 0)}).raise_for_status()
    assert not client.get("/domain").text.strip()


def test_the_score_command_warns_where_most_images_are_out_of_domain(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(models_dir))
    settings.cache_clear()
    (tmp_path / "sky").mkdir()
    for seed in range(24):
        (tmp_path / "sky" / f"{seed}.png").write_bytes(encoded("nebula", seed))
    assert run(["score", str(tmp_path / "sky"), "--output", str(tmp_path / "scores.parquet")]) == 0
    assert "the model is out of its domain: 24 of 24 images" in capsys.readouterr().out
    assert parquet.read_table(tmp_path / "scores.parquet")["in_domain"].to_pylist() == [False] * 24


def test_a_model_without_detectors_gives_neither_novelty_nor_domain(
    client: TestClient, lawn_images: list[Path]
) -> None:
    response = client.post("/detect?model=plain", files={"file": lawn_images[0].read_bytes()})
    assert response.status_code == 200
    assert (response.json()["novelty"], response.json()["in_domain"]) == (None, None)


def test_attached_detectors_take_effect_in_a_running_service_without_changing_scores(
    client: TestClient, lawn_images: list[Path], models_dir: Path
) -> None:
    def detect() -> dict[str, object]:
        response: dict[str, object] = client.post(
            "/detect?model=late", files={"file": lawn_images[1].read_bytes()}
        ).json()
        return response

    colour_models.publish(models_dir, "late", colour_models.TWO_CLASSES)
    before = detect()
    colour_models.attach_novelty(
        models_dir, "late", np.stack([colour_models.image("lawn", seed) for seed in range(USUAL)])
    )
    for _ in range(100):
        if (after := detect())["novelty"] is not None:
            break
        time.sleep(0.1)  # a model in use is checked every second
    assert before["novelty"] is None
    assert isinstance(after["novelty"], float)
    assert (after["score"], after["model_version"]) == (before["score"], before["model_version"])
