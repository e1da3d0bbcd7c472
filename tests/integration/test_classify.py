"""`/classify` and models by name, on a real PostgreSQL and real networks: two of two classes, one of three."""

import gc
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colour_models
import pytest
from PIL import Image
from programs import query
from starlette.testclient import TestClient

from astrodetect.settings import Settings
from main import create_app

CLASSES_TOLD = "model colours has several classes (nebula, lawn, ocean); /detect needs a binary model. Use /classify."


def png(name: str, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(colour_models.image(name, seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The default model, of two classes, another one like it, and one of three."""
    folder = tmp_path / "models"
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    colour_models.publish(folder, "twin", colour_models.TWO_CLASSES, scale=0.05)
    colour_models.publish(folder, "colours")
    return folder


@pytest.fixture
def client(database_url: str, models: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=models))) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def classify(client: TestClient, data: bytes, model: str | None = "colours", key: str | None = None) -> Any:
    return client.post(
        "/classify",
        files={"file": ("sky.png", data)},
        params={"model": model} if model else {},
        headers={"Idempotency-Key": key} if key else {},
    )


def refused(answer: Any, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    message: str = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


def test_the_most_probable_of_several_classes_is_the_answer_and_its_row(client: TestClient, database_url: str) -> None:
    for name in colour_models.CLASSES:
        answer = classify(client, png(name)).json()
        assert (answer["label"], answer["result"]) == (name, name)
        assert answer["score"] == answer["probability"] == answer["probabilities"][name] > 0.5
        assert set(answer["probabilities"]) == set(colour_models.CLASSES)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert list(answer["probabilities"].values()) == sorted(answer["probabilities"].values(), reverse=True)
        assert (answer["model"], answer["threshold"], answer["logged"]) == ("colours", None, "committed")
        columns = "result, score, label, probabilities, threshold, model, model_version"
        [row] = query(database_url, f"SELECT {columns} FROM predictions WHERE id = %s", answer["id"])
        assert row == tuple(answer[column] for column in columns.split(", "))
        assert client.get(f"/predictions/{answer['id']}").json() == answer


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_of_two_classes_the_label_and_the_verdict_agree_by_the_models_threshold(
    database_url: str, models: Path, threshold: float
) -> None:
    path = models / "resnet50_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": threshold}))
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=models))) as client:
        classified = classify(client, png("ocean"), model=None).json()
        detected = client.post("/detect", files={"file": ("sky.png", png("ocean"))}).json()
    label, result = ("lawn", "Anomaly Detected") if threshold == 0 else ("nebula", "No Anomaly")
    for answer in (classified, detected):
        assert (answer["label"], answer["result"], answer["threshold"]) == (label, result, threshold)
        assert answer["score"] == answer["probabilities"]["lawn"]
        assert answer["probability"] == answer["probabilities"][label]
    assert classified.keys() == detected.keys()
    assert query(database_url, "SELECT label, result FROM predictions") == [(label, result)] * 2


def test_detection_takes_models_of_two_classes_by_name_and_sends_others_to_classify(
    client: TestClient, database_url: str
) -> None:
    def detect(path: str, model: str) -> Any:
        return client.post(path, files={"file": ("sky.png", png("lawn"))}, params={"model": model})

    for path in ("/detect", "/detect/batch"):
        assert refused(detect(path, "colours"), 422, "model_unfit") == CLASSES_TOLD
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]
    by_default = client.post("/detect", files={"file": ("sky.png", png("lawn"))}).json()
    for path in ("/detect", "/detect/batch"):
        answer = detect(path, "twin").json()
        assert (answer["model"], answer["result"]) == ("twin", "Anomaly Detected")
        assert answer["score"] > by_default["score"] > 0.5


@pytest.mark.parametrize("path", ["/detect", "/classify", "/detect/batch"])
def test_names_that_are_none_are_refused_and_leave_nothing(client: TestClient, database_url: str, path: str) -> None:
    def asked(model: str) -> Any:
        return client.post(path, files={"file": ("sky.png", png("ocean"))}, params={"model": model})

    assert "GET /models" in refused(asked("resnet51_model"), 404, "model_unknown")
    for name in ("../colours", "/etc/passwd", "..", ".hidden", "", "a b", "x" * 101, "a\0b", "colours\n"):
        assert refused(asked(name), 422, "bad_arguments").startswith("model: ")
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_a_broken_model_is_told_in_one_line_and_the_others_go_on(client: TestClient, models: Path) -> None:
    (models / "colours.bin").write_bytes(b"torn")
    (models / "metrics.json").write_text("[]")
    assert "colours.bin does not match" in refused(classify(client, png("ocean")), 503, "model_invalid")
    assert "is not a manifest" in refused(classify(client, png("ocean"), "metrics"), 503, "model_invalid")
    assert classify(client, png("ocean"), model=None).status_code == 200


def test_a_key_belongs_to_one_image_and_one_model(client: TestClient, database_url: str) -> None:
    first, again = (classify(client, png("ocean"), key="night-7").json() for _ in range(2))
    assert first == again
    message = refused(classify(client, png("ocean"), model=None, key="night-7"), 409, "idempotency_key_conflict")
    assert "another image or model" in message
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]


def test_while_postgresql_is_away_the_answer_is_the_same_and_the_row_comes_later(
    database_url: str, models: Path, tmp_path: Path
) -> None:
    away = Settings(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", models_dir=models, data_dir=tmp_path / "away")
    with TestClient(create_app(away)) as client:
        queued = classify(client, png("lawn")).json()
    assert (queued["logged"], queued["id"], queued["label"]) == ("queued", None, "lawn")
    back = Settings(DATABASE_URL=database_url, models_dir=models, data_dir=tmp_path / "away")
    with TestClient(create_app(back)) as client:
        pass
    with TestClient(create_app(back)) as client:
        [row] = client.get("/predictions", params={"request_id": queued["request_id"]}).json()["predictions"]
    assert row == queued | {"logged": "committed", "id": row["id"]}


def test_the_history_is_filtered_by_model_label_and_result(client: TestClient) -> None:
    for name in ("nebula", "ocean", "ocean"):
        classify(client, png(name))
    classify(client, png("ocean"), model=None)

    def found(**filters: str) -> list[tuple[str, str]]:
        rows = client.get("/predictions", params=filters).json()["predictions"]
        return [(row["model"], row["result"]) for row in rows]

    assert found(label="ocean") == found(result="ocean") == [("colours", "ocean")] * 2
    assert found(model="colours", label="nebula") == [("colours", "nebula")]
    assert [model for model, _ in found(model="resnet50_model")] == ["resnet50_model"]
    assert found(label="no such") == found(label="oce_n") == found(model="\0") == []


def test_models_lists_each_with_what_it_tells_apart(client: TestClient) -> None:
    several, two, twin = client.get("/models").json()
    assert (several["name"], several["task"], several["classes"]) == ("colours", "classes", colour_models.CLASSES)
    assert (several["positive"], several["threshold"], several["temperature"]) == (None, None, 1.0)
    assert (several["recipe"], several["serving"]) == ("colour", False)
    assert (two["name"], two["task"], two["positive"], two["serving"]) == ("resnet50_model", "binary", "lawn", True)
    assert (twin["name"], twin["threshold"], twin["serving"]) == ("twin", 0.5, False)


def test_the_line_of_a_request_names_its_model(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "astrodetect.requests"):
        classify(client, png("ocean"))
        classify(client, b"<html>", model=None)
        client.post("/detect/batch", files={"file": ("sky.png", png("ocean"))})
        classify(client, png("ocean"), model="nowhere")
    lines = [json.loads(line) for line in caplog.messages]
    assert [line.get("model") for line in lines] == ["colours", "resnet50_model", "resnet50_model", None]


def test_a_model_trained_anew_serves_without_a_restart(database_url: str, tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "resnet50_model")
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=tmp_path))) as client:
        before = classify(client, png("ocean"), model=None).json()
        new = colour_models.publish(tmp_path, "resnet50_model", scale=0.05)
        answers = (classify(client, png("ocean"), model=None).json() for _ in range(10_000))
        after = next(answer for answer in answers if answer["model_version"] == new.version)
        assert after["probability"] > before["probability"]
        assert client.get("/models").json()[0]["serving"]


def test_the_openapi_document_declares_what_classify_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/classify", "/detect", "/detect/batch"):
        operation = document["paths"][path]["post"]
        assert {"200", "404", "422", "503"} <= operation["responses"].keys()
        assert "model" in {parameter["name"] for parameter in operation["parameters"]}
