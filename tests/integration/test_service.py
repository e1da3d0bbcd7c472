"""The HTTP API and its errors, with a real PostgreSQL and a real network."""

import errno
import hashlib
import io
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from error_responses import error_message
from PIL import Image
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.settings import Settings
from main import create_app


def png(size: tuple[int, int] = (64, 64), seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network as the default model."""
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "resnet50_model", ("SB", "E"))
    return folder


@pytest.fixture
def service_settings() -> dict[str, Any]:
    return {"max_body_bytes": 200_000}


def detect(client: TestClient, data: bytes, name: str = "m51.png") -> Any:
    return client.post("/detect", files={"file": (name, data)})


def test_detect_returns_the_recorded_row(client: TestClient, database_url: str) -> None:
    response = detect(client, png()).json()
    columns = "image_name, score, result, threshold, model, model_version, image_sha256"
    [row] = query(database_url, f"SELECT {columns} FROM predictions WHERE id = %s", response["id"])
    assert row == tuple(response[name] for name in columns.split(", "))
    assert response["image_name"] == "m51.png"
    assert response["result"] == ("Anomaly Detected" if response["score"] > 0.5 else "No Anomaly")
    assert response["image_sha256"] == hashlib.sha256(png()).hexdigest()
    assert list(response)[:2] == ["result", "score"]


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
def test_invalid_images_are_refused_with_their_status_and_no_row(
    client: TestClient, database_url: str, data: bytes, status: int, code: str
) -> None:
    error_message(detect(client, data), status, code)
    assert query(database_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_too_many_pixels_are_refused(database_url: str, models_dir: Path) -> None:
    settings = Settings(DATABASE_URL=database_url, models_dir=models_dir, max_image_pixels=10_000)
    with TestClient(create_app(settings)) as client:
        message = error_message(detect(client, png((101, 100))), 413, "image_too_many_pixels")
        assert "the limit is 10,000 pixels" in message
        assert detect(client, png((100, 100))).status_code == 200


def test_a_chunked_body_is_read_up_to_the_limit(client: TestClient) -> None:
    """Chunked, without a Content-Length; the limit is 200,000 bytes."""
    sent_bytes = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent_bytes
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while sent_bytes < 50_000_000:
            sent_bytes += 50_000
            yield b"\0" * 50_000

    response = client.post("/detect", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    error_message(response, 413, "body_too_large")


@pytest.mark.parametrize("path", ["/detect", "/similar", "/detect/batch", "/predictions/1/label"])
def test_forms_that_take_long_to_parse_are_refused(client: TestClient, path: str) -> None:
    """One without an image, and one whose Content-Type has thousands of parameters."""
    form = client.post(path, content=b"&" * 150_000, headers={"content-type": "application/x-www-form-urlencoded"})
    message = error_message(form, 413, "body_too_large")
    assert ("curl -F file=@x.jpg" in message) == (path != "/predictions/1/label")
    headers = {"content-type": "multipart/form-data; boundary=x" + ";" * 50_000}
    message = error_message(client.post(path, content=png(), headers=headers), 400, "bad_request")
    assert message == "the Content-Type has more than 1,000 characters"


def test_large_uploads_without_room_for_temporary_files_are_refused_for_now(
    start: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    client = start(max_body_bytes=2_000_000)
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    for path in ("/detect", "/detect/batch", "/detect-anomalies"):
        response = client.post(path, files={"file": ("a.png", bytes(1_500_000))})
        error_message(response, 503, "overloaded")
        assert response.headers["Retry-After"] == "5"


def test_a_form_without_the_file_is_refused_with_an_example(client: TestClient) -> None:
    assert "curl -F file=@" in error_message(client.post("/detect"), 422, "file_missing")
    assert "curl -F file=@" in error_message(client.post("/detect", data={"file": "text"}), 422, "file_missing")
    assert "curl -F file=@" in error_message(client.post("/detect", files={"image": b"x"}), 422, "file_missing")


@pytest.mark.parametrize("path", ["/detect", "/classify", "/similar"])
def test_a_form_of_several_images_is_refused_with_the_route_that_takes_them(client: TestClient, path: str) -> None:
    response = client.post(path, files=[("file", ("a.png", png(seed=seed))) for seed in (1, 2)])
    assert "/detect/batch" in error_message(response, 400, "bad_request")
    assert client.get("/predictions").json()["predictions"] == []


def test_broken_forms_and_unknown_paths_have_json_errors(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data"}
    error_message(client.post("/detect", content=b"x", headers=form), 400, "bad_request")
    error_message(client.get("/nowhere"), 404, "not_found")
    error_message(client.get("/detect"), 405, "method_not_allowed")


def test_json_of_very_many_fields_is_refused_unread_and_few_are_reported(client: TestClient) -> None:
    """Half a minute of the event loop and 2 GB of memory for 20 MB, before there was a limit for it alone."""
    path = f"/predictions/{detect(client, png()).json()['id']}/label"
    few, many = ({f"{n:05}": 0 for n in range(count)} for count in (1_000, 15_000))
    assert len(error_message(client.post(path, json=few), 422, "bad_arguments")) < 1_000
    error_message(client.post(path, json=many), 413, "body_too_large")


def test_the_header_of_an_image_is_not_read_on_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 MB of empty segments in a JPEG takes Pillow a second."""
    threads: list[str] = []

    def probe(_: bytes) -> images.Probe:
        threads.append(threading.current_thread().name)
        return images.Probe("PNG", 200, 200)

    monkeypatch.setattr(images, "probe", probe)
    assert detect(client, png((200, 200), seed=3)).status_code == 200
    assert threads == ["prober_0"]


def test_a_malicious_file_name_is_stored_as_text(client: TestClient) -> None:
    for name in ("../../etc/passwd", "<script>alert(1)</script>", "a\u202eb.png", "x" * 3_000, "a\x00b"):
        response = detect(client, png(), name)
        assert response.status_code == 200
        assert client.get(f"/predictions/{response.json()['id']}").json()["image_name"] == response.json()["image_name"]


def test_half_a_surrogate_pair_in_json_is_refused(client: TestClient) -> None:
    path = f"/predictions/{detect(client, png()).json()['id']}/label"
    for body in (rb'{"label": "\ud800"}', rb'{"label": "x", "note": "\ud800"}', rb'{"label": "x", "\ud800": 1}'):
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert "\ud800" not in response.text


def test_predictions_are_paged_newest_first_and_filtered(client: TestClient) -> None:
    ids = [detect(client, png(seed=seed), f"sky-{seed}.png").json()["id"] for seed in range(7)]
    ids_found, url = [], "/predictions?limit=3&name=SKY"
    while url:
        page = client.get(url).json()
        ids_found += [row["id"] for row in page["predictions"]]
        url = page["next"]
        assert url is None or url.startswith("/predictions?")
    assert ids_found == ids[::-1]
    ids_found, url = [], f"/predictions?limit=3&name=SKY&after={ids[0]}"
    while url:
        page = client.get(url).json()
        ids_found += [row["id"] for row in reversed(page["predictions"])]
        if not page["previous"]:
            assert client.get(page["next"]).json()["predictions"][0]["id"] == ids[3]
        url = page["previous"]
        assert url is None or url.startswith("/predictions?limit=3&name=SKY&after=")
    assert ids_found == ids[1:]
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


def test_a_prediction_is_read_by_id(client: TestClient) -> None:
    response = detect(client, png()).json()
    assert client.get(f"/predictions/{response['id']}").json() == response
    error_message(client.get("/predictions/999999"), 404, "not_found")
    for wrong in ("0", "-1", "x", str(2**63)):
        error_message(client.get(f"/predictions/{wrong}"), 422, "bad_arguments")


def test_an_idempotency_key_gives_one_row_and_one_response(client: TestClient, database_url: str) -> None:
    def post_with_key(data: bytes, name: str = "m51.png") -> Any:
        return client.post("/detect", files={"file": (name, data)}, headers={"Idempotency-Key": "night-7/m51"})

    first, again = post_with_key(png()), post_with_key(png(), "renamed.png")
    assert first.status_code == 200
    assert first.json() == again.json()
    error_message(post_with_key(png(seed=1)), 409, "idempotency_key_conflict")
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]
    assert client.get("/predictions", params={"request_id": first.json()["request_id"]}).json()["predictions"] == [
        first.json()
    ]
    error_message(
        client.post("/detect", files={"file": ("a", png())}, headers={"Idempotency-Key": ""}), 422, "bad_arguments"
    )


def test_metrics_count_requests_and_stages(client: TestClient) -> None:
    detect(client, png())
    detect(client, b"<html>")
    client.get("/predictions/7/nowhere")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    metrics = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    for stage in ("read", "decode", "queue", "inference", "commit"):
        assert float(metrics[f'astrodetect_stage_seconds_count{{stage="{stage}"}}']) == 1
    assert metrics['astrodetect_requests_total{route="/detect",status="200"}'] == "1.0"
    assert metrics['astrodetect_requests_total{route="/detect",status="415"}'] == "1.0"
    assert metrics['astrodetect_requests_total{route="other",status="404"}'] == "1.0"
    assert metrics['astrodetect_rows_total{logged="committed"}'] == "1.0"
    assert metrics["astrodetect_batch_images_sum"] == "1.0"
    assert {metrics[f"astrodetect_{name}"] for name in ("outbox_rows", "queue_length", "images_at_work")} == {"0.0"}


def test_every_request_is_logged_as_one_line_of_json(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "astrodetect.requests"):
        response = detect(client, png()).json()
        client.get("/nowhere%0Ainjected")
    first, second = (json.loads(line) for line in caplog.messages)
    assert first.items() >= {"event": "request", "method": "POST", "path": "/detect", "status": 200}.items()
    assert (first["request_id"], first["logged"]) == (response["request_id"], "committed")
    assert {"read_ms", "decode_ms", "queue_ms", "inference_ms", "commit_ms"} <= first.keys()
    assert sum(first[name] for name in first if name.endswith("_ms")) < first["ms"] + 1
    assert second["status"] == 404


def test_models_marks_the_default_model(client: TestClient) -> None:
    [model] = client.get("/models").json()
    response = detect(client, png()).json()
    assert model["serving"]
    assert (model["name"], model["version"]) == (response["model"], response["model_version"])
    assert (model["classes"], model["positive"]) == (["SB", "E"], "E")


def test_a_missing_model_is_reported_and_served_once_trained(
    database_url: str, models_dir: Path, tmp_path: Path
) -> None:
    with TestClient(create_app(Settings(DATABASE_URL=database_url, models_dir=tmp_path))) as client:
        response = detect(client, png())
        assert "python train_model.py" in error_message(response, 503, "model_missing")
        assert int(response.headers["retry-after"]) > 0
        assert "python train_model.py" in error_message(client.get("/health/ready"), 503, "not_ready")
        assert client.get("/health/live").json() == {"status": "live"}
        assert client.get("/models").json() == []
        for path in sorted(models_dir.iterdir()):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        assert detect(client, png()).status_code == 200
        ready = {"status": "ready", "logged": "committed", "outbox": 0, "rejected": 0}
        assert client.get("/health/ready").json() == ready


@pytest.mark.parametrize("damaged", ["resnet50_model.json", "resnet50_model.bin"])
def test_the_error_of_a_damaged_model_says_neither_its_folder_nor_its_traceback(
    start: Any, models_dir: Path, tmp_path: Path, damaged: str
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    client = start(models_dir=folder)
    for path in models_dir.glob("resnet50_model*"):
        (folder / path.name).write_bytes(b"{}" if path.name == damaged else path.read_bytes())
    for response, code in ((detect(client, png()), "model_invalid"), (client.get("/health/ready"), "not_ready")):
        assert damaged in error_message(response, 503, code)
        assert str(folder) not in response.text


def test_a_background_thread_that_has_ended_is_not_ready(client: TestClient) -> None:
    services = client.app.state.services  # type: ignore[attr-defined]
    assert "arrival-matcher" in {thread.name for thread in services.background_threads}
    thread = threading.Thread(name="ended-thread")
    client.app.state.services = replace(services, background_threads=[thread])  # type: ignore[attr-defined]
    assert "ended-thread" in error_message(client.get("/health/ready"), 503, "not_ready")
    client.app.state.services = services  # type: ignore[attr-defined]
    assert client.get("/health/ready").status_code == 200
    assert "astrodetect_ended_threads 0.0" in client.get("/metrics").text


def test_a_database_without_tables_is_reported_with_the_command_that_sets_it_up(
    postgres_url: str, models_dir: Path
) -> None:
    with TestClient(create_app(Settings(DATABASE_URL=postgres_url, models_dir=models_dir))) as client:
        assert "python setup_db.py" in error_message(detect(client, png()), 503, "database_not_set_up")
        assert "python setup_db.py" in error_message(client.get("/health/ready"), 503, "not_ready")


def test_predictions_are_queued_while_the_database_is_down_and_errors_have_no_secrets(
    models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=models_dir))) as client:
        response, ready, predictions = detect(client, png()), client.get("/health/ready"), client.get("/predictions")
        assert (response.status_code, response.json()["logged"], response.json()["id"]) == (200, "queued", None)
        assert ready.json() == {"status": "ready", "logged": "queued", "outbox": 1, "rejected": 0}
        assert "astrodetect_outbox_rows 1.0" in client.get("/metrics").text
        error_message(predictions, 503, "database_unavailable")
        for each in (response, ready, predictions):
            assert "hunter2" not in each.text
            assert "127.0.0.1" not in each.text
        caplog.clear()
        assert {client.get(f"/predictions/{id_}").status_code for id_ in range(1, 9)} == {503}
        assert detect(client, png(seed=1)).json()["logged"] == "queued"
        logged = [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname == "ERROR"]
        assert len(logged) <= 1, caplog.text  # the same error is not logged for each request
