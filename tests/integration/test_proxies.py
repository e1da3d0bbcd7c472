"""Behind a reverse proxy: whose X-Forwarded headers and X-Request-ID are believed, and what follows from them."""

import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import colour_models
import httpx2
import pytest
from programs import Service, query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.service import training_jobs

IMAGE, OTHER = (images.encode_png(colour_models.image("nebula", seed)) for seed in range(2))
ID = "0b1f9d1c-7a57-4c6e-9d0c-0a3f5f4f2c11"
FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Request-ID": ID}

Start = Callable[..., TestClient]


@pytest.fixture
def trusted(client: TestClient) -> TestClient:
    """A client whose address uvicorn took from the X-Forwarded-For of a trusted proxy: it has no port."""
    return through_proxy(client)


def through_proxy(client: TestClient) -> TestClient:
    other = TestClient(client.app, client=("203.0.113.9", 0))
    other.portal = client.portal  # the event loop that the service was started in
    return other


def detect(client: TestClient, data: bytes = IMAGE, *, id: str = ID, **headers: str) -> Any:  # noqa: A002
    return client.post("/detect", files={"file": ("sky.png", data)}, headers={"X-Request-ID": id} | headers)


def test_the_id_of_a_trusted_proxy_is_that_of_the_row_the_response_and_the_log_line(
    trusted: TestClient, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "astrodetect.requests"):
        response = detect(trusted)
    assert response.headers["x-request-id"] == response.json()["request_id"] == ID
    assert query(database_url, "SELECT request_id::text FROM predictions") == [(ID,)]
    assert f'"request_id": "{ID}"' in caplog.text
    assert trusted.get("/nothing", headers={"X-Request-ID": ID.replace("-", "")}).headers["x-request-id"] == ID


def test_a_request_that_a_proxy_repeats_has_one_row_and_the_same_response(
    trusted: TestClient, start: Start, database_url: str, tmp_path: Path
) -> None:
    another = through_proxy(start(data_dir=tmp_path / "another"))
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda number: detect((trusted, another)[number % 2]), range(8)))
    assert {response.text for response in responses} == {responses[0].text}
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]
    conflict = detect(trusted, OTHER)
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "idempotency_key_conflict")
    keyed = detect(trusted, OTHER, **{"Idempotency-Key": "k"})
    assert keyed.status_code == 200
    assert keyed.headers["x-request-id"] == ID != keyed.json()["request_id"]


@pytest.mark.parametrize("text", ["", "1", "x" * 36, f"{ID}\t{ID}", "0b1f9d1c-7a57-4c6e-9d0c-0a3f5f4f2c1g"])
def test_an_invalid_id_is_replaced(trusted: TestClient, text: str) -> None:
    response = detect(trusted, id=text)
    assert response.status_code == 200
    assert uuid.UUID(response.headers["x-request-id"]).version == 4


def test_no_forwarded_header_of_other_addresses_is_believed(
    database_url: str, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By real connections: the rule is uvicorn's, from --forwarded-allow-ips."""
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models_dir)}
    form = {"files": {"file": ("sky.png", IMAGE)}, "headers": FORWARDED}
    with (
        Service(log=tmp_path / "trusting", environment=environment) as trusting,
        Service(log=tmp_path / "other", environment=environment | {"FORWARDED_ALLOW_IPS": "192.0.2.1"}) as other,
    ):
        for service in (trusting, other):
            service.wait_until(service.ready)
        assert httpx2.post(f"{trusting.url}/detect", **form).json()["request_id"] == ID  # type: ignore[arg-type]
        assert httpx2.post(f"{other.url}/detect", **form).json()["request_id"] != ID  # type: ignore[arg-type]
        for service in (trusting, other):  # without X-Forwarded-For it is a client's own header
            answer = httpx2.get(f"{service.url}/health/live", headers={"X-Request-ID": ID})
            assert answer.headers["x-request-id"] != ID
        trusting.wait_until(lambda: '"client": "203.0.113.9"' in trusting.output)
        assert "203.0.113.9" not in other.output


@pytest.mark.parametrize(("scheme", "secure"), [("https", True), ("http", False)])
def test_the_cookie_of_the_key_is_secure_where_the_client_uses_https(start: Start, scheme: str, secure: bool) -> None:
    app = start(api_key="secret").app
    response = TestClient(app, base_url=f"{scheme}://sky.example", follow_redirects=False).post(
        "/key", data={"key": "secret", "to": "/history"}
    )
    assert ("secure" in response.headers["set-cookie"].lower()) == secure
    assert response.headers["location"] == "/history"  # relative: whatever name the proxy has


def test_trainings_are_not_started_through_a_proxy_on_the_same_machine(client: TestClient) -> None:
    local = TestClient(client.app, base_url="http://localhost", client=("127.0.0.1", 50_000))
    refusal = "Trainings are started in a browser on the machine of the service"
    assert refusal not in local.get("/models-page/train").text
    for header in training_jobs.FORWARDING_HEADERS:
        assert refusal in local.get("/models-page/train", headers={header: "127.0.0.1"}).text
