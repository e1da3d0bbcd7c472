"""POST /detect-anomalies: how unusual images are, by URL or by upload, in order, each with its row."""

import gc
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import colour_models
import numpy as np
import pytest
from malicious_server import MaliciousServer, png
from programs import Service, query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.records import ImageContract
from astrodetect.service.anomaly_detection import FETCHES_IN_FLIGHT, loss_and_flag
from astrodetect.settings import Settings
from main import create_app

KEY = "correct horse battery staple"
CONTRACT = ImageContract(size=colour_models.SIZE)
Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with detectors of what is unusual among plain images, and one without."""
    folder = tmp_path_factory.mktemp("models")
    usual = np.stack([images.decode(png(seed), CONTRACT) for seed in range(100, 160)])
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, "resnet50_model", usual)
    colour_models.publish(folder, "plain", colour_models.TWO_CLASSES)
    return folder


@pytest.fixture
def host() -> Iterator[MaliciousServer]:
    with MaliciousServer() as host:
        yield host


@pytest.fixture
def start(database_url: str, folder: Path, host: MaliciousServer) -> Iterator[Start]:
    """A service that may ask the hostile host, with settings of choice."""
    with ExitStack() as stack:

        def start_one(**chosen: Any) -> TestClient:
            allow = f"127.0.0.1:{host.port}"
            settings = Settings(
                **{"models_dir": folder, "fetch_allow": allow, "max_body_bytes": 100_000, **chosen},
                DATABASE_URL=database_url,
            )
            return stack.enter_context(TestClient(create_app(settings), raise_server_exceptions=False))

        yield start_one
    gc.collect()  # an app is a ring of references, and each holds a network


@pytest.fixture
def client(start: Start) -> TestClient:
    return start()


def asked(client: TestClient, urls: object, **how: Any) -> Any:
    return client.post("/detect-anomalies", json={"image_paths": urls}, **how)


def sent(client: TestClient, files: list[tuple[str, bytes]]) -> Any:
    return client.post("/detect-anomalies", files=[("file", file) for file in files])


def refused(answer: Any, status: int, code: str) -> str:
    """The message of an error, in the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"]["code"] == code
    message: str = answer.json()["error"]["message"]
    assert message
    assert "\n" not in message
    return message


def test_each_url_has_its_answer_in_order_and_its_row(
    client: TestClient, host: MaliciousServer, database_url: str
) -> None:
    urls = [f"{host.url}/sky.png?seed={seed}" for seed in range(20)]
    found = asked(client, urls).json()
    assert [one["filename"] for one in found] == urls
    rows = query(database_url, "SELECT id, image_name, novelty FROM predictions ORDER BY id")
    assert sorted((one["id"], one["filename"], pytest.approx(one["novelty"])) for one in found) == rows
    for one in found:
        assert one.keys() == {"filename", "loss", "anomaly", "novelty", "id", "logged", "request_id"}
        assert one["anomaly"] is (one["novelty"] >= 0.99)
        assert client.get(f"/predictions/{one['id']}").json()["request_id"] == one["request_id"]


def test_an_upload_and_a_url_of_the_same_image_are_as_unusual_and_one_alone_too(
    client: TestClient, host: MaliciousServer
) -> None:
    by_url = asked(client, [f"{host.url}/sky.png?seed={seed}" for seed in range(6)]).json()
    by_upload = sent(client, [(f"{seed}.png", png(seed)) for seed in range(6)]).json()
    assert [one["filename"] for one in by_upload] == [f"{seed}.png" for seed in range(6)]
    for one, other in zip(by_url, by_upload, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["novelty"] == one["novelty"]
    [alone] = sent(client, [("alone.png", png(3))]).json()
    assert alone["loss"] == pytest.approx(by_upload[3]["loss"], rel=1e-4)
    assert client.post("/detect", files={"file": png(3)}).json()["novelty"] == alone["novelty"]


def test_what_is_unlike_all_that_was_learnt_from_is_an_anomaly(client: TestClient) -> None:
    smooth = images.encode_thumbnail(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8), 64)
    usual, odd = sent(client, [("usual.png", png(100)), ("odd.jpg", smooth)]).json()
    assert (usual["anomaly"], odd["anomaly"]) == (False, True)
    assert odd["loss"] > usual["loss"]
    assert odd["novelty"] == 1


def test_an_image_that_fails_has_its_error_in_its_place_and_harms_no_other(
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
    found = asked(client, [good, *bad, good]).json()
    assert [one["filename"] for one in found] == [good, *bad, good]
    assert [one.get("error", {}).get("code") for one in found] == [None, *bad.values(), None]
    assert all(one.keys() == {"filename", "error"} for one in found[1:-1])
    assert "10.0.0.1" not in found[2]["error"]["message"]
    assert query(database_url, "SELECT image_name FROM predictions") == [(good,)] * 2


def test_uploads_that_fail_do_so_alone(client: TestClient) -> None:
    found = sent(client, [("a", png(1)), ("b", b"<html>"), ("c", b""), ("d", b"\0" * 200_000), ("e", png(2))]).json()
    codes = [one.get("error", {}).get("code") for one in found]
    assert codes == [None, "image_unsupported", "image_empty", "body_too_large", None]


def test_a_slow_host_is_given_up(start: Start, host: MaliciousServer) -> None:
    client = start(fetch_timeout_s=0.3)
    found = asked(client, [f"{host.url}/silent", f"{host.url}/drip", f"{host.url}/sky.png"]).json()
    assert [one.get("error", {}).get("code") for one in found] == ["fetch_too_slow", "fetch_too_slow", None]


def test_only_a_few_images_of_a_request_are_fetched_at_a_time(client: TestClient, host: MaliciousServer) -> None:
    answers: list[Any] = []
    caller = Thread(target=lambda: answers.append(asked(client, [f"{host.url}/held"] * 3 * FETCHES_IN_FLIGHT).json()))
    caller.start()
    while host.asked["/held"] < FETCHES_IN_FLIGHT:
        sleep(0.01)
    sleep(0.3)  # for more to come, if any would
    held = host.asked["/held"]
    host.release.set()
    caller.join()
    assert held == FETCHES_IN_FLIGHT
    assert [one["filename"] for one in answers[0]] == [f"{host.url}/held"] * 3 * FETCHES_IN_FLIGHT
    assert not any("error" in one for one in answers[0])


def test_who_leaves_takes_what_is_fetched_along(
    database_url: str, folder: Path, host: MaliciousServer, tmp_path: Path
) -> None:
    """The service itself would hold on for ten minutes; the host's end waits until nobody does."""
    environment = {
        "DATABASE_URL": database_url,
        "ASTRODETECT_MODELS_DIR": str(folder),
        "ASTRODETECT_FETCH_ALLOW": f"127.0.0.1:{host.port}",
        "ASTRODETECT_FETCH_TIMEOUT_S": "600",
    }
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        body = json.dumps({"image_paths": [f"{host.url}/silent"] * 9}).encode()
        head = f"POST /detect-anomalies HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", service.port)) as line:
            line.sendall(head.encode() + body)
            service.wait_until(lambda: host.asked["/silent"] == FETCHES_IN_FLIGHT)
        service.wait_until(lambda: '"status": 499' in service.output)
        host.stop()
        assert host.asked["/silent"] == FETCHES_IN_FLIGHT


def test_what_is_wrong_with_the_whole_request_is_its_answer(start: Start) -> None:
    client = start(max_anomaly_images=3)
    refused(asked(client, []), 400, "bad_request")
    assert "more than 3 images" in refused(asked(client, ["http://example.org/"] * 4), 400, "bad_request")
    refused(sent(client, [(str(seed), png(seed)) for seed in range(4)]), 400, "bad_request")
    refused(client.post("/detect-anomalies", data={"file": "text"}, files={}), 422, "bad_arguments")
    form = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post("/detect-anomalies", content=b"--x--\r\n", headers=form), 400, "bad_request")
    refused(client.post("/detect-anomalies", content=b"no form", headers=form), 400, "bad_request")
    for wrong in (b"", b"no JSON", b"[]", b"{}", b'{"image_paths": "http://example.org/"}', b'{"image_paths": [1, 2]}'):
        refused(client.post("/detect-anomalies", content=wrong), 422, "bad_arguments")
    refused(client.post("/detect-anomalies", content=b"[" * 100_000), 422, "bad_arguments")
    many = client.post("/detect-anomalies", content=b'{"image_paths": [' + b"1," * 1_000_000 + b"1]}")
    assert len(refused(many, 422, "bad_arguments")) < 200
    refused(client.post("/detect-anomalies", content=b" " * 5_000_000), 413, "body_too_large")


def test_a_model_without_detectors_says_how_it_gets_some(client: TestClient, host: MaliciousServer) -> None:
    message = refused(asked(client, [f"{host.url}/sky.png"], params={"model": "plain"}), 422, "model_unfit")
    assert "python -m astrodetect anomalies NORMAL --attach plain" in message
    refused(asked(client, [f"{host.url}/sky.png"], params={"model": "nowhere"}), 404, "model_unknown")
    assert not host.asked


def test_with_the_autoencoder_the_answer_is_the_studys() -> None:
    """Its loss, and whether all detectors agree."""

    def looked(novelty: float, **flagged: bool) -> NoveltyResult:
        one = np.ones(1, np.float32)
        scores = {name: one * number for number, name in enumerate(flagged, 1)}
        return NoveltyResult(
            one * novelty, one * 7, one[None], scores, {name: np.array([said]) for name, said in flagged.items()}
        )

    assert loss_and_flag(looked(0.5, kmeans=True, dbscan=True, autoencoder=True)) == (3, True)
    assert loss_and_flag(looked(1.0, kmeans=True, dbscan=False, autoencoder=True)) == (3, False)
    assert loss_and_flag(looked(0.995, lof=False)) == (7, True)
    assert loss_and_flag(looked(0.985, lof=True)) == (7, False)


def test_where_keys_are_set_sending_needs_one_and_reading_does_not(
    start: Start, host: MaliciousServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(api_key=f"{KEY}, another one")
    url = f"{host.url}/sky.png"
    with caplog.at_level("DEBUG"):
        for headers in (
            {}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"},
            {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Bearer {KEY}, another one"},
        ):  # fmt: skip
            answer = asked(client, [url], headers=headers)
            assert KEY not in refused(answer, 401, "key_refused")
            assert answer.headers["www-authenticate"] == "Bearer"
        refused(client.post("/detect", files={"file": png()}), 401, "key_refused")
        refused(client.post("/nowhere"), 401, "key_refused")
        assert not host.asked
        for key in (KEY, "another one"):
            [one] = asked(client, [url], headers={"Authorization": f"Bearer {key}"}).json()
            assert "error" not in one
    assert client.get(f"/predictions/{one['id']}").status_code == 200
    assert client.get("/health/ready").status_code == 200
    assert KEY not in caplog.text
    assert "another one" not in caplog.text


def test_a_refused_key_costs_no_reading(start: Start) -> None:
    client = start(api_key=KEY)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while taken < 10_000_000:
            taken += 65_536
            yield b"\0" * 65_536

    refused(client.post("/detect-anomalies", content=endless()), 401, "key_refused")
    assert taken <= 65_536


def test_no_page_of_another_site_has_a_browser_send(client: TestClient) -> None:
    for path in ("/detect", "/detect/batch", "/detect-anomalies"):
        refused(client.post(path, headers={"Sec-Fetch-Site": "cross-site"}), 403, "cross_site")
    for site in ("same-origin", "same-site", "none"):
        answer = client.post("/detect", files={"file": png()}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 200
    assert client.get("/predictions", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_the_openapi_document_says_what_is_sent_and_who_may(start: Start) -> None:
    plain, keyed = (start(**chosen).get("/openapi.json").json() for chosen in ({}, {"api_key": KEY}))
    posted = plain["paths"]["/detect-anomalies"]["post"]
    assert posted["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}
    assert posted["responses"].keys() == {"200", "400", "403", "404", "408", "413", "422", "503"}
    assert "security" not in json.dumps(plain)
    for path, at in keyed["paths"].items():
        for method, operation in at.items():
            assert ("security" in operation) == ("401" in operation["responses"]) == (method in {"post", "delete"}), (
                path
            )
    [name] = keyed["components"]["securitySchemes"]
    assert keyed["paths"]["/detect"]["post"]["security"] == [{name: []}]
