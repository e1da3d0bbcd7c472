"""A service whose models are on an object store notices what others publish there, and serves while it is away."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import colour_models
import pytest
from s3_server import S3Server
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.errors import DataError
from astrodetect.service import model_mirror
from astrodetect.service.training_jobs import check_images
from astrodetect.settings import MIRRORS
from astrodetect.storage import clients

NAME = "resnet50_model"
NOTICED_WITHIN_S = 10.0


@pytest.fixture
def trainer(tmp_path: Path, bucket: str) -> Path:
    """The copy of the models on the machine that trains."""
    return tmp_path / "trainer" / MIRRORS / quote(f"{bucket}/models", safe="")


@pytest.fixture
def models_dir(bucket: str) -> str:
    """The URL of the models."""
    return f"{bucket}/models"


def served_version(client: TestClient) -> str | None:
    """The version that the service has loaded."""
    return next((model["version"] for model in client.get("/models").json() if model["loaded"]), None)


def wait_for(client: TestClient, version: str) -> None:
    """Waits until the service has loaded this version, without a request that needs a model."""
    end = time.monotonic() + NOTICED_WITHIN_S
    while served_version(client) != version:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_versions_published_and_rolled_back_elsewhere_are_served_within_seconds(
    start: Callable[..., TestClient], trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_mirror, "PULL_S", 0.2)
    first = colour_models.publish(trainer, NAME, colour_models.TWO_CLASSES)
    client = start()
    picture = images.encode_png(colour_models.image("nebula"))
    assert client.post("/detect", files={"file": picture}).json()["model_version"] == first.version
    second = colour_models.publish(trainer, NAME, colour_models.TWO_CLASSES, scale=0.03)
    wait_for(client, second.version)
    assert client.post("/detect", files={"file": picture}).json()["model_version"] == second.version
    rolled_back = client.post(f"/models/{NAME}/rollback")
    assert rolled_back.json()["version"] == first.version
    assert served_version(client) == first.version
    third = colour_models.publish(trainer, NAME, colour_models.TWO_CLASSES, scale=0.04)
    wait_for(client, third.version)


def test_a_model_published_after_the_start_is_served(
    start: Callable[..., TestClient], trainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_mirror, "PULL_S", 0.2)
    client = start()
    assert client.get("/models").json() == []
    wait_for(client, colour_models.publish(trainer, NAME, colour_models.TWO_CLASSES).version)


def test_a_service_serves_its_copy_while_the_object_store_does_not_answer(
    start: Callable[..., TestClient], trainer: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    monkeypatch.setattr(model_mirror, "PULL_S", 0.2)
    first = colour_models.publish(trainer, NAME, colour_models.TWO_CLASSES)
    client = start()
    wait_for(client, first.version)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clients.forget_servers()
    restarted = start()
    picture = images.encode_png(colour_models.image("nebula"))
    for service in (client, restarted):
        assert service.post("/detect", files={"file": picture}).json()["model_version"] == first.version


def test_a_training_from_the_page_reads_no_urls(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\nhttp://169.254.169.254/a.png,E\ns3://sky/b.png,SB\n")
    with pytest.raises(DataError, match="names URLs, which a training from the page does not read"):
        check_images(table, "", "")
