"""/classify and models chosen by name, with a real PostgreSQL and real networks of two and three classes."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import colour_models
import pytest
from error_responses import error_message
from PIL import Image
from programs import query
from starlette.testclient import TestClient

from astrodetect.settings import Settings
from main import create_app

SEVERAL_CLASSES = (
    "model colours has several classes (nebula, lawn, ocean); /detect needs a binary model. Use /classify."
)


def png(name: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(colour_models.image(name, seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model and another one, of two classes, and one of three."""
    folder = tmp_path_factory.mktemp("published")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    colour_models.publish(folder, "twin", colour_models.TWO_CLASSES, scale=0.05)
    colour_models.publish(folder, "colours")
    return folder


@pytest.fixture
def models_dir(published: Path, tmp_path: Path) -> Path:
    """A copy of the models, which tests modify."""
    return Path(shutil.copytree(published, tmp_path / "models"))


def classify(client: TestClient, data: bytes, model: str | None = "colours", key: str | None = None) -> Any:
    return client.post(
        "/classify",
        files={"file": ("sky.png", data)},
        params={"model": model} if model else {},
        headers={"Idempotency-Key": key} if key else {},
    )


def test_classify_returns_and_records_the_most_probable_class(client: TestClient, database_url: str) -> None:
    for name in colour_models.CLASSES:
        response = classify(client, png(name)).json()
        assert (response["label"], response["result"]) == (name, name)
        assert response["score"] == response["probability"] == response["probabilities"][name] > 0.5
        assert set(response["probabilities"]) == set(colour_models.CLASSES)
        assert sum(response["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert list(response["probabilities"].values()) == sorted(response["probabilities"].values(), reverse=True)
        assert (response["model"], response["threshold"], response["logged"]) == ("colours", None, "committed")
        columns = "result, score, label, probabilities, threshold, model, model_version"
        [row] = query(database_url, f"SELECT {columns} FROM predictions WHERE id = %s", response["id"])
        assert row == tuple(response[column] for column in columns.split(", "))
        assert client.get(f"/predictions/{response['id']}").json() == response


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_label_and_result_of_a_binary_model_follow_its_threshold(
    database_url: str, models_dir: Path, threshold: float
) -> None:
    path = models_dir / "resnet50_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": threshold}))
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=models_dir))) as client:
        classified = classify(client, png("ocean"), model=None).json()
        detected = client.post("/detect", files={"file": ("sky.png", png("ocean"))}).json()
    label, result = ("lawn", "Anomaly Detected") if threshold == 0 else ("nebula", "No Anomaly")
    for response in (classified, detected):
        assert (response["label"], response["result"], response["threshold"]) == (label, result, threshold)
        assert response["score"] == response["probabilities"]["lawn"]
        assert response["probability"] == response["probabilities"][label]
    assert classified.keys() == detected.keys()
    assert query(database_url, "SELECT label, result FROM predictions") == [(label, result)] * 2


def test_detect_accepts_binary_models_alone(client: TestClient, database_url: str) -> None:
    def detect(path: str, model: str) -> Any:
        return client.post(path, files={"file": ("sky.png", png("lawn"))}, params={"model": model})

    for path in ("/detect", "/detect/batch"):
        assert error_message(detect(path, "colours"), 422, "model_unfit") == SEVERAL_CLASSES
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]
    by_default = client.post("/detect", files={"file": ("sky.png", png("lawn"))}).json()
    for path in ("/detect", "/detect/batch"):
        response = detect(path, "twin").json()
        assert (response["model"], response["result"]) == ("twin", "Anomaly Detected")
        assert response["score"] > by_default["score"] > 0.5


@pytest.mark.parametrize("path", ["/detect", "/classify", "/detect/batch"])
def test_invalid_model_names_are_refused_without_a_row(client: TestClient, database_url: str, path: str) -> None:
    def upload(model: str) -> Any:
        return client.post(path, files={"file": ("sky.png", png("ocean"))}, params={"model": model})

    assert "GET /models" in error_message(upload("resnet51_model"), 404, "model_unknown")
    for name in ("../colours", "/etc/passwd", "..", ".hidden", "", "a b", "x" * 101, "a\0b", "colours\n"):
        assert error_message(upload(name), 422, "bad_arguments").startswith("model: ")
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_a_broken_model_is_reported_in_one_line_and_the_others_serve(client: TestClient, models_dir: Path) -> None:
    (models_dir / "colours.bin").write_bytes(b"torn")
    (models_dir / "metrics.json").write_text("[]")
    assert "colours.bin does not match" in error_message(classify(client, png("ocean")), 503, "model_invalid")
    assert "is not a manifest" in error_message(classify(client, png("ocean"), "metrics"), 503, "model_invalid")
    assert classify(client, png("ocean"), model=None).status_code == 200


def test_an_idempotency_key_belongs_to_one_image_and_one_model(client: TestClient, database_url: str) -> None:
    first, again = (classify(client, png("ocean"), key="night-7").json() for _ in range(2))
    assert first == again
    message = error_message(classify(client, png("ocean"), model=None, key="night-7"), 409, "idempotency_key_conflict")
    assert "another image, model" in message
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]


def test_a_prediction_queued_during_an_outage_is_recorded_later(
    database_url: str, models_dir: Path, tmp_path: Path
) -> None:
    down = Settings(
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", models_dir=models_dir, data_dir=tmp_path / "away"
    )
    with TestClient(create_app(down)) as client:
        queued = classify(client, png("lawn")).json()
    assert (queued["logged"], queued["id"], queued["label"]) == ("queued", None, "lawn")
    up = Settings(DATABASE_URL=database_url, models_dir=models_dir, data_dir=tmp_path / "away")
    with TestClient(create_app(up)) as client:
        pass
    with TestClient(create_app(up)) as client:
        [row] = client.get("/predictions", params={"request_id": queued["request_id"]}).json()["predictions"]
    assert row == queued | {"logged": "committed", "id": row["id"]}


def test_predictions_are_filtered_by_model_label_and_result(client: TestClient) -> None:
    for name in ("nebula", "ocean", "ocean"):
        classify(client, png(name))
    classify(client, png("ocean"), model=None)

    def filtered(**filters: str) -> list[tuple[str, str]]:
        rows = client.get("/predictions", params=filters).json()["predictions"]
        return [(row["model"], row["result"]) for row in rows]

    assert filtered(label="ocean") == filtered(result="ocean") == [("colours", "ocean")] * 2
    assert filtered(model="colours", label="nebula") == [("colours", "nebula")]
    assert [model for model, _ in filtered(model="resnet50_model")] == ["resnet50_model"]
    assert filtered(label="no such") == filtered(label="oce_n") == filtered(model="\0") == []


def test_models_lists_each_model_with_its_classes(client: TestClient) -> None:
    several, two, twin = client.get("/models").json()
    assert (several["name"], several["task"], several["classes"]) == ("colours", "classes", colour_models.CLASSES)
    assert (several["positive"], several["threshold"], several["temperature"]) == (None, None, 1.0)
    assert (several["recipe"], several["serving"]) == ("colour", False)
    assert (two["name"], two["task"], two["positive"], two["serving"]) == ("resnet50_model", "binary", "lawn", True)
    assert (twin["name"], twin["threshold"], twin["serving"]) == ("twin", 0.5, False)


def test_the_log_line_of_a_request_names_its_model(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "astrodetect.requests"):
        classify(client, png("ocean"))
        classify(client, b"<html>", model=None)
        client.post("/detect/batch", files={"file": ("sky.png", png("ocean"))})
        classify(client, png("ocean"), model="nowhere")
    lines = [json.loads(line) for line in caplog.messages]
    assert [line.get("model") for line in lines] == ["colours", "resnet50_model", "resnet50_model", None]


def test_a_newly_trained_model_serves_without_a_restart(database_url: str, tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "resnet50_model")
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=tmp_path))) as client:
        before = classify(client, png("ocean"), model=None).json()
        new = colour_models.publish(tmp_path, "resnet50_model", scale=0.05)
        responses = (classify(client, png("ocean"), model=None).json() for _ in range(10_000))
        after = next(response for response in responses if response["model_version"] == new.version)
        assert after["probability"] > before["probability"]
        assert client.get("/models").json()[0]["serving"]


def test_the_openapi_document_declares_the_responses_of_classify(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/classify", "/detect", "/detect/batch"):
        operation = document["paths"][path]["post"]
        assert {"200", "404", "422", "503"} <= operation["responses"].keys()
        assert "model" in {parameter["name"] for parameter in operation["parameters"]}
