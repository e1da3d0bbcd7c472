"""POST /detect-anomalies: the novelty of images by URL or upload, in order, each with its row."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import colour_models
import numpy as np
import pytest
from blob_galaxies import SIDE, blob_galaxy
from error_responses import error_message
from malicious_server import MaliciousServer, png
from programs import Service, query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.records import ImageContract
from astrodetect.service.anomaly_detection import FETCHES_IN_FLIGHT, loss_and_flag
from astrodetect.sky.votable import MEDIA_TYPE as VOTABLE

KEY = "correct horse battery staple"
CONTRACT = ImageContract(size=colour_models.SIZE)
Start = Callable[..., TestClient]
ANOTHER_MODEL = b'{"image_paths": ["http://example.org/"], "model": "colours"}'  # it is of the query


@pytest.fixture(scope="session")
def models_dir(noise_models_dir: Path) -> Path:
    return noise_models_dir


@pytest.fixture
def host() -> Iterator[MaliciousServer]:
    with MaliciousServer() as host:
        yield host


@pytest.fixture
def service_settings(host: MaliciousServer) -> dict[str, Any]:
    """Fetches from the malicious host are allowed."""
    return {"fetch_allow": f"127.0.0.1:{host.port}", "max_body_bytes": 100_000}


def post_urls(client: TestClient, urls: object, **options: Any) -> Any:
    return client.post("/detect-anomalies", json={"image_paths": urls}, **options)


def post_files(client: TestClient, files: list[tuple[str, bytes]]) -> Any:
    return client.post("/detect-anomalies", files=[("file", file) for file in files])


def test_each_url_has_a_result_in_order_and_a_row(client: TestClient, host: MaliciousServer, database_url: str) -> None:
    urls = [f"{host.url}/sky.png?seed={seed}" for seed in range(20)]
    results = post_urls(client, urls).json()
    assert [result["filename"] for result in results] == urls
    rows = query(database_url, "SELECT id, image_name, novelty FROM predictions ORDER BY id")
    assert sorted((result["id"], result["filename"], pytest.approx(result["novelty"])) for result in results) == rows
    for result in results:
        assert result.keys() == {"filename", "loss", "anomaly", "novelty", "id", "logged", "request_id"}
        assert result["anomaly"] is (result["novelty"] >= 0.99)
        assert client.get(f"/predictions/{result['id']}").json()["request_id"] == result["request_id"]


def test_an_image_has_the_same_novelty_by_url_by_upload_and_alone(client: TestClient, host: MaliciousServer) -> None:
    by_url = post_urls(client, [f"{host.url}/sky.png?seed={seed}" for seed in range(6)]).json()
    by_upload = post_files(client, [(f"{seed}.png", png(seed)) for seed in range(6)]).json()
    assert [result["filename"] for result in by_upload] == [f"{seed}.png" for seed in range(6)]
    for result, other in zip(by_url, by_upload, strict=True):
        assert other["loss"] == pytest.approx(result["loss"], rel=1e-4)
        assert other["novelty"] == result["novelty"]
    [alone] = post_files(client, [("alone.png", png(3))]).json()
    assert alone["loss"] == pytest.approx(by_upload[3]["loss"], rel=1e-4)
    assert client.post("/detect", files={"file": png(3)}).json()["novelty"] == alone["novelty"]


def test_an_image_unlike_the_training_images_is_an_anomaly(client: TestClient) -> None:
    galaxy = images.encode_thumbnail(blob_galaxy(np.random.default_rng(0)), SIDE)  # among images of noise
    usual, odd = post_files(client, [("usual.png", png(100)), ("odd.jpg", galaxy)]).json()
    assert (usual["anomaly"], odd["anomaly"]) == (False, True)
    assert odd["loss"] > usual["loss"]
    assert odd["novelty"] == 1


def test_a_url_that_fails_has_an_error_in_its_place(
    client: TestClient, host: MaliciousServer, database_url: str
) -> None:
    bad = {
        "http://169.254.169.254/latest/meta-data": "host_not_public",
        f"{host.url}/to?url=http://10.0.0.1/": "host_not_public",
        "file:///etc/passwd": "fetch_refused",
        f"{host.url}/missing": "fetch_failed",
        f"{host.url}/endless": "fetch_too_large",
        f"{host.url}/huge": "fetch_too_large",
        f"{host.url}/bomb.png": "image_too_many_pixels",
        f"{host.url}/zipped-file": "image_unsupported",
    }
    good = f"{host.url}/sky.png"
    results = post_urls(client, [good, *bad, good]).json()
    assert [result["filename"] for result in results] == [good, *bad, good]
    assert [result.get("error", {}).get("code") for result in results] == [None, *bad.values(), None]
    assert all(result.keys() == {"filename", "error"} for result in results[1:-1])
    assert "10.0.0.1" not in results[2]["error"]["message"]
    assert query(database_url, "SELECT image_name FROM predictions") == [(good,)] * 2


def test_an_upload_that_fails_has_an_error_in_its_place(client: TestClient) -> None:
    results = post_files(
        client, [("a", png(1)), ("b", b"<html>"), ("c", b""), ("d", b"\0" * 200_000), ("e", png(2))]
    ).json()
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [None, "image_unsupported", "image_empty", "body_too_large", None]


def test_a_slow_host_times_out(start: Start, host: MaliciousServer) -> None:
    client = start(fetch_timeout_s=0.3)
    results = post_urls(client, [f"{host.url}/silent", f"{host.url}/drip", f"{host.url}/sky.png"]).json()
    assert [result.get("error", {}).get("code") for result in results] == ["fetch_too_slow", "fetch_too_slow", None]


def test_few_images_of_a_request_are_fetched_at_a_time(client: TestClient, host: MaliciousServer) -> None:
    responses: list[Any] = []
    caller = Thread(
        target=lambda: responses.append(post_urls(client, [f"{host.url}/held"] * 3 * FETCHES_IN_FLIGHT).json())
    )
    caller.start()
    while host.requests["/held"] < FETCHES_IN_FLIGHT:
        sleep(0.01)
    sleep(0.3)  # time for more requests
    held = host.requests["/held"]
    host.release.set()
    caller.join()
    assert held == FETCHES_IN_FLIGHT
    assert [result["filename"] for result in responses[0]] == [f"{host.url}/held"] * 3 * FETCHES_IN_FLIGHT
    assert not any("error" in result for result in responses[0])


def test_fetches_are_cancelled_when_the_client_disconnects(
    database_url: str, models_dir: Path, host: MaliciousServer, tmp_path: Path
) -> None:
    """The fetch timeout is ten minutes; the host waits until its connections are closed."""
    environment = {
        "DATABASE_URL": database_url,
        "ASTRODETECT_MODELS_DIR": str(models_dir),
        "ASTRODETECT_FETCH_ALLOW": f"127.0.0.1:{host.port}",
        "ASTRODETECT_FETCH_TIMEOUT_S": "600",
    }
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        body = json.dumps({"image_paths": [f"{host.url}/silent"] * 9}).encode()
        head = f"POST /detect-anomalies HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as line:
            line.sendall(head.encode() + body)
            service.wait_until(lambda: host.requests["/silent"] == FETCHES_IN_FLIGHT)
        service.wait_until(lambda: '"status": 499' in service.output)
        host.stop()
        assert host.requests["/silent"] == FETCHES_IN_FLIGHT


def test_an_invalid_request_is_refused_as_a_whole(start: Start) -> None:
    client = start(max_anomaly_images=3)
    error_message(post_urls(client, []), 400, "bad_request")
    assert "more than 3 images" in error_message(post_urls(client, ["http://example.org/"] * 4), 400, "bad_request")
    error_message(post_files(client, [(str(seed), png(seed)) for seed in range(4)]), 400, "bad_request")
    error_message(client.post("/detect-anomalies", data={"file": "text"}, files={}), 422, "bad_arguments")
    form = {"content-type": "multipart/form-data; boundary=x"}
    error_message(client.post("/detect-anomalies", content=b"--x--\r\n", headers=form), 400, "bad_request")
    error_message(client.post("/detect-anomalies", content=b"no form", headers=form), 400, "bad_request")
    for wrong in (
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"image_paths": "http://example.org/"}',
        b'{"image_paths": [1, 2]}',
        ANOTHER_MODEL,
    ):
        error_message(client.post("/detect-anomalies", content=wrong), 422, "bad_arguments")
    error_message(client.post("/detect-anomalies", content=b"[" * 100_000), 422, "bad_arguments")
    many = client.post("/detect-anomalies", content=b'{"image_paths": [' + b"1," * 40_000 + b"1]}")
    assert len(error_message(many, 422, "bad_arguments")) < 200
    error_message(client.post("/detect-anomalies", content=b" " * 200_000), 413, "body_too_large")


def test_a_model_without_detectors_is_refused_with_the_command_that_attaches_them(
    client: TestClient, host: MaliciousServer
) -> None:
    message = error_message(post_urls(client, [f"{host.url}/sky.png"], params={"model": "plain"}), 422, "model_unfit")
    assert "python -m astrodetect anomalies NORMAL --attach plain" in message
    error_message(post_urls(client, [f"{host.url}/sky.png"], params={"model": "nowhere"}), 404, "model_unknown")
    assert not host.requests


def test_with_an_autoencoder_loss_and_flag_are_those_of_the_study() -> None:
    """Its loss, and whether all detectors call the image an anomaly."""

    def novelty_result(novelty: float, **flagged: bool) -> NoveltyResult:
        ones = np.ones(1, np.float32)
        scores = {name: ones * number for number, name in enumerate(flagged, 1)}
        return NoveltyResult(
            ones * novelty,
            ones * 7,
            ones,
            ones,
            ones[None],
            scores,
            {name: np.array([flag]) for name, flag in flagged.items()},
            np.zeros(1, np.int8),
        )

    assert loss_and_flag(novelty_result(0.5, kmeans=True, dbscan=True, autoencoder=True)) == (3, True)
    assert loss_and_flag(novelty_result(1.0, kmeans=True, dbscan=False, autoencoder=True)) == (3, False)
    assert loss_and_flag(novelty_result(0.995, lof=False)) == (7, True)
    assert loss_and_flag(novelty_result(0.985, lof=True)) == (7, False)


def test_with_api_keys_set_posting_needs_one_and_reading_does_not(
    start: Start, host: MaliciousServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(api_key=f"{KEY}, another one")
    url = f"{host.url}/sky.png"
    with caplog.at_level("DEBUG"):
        for headers in (
            {}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY}, another one"},
        ):  # fmt: skip
            response = post_urls(client, [url], headers=headers)
            assert KEY not in error_message(response, 401, "key_refused")
            assert response.headers["www-authenticate"] == "Bearer"
        error_message(client.post("/detect", files={"file": png()}), 401, "key_refused")
        error_message(client.post("/nowhere"), 401, "key_refused")
        assert not host.requests
        for key in (KEY, "another one"):
            [result] = post_urls(client, [url], headers={"Authorization": f"Bearer {key}"}).json()
            assert "error" not in result
    assert client.get(f"/predictions/{result['id']}").status_code == 200
    assert client.get("/health/ready").status_code == 200
    assert KEY not in caplog.text
    assert "another one" not in caplog.text


def test_the_body_of_a_request_with_a_wrong_key_is_not_read(start: Start) -> None:
    client = start(api_key=KEY)
    sent_bytes = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent_bytes
        while sent_bytes < 10_000_000:
            sent_bytes += 65_536
            yield b"\0" * 65_536

    error_message(client.post("/detect-anomalies", content=endless()), 401, "key_refused")
    assert sent_bytes <= 65_536


def test_cross_site_requests_are_refused(client: TestClient) -> None:
    for path in ("/detect", "/detect/batch", "/detect-anomalies"):
        error_message(client.post(path, headers={"Sec-Fetch-Site": "cross-site"}), 403, "cross_site")
    for site in ("same-origin", "same-site", "none"):
        response = client.post("/detect", files={"file": png()}, headers={"Sec-Fetch-Site": site})
        assert response.status_code == 200
    assert client.get("/predictions", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_the_openapi_document_declares_bodies_and_keys(start: Start) -> None:
    plain, keyed = (start(**chosen).get("/openapi.json").json() for chosen in ({}, {"api_key": KEY}))
    operation = plain["paths"]["/detect-anomalies"]["post"]
    assert operation["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}
    assert operation["responses"].keys() == {"200", "400", "403", "404", "408", "413", "422", "503"}
    assert "security" not in json.dumps(plain)
    for path, operations in keyed["paths"].items():
        for method, operation in operations.items():
            assert (
                ("security" in operation) == ("401" in operation["responses"]) == (method in {"post", "put", "delete"})
            ), path
    private = start(api_key=KEY, private=True).get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"}).json()
    for path, operations in private["paths"].items():
        for operation in operations.values():
            if "security" in operation:
                assert {"401", "403", "429", "503"} <= operation["responses"].keys(), path
    assert private["paths"]["/scs"]["get"]["responses"]["503"]["content"].keys() == {VOTABLE, "application/json"}
    [name] = keyed["components"]["securitySchemes"]
    assert keyed["paths"]["/detect"]["post"]["security"] == [{name: []}]
