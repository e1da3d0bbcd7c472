"""The HTTP service, its routes and its errors, on a real PostgreSQL and a real network."""

import gc
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, query
from starlette.testclient import TestClient

from astrodetect.settings import Settings
from main import create_app

SECRET_PATHS = re.compile(r"/tmp|/home|/root|\.s\.PGSQL|postgres://|host=")


def png(size: tuple[int, int] = (64, 64), seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network under the usual name: most of these tests start a service of their own."""
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "resnet50_model", ("SB", "E"))
    return folder


@pytest.fixture
def client(database_url: str, model_folder: Path) -> Iterator[TestClient]:
    settings = Settings(DATABASE_URL=database_url, models_dir=model_folder, max_body_bytes=200_000)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def detect(client: TestClient, data: bytes, name: str = "m51.png") -> Any:
    return client.post("/detect", files={"file": (name, data)})


def refused(answer: Any, status: int, code: str) -> str:
    """The message of an error, in the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].keys() == {"code", "message"}
    assert answer.json()["error"]["code"] == code
    message: str = answer.json()["error"]["message"]
    assert message
    assert "\n" not in message
    assert not SECRET_PATHS.search(message)
    return message


def test_an_answer_is_a_row_that_is_there(client: TestClient, database_url: str) -> None:
    answer = detect(client, png()).json()
    columns = "image_name, score, result, threshold, model, model_version, image_sha256"
    [row] = query(database_url, f"SELECT {columns} FROM predictions WHERE id = %s", answer["id"])
    assert row == tuple(answer[name] for name in columns.split(", "))
    assert answer["image_name"] == "m51.png"
    assert answer["result"] == ("Anomaly Detected" if answer["score"] > 0.5 else "No Anomaly")
    assert answer["image_sha256"] == hashlib.sha256(png()).hexdigest()
    assert list(answer)[:2] == ["result", "score"]


def test_the_same_image_has_the_same_score_whatever_its_name(client: TestClient) -> None:
    first, second, other = (
        detect(client, png(seed=seed), name).json() for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert first["score"] == second["score"] != other["score"]
    assert first["id"] < second["id"] < other["id"]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "image_empty"),
        (b"<html>", 415, "image_unsupported"),
        (b"%!PS-Adobe-3.0", 415, "image_unsupported"),
        (png()[:900], 422, "image_corrupt"),
        (png((8, 64)), 422, "image_too_small"),
        (b"\0" * 300_000, 413, "body_too_large"),
    ],
)
def test_what_is_no_image_is_refused_with_a_true_status_and_no_row(
    client: TestClient, database_url: str, data: bytes, status: int, code: str
) -> None:
    refused(detect(client, data), status, code)
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_too_many_pixels_are_refused(database_url: str, model_folder: Path) -> None:
    settings = Settings(DATABASE_URL=database_url, models_dir=model_folder, max_image_pixels=10_000)
    with TestClient(create_app(settings)) as client:
        message = refused(detect(client, png((101, 100))), 413, "image_too_many_pixels")
        assert "the limit is 10,000 pixels" in message
        assert detect(client, png((100, 100))).status_code == 200


def test_a_body_is_read_no_further_than_the_limit(client: TestClient) -> None:
    """Chunked, so that no Content-Length warns; the limit is 200,000 bytes."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while sent < 50_000_000:
            sent += 50_000
            yield b"\0" * 50_000

    answer = client.post("/detect", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    refused(answer, 413, "body_too_large")


def test_a_form_without_the_file_says_how_to_send_it(client: TestClient) -> None:
    assert "curl -F file=@" in refused(client.post("/detect"), 422, "file_missing")
    assert "curl -F file=@" in refused(client.post("/detect", data={"file": "text"}), 422, "file_missing")
    assert "curl -F file=@" in refused(client.post("/detect", files={"image": b"x"}), 422, "file_missing")


def test_broken_forms_and_unknown_paths_have_the_same_shape(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data"}
    refused(client.post("/detect", content=b"x", headers=form), 400, "bad_request")
    refused(client.get("/nowhere"), 404, "not_found")
    refused(client.get("/detect"), 405, "method_not_allowed")


def test_a_hostile_name_is_data(client: TestClient) -> None:
    for name in ("../../etc/passwd", "<script>alert(1)</script>", "a\u202eb.png", "x" * 3_000, "a\x00b"):
        answer = detect(client, png(), name)
        assert answer.status_code == 200
        assert client.get(f"/predictions/{answer.json()['id']}").json()["image_name"] == answer.json()["image_name"]


def test_the_history_is_newest_first_paged_and_filtered(client: TestClient) -> None:
    ids = [detect(client, png(seed=seed), f"sky-{seed}.png").json()["id"] for seed in range(7)]
    found, url = [], "/predictions?limit=3&name=SKY"
    while url:
        page = client.get(url).json()
        found += [row["id"] for row in page["predictions"]]
        url = page["next"]
        assert url is None or url.startswith("/predictions?")
    assert found == ids[::-1]
    found, url = [], f"/predictions?limit=3&name=SKY&after={ids[0]}"
    while url:
        page = client.get(url).json()
        found += [row["id"] for row in reversed(page["predictions"])]
        if not page["previous"]:
            assert client.get(page["next"]).json()["predictions"][0]["id"] == ids[3]
        url = page["previous"]
        assert url is None or url.startswith("/predictions?limit=3&name=SKY&after=")
    assert found == ids[1:]
    assert client.get("/predictions?limit=3").json()["previous"] is None
    back = client.get(client.get(f"/predictions?limit=3&before={ids[3]}").json()["previous"]).json()["predictions"]
    assert [row["id"] for row in back] == ids[5:2:-1]
    named = client.get("/predictions", params={"name": "sky-3"}).json()["predictions"]
    assert [row["id"] for row in named] == [ids[3]]
    score = named[0]["score"]
    above = client.get("/predictions", params={"min_score": score}).json()["predictions"]
    assert ids[3] in {row["id"] for row in above}
    assert all(row["score"] >= score for row in above)
    result = client.get("/predictions", params={"result": "No Anomaly"}).json()["predictions"]
    assert all(row["result"] == "No Anomaly" for row in result)
    assert client.get("/predictions", params={"since": "2100-01-01T00:00:00Z"}).json() == {
        "predictions": [],
        "next": None,
        "previous": None,
    }


def test_one_prediction_by_its_id(client: TestClient) -> None:
    answer = detect(client, png()).json()
    assert client.get(f"/predictions/{answer['id']}").json() == answer
    refused(client.get("/predictions/999999"), 404, "not_found")
    for wrong in ("0", "-1", "x", str(2**63)):
        refused(client.get(f"/predictions/{wrong}"), 422, "bad_arguments")


@pytest.mark.parametrize(
    "wrong",
    [
        "limit=0",
        "limit=1001",
        "min_score=2",
        "min_score=nan",
        "since=yesterday",
        "before=x",
        "after=-1",
        f"after={2**63 - 1}",
        "after=1&before=9",
        *(f"{name}={'x' * 256}" for name in ("name", "result", "label", "model")),
    ],
    ids=lambda wrong: wrong[:20],
)
def test_arguments_out_of_bounds_are_named(client: TestClient, wrong: str) -> None:
    assert refused(client.get(f"/predictions?{wrong}"), 422, "bad_arguments").startswith(wrong.partition("=")[0])


def test_a_key_makes_one_row_and_one_answer_however_often_it_comes(client: TestClient, database_url: str) -> None:
    def keyed(data: bytes, name: str = "m51.png") -> Any:
        return client.post("/detect", files={"file": (name, data)}, headers={"Idempotency-Key": "night-7/m51"})

    first, again = keyed(png()), keyed(png(), "renamed.png")
    assert first.status_code == 200
    assert first.json() == again.json()
    refused(keyed(png(seed=1)), 409, "idempotency_key_conflict")
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]
    assert client.get("/predictions", params={"request_id": first.json()["request_id"]}).json()["predictions"] == [
        first.json()
    ]
    refused(client.post("/detect", files={"file": ("a", png())}, headers={"Idempotency-Key": ""}), 422, "bad_arguments")


def test_the_metrics_tell_where_time_goes_and_what_became_of_requests(client: TestClient) -> None:
    detect(client, png())
    detect(client, b"<html>")
    client.get("/predictions/7/nowhere")
    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=")
    figures = dict(line.rsplit(" ", 1) for line in found.text.splitlines() if not line.startswith("#"))
    for stage in ("read", "decode", "queue", "inference", "commit"):
        assert float(figures[f'astrodetect_stage_seconds_count{{stage="{stage}"}}']) == 1
    assert figures['astrodetect_requests_total{route="/detect",status="200"}'] == "1.0"
    assert figures['astrodetect_requests_total{route="/detect",status="415"}'] == "1.0"
    assert figures['astrodetect_requests_total{route="other",status="404"}'] == "1.0"
    assert figures['astrodetect_rows_total{logged="committed"}'] == "1.0"
    assert figures["astrodetect_batch_images_sum"] == "1.0"
    assert {figures[f"astrodetect_{name}"] for name in ("outbox_rows", "queue_length", "images_at_work")} == {"0.0"}


def test_every_request_leaves_one_line_of_json(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "astrodetect.requests"):
        answer = detect(client, png()).json()
        client.get("/nowhere%0Ainjected")
    first, second = (json.loads(line) for line in caplog.messages)
    assert first.items() >= {"event": "request", "method": "POST", "path": "/detect", "status": 200}.items()
    assert (first["request_id"], first["logged"]) == (answer["request_id"], "committed")
    assert {"read_ms", "decode_ms", "queue_ms", "inference_ms", "commit_ms"} <= first.keys()
    assert sum(first[name] for name in first if name.endswith("_ms")) < first["ms"] + 1
    assert second["status"] == 404


def test_models_says_which_one_serves(client: TestClient) -> None:
    [model] = client.get("/models").json()
    answer = detect(client, png()).json()
    assert model["serving"]
    assert (model["name"], model["version"]) == (answer["model"], answer["model_version"])
    assert (model["classes"], model["positive"]) == (["SB", "E"], "E")


def test_without_a_model_it_says_what_makes_one_and_needs_no_restart(
    database_url: str, model_folder: Path, tmp_path: Path
) -> None:
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=tmp_path))) as client:
        answer = detect(client, png())
        assert "python train_model.py" in refused(answer, 503, "model_missing")
        assert int(answer.headers["retry-after"]) > 0
        assert "python train_model.py" in refused(client.get("/health/ready"), 503, "not_ready")
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/models").json() == []
        for path in sorted(model_folder.iterdir()):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        assert detect(client, png()).status_code == 200
        assert client.get("/health/ready").json() == {"status": "ready", "logged": "committed", "outbox": 0}


def test_a_database_that_was_never_set_up_says_what_sets_it_up(postgres_url: str, model_folder: Path) -> None:
    with TestClient(create_app(Settings(DATABASE_URL=postgres_url, models_dir=model_folder))) as client:
        assert "python setup_db.py" in refused(detect(client, png()), 503, "database_not_set_up")
        assert "python setup_db.py" in refused(client.get("/health/ready"), 503, "not_ready")


def test_a_database_that_is_away_costs_no_answer_and_tells_no_secret(model_folder: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=model_folder))) as client:
        answer, ready, history = detect(client, png()), client.get("/health/ready"), client.get("/predictions")
        assert (answer.status_code, answer.json()["logged"], answer.json()["id"]) == (200, "queued", None)
        assert ready.json() == {"status": "ready", "logged": "queued", "outbox": 1}
        assert "astrodetect_outbox_rows 1.0" in client.get("/metrics").text
        refused(history, 503, "database_unavailable")
        for said in (answer, ready, history):
            assert "hunter2" not in said.text
            assert "127.0.0.1" not in said.text


def test_the_openapi_document_shows_examples_and_declares_its_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    declared = {
        path: set(operation["responses"]) for path, at in document["paths"].items() for operation in at.values()
    }
    assert declared["/detect"] == {"200", "400", "403", "404", "408", "409", "413", "415", "422", "503"}
    schemas = document["components"]["schemas"]
    for name in ("PredictionResponse", "PredictionsResponse", "ModelResponse", "ErrorResponse"):
        assert schemas[name]["example"]
    assert schemas["PredictionResponse"]["example"].keys() == schemas["PredictionResponse"]["properties"].keys()


def test_the_docs_page_asks_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "//" not in re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    asked = re.findall(r"""(?:href|src|url)[=:]\s*["'](/[^"']+)""", page)
    assert len(asked) == 4
    for path in asked:
        assert client.get(path).status_code == 200


def test_the_service_imports_no_tensorflow() -> None:
    code = "import sys, main; print(*(name for name in ('tensorflow', 'keras') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
