"""Trainings on the pages: what a service without a model says, who may start one, and start, cancel and resume."""

import html
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_models
import pytest
from malicious_server import png
from starlette.testclient import TestClient

from astrodetect.datasets.simulation import generator
from astrodetect.images import decode, make_thumbnail
from astrodetect.model_store import store
from astrodetect.model_store.manifest import read_manifest
from astrodetect.model_store.training_progress import TrainingProgress, read_progress, remove_progress, write_progress
from astrodetect.records import ImageContract, ScoredImage
from astrodetect.service import training_jobs
from astrodetect.service.web import training
from astrodetect.settings import Settings
from main import create_app

NAME, KEY = "galaxies", "correct horse"
TRAIN = "/models-page/train"
BROWSER = {"Accept": "text/html"}
TIMEOUT_S = 120.0
Start = Callable[..., TestClient]


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Empty; trainings publish here."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def service_settings() -> dict[str, Any]:
    return {"model": NAME}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes, and one that has too few images."""
    folder = tmp_path_factory.mktemp("images")
    return generator.make_dataset(folder, {"E": 20, "SB": 20, "ring": 3}, seed=0, size=64, workers=1)


def local(client: TestClient) -> TestClient:
    """A browser on the machine of the service, where `client` is on another one."""
    return TestClient(client.app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000), follow_redirects=False)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def wait_until(folder: Path, condition: Callable[[TrainingProgress | None], Any]) -> TrainingProgress | None:
    """The progress of the training once it meets the condition."""
    give_up = time.monotonic() + TIMEOUT_S
    while not condition(progress := read_progress(folder, NAME)):
        assert time.monotonic() < give_up, progress
        time.sleep(0.05)
    return progress


def state_is(state: str) -> Callable[[TrainingProgress | None], bool]:
    return lambda progress: progress is not None and progress.state == state


def test_a_service_without_a_model_shows_the_training_and_then_the_upload_form(
    client: TestClient, models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.get("/health/live").status_code == 200
    refused = client.get("/health/ready")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert (
        f"no model {NAME} yet: python train_model.py, or Train on the Models page" in refused.json()["error"]["message"]
    )
    assert "No model is trained yet" in client.get("/").text

    write_progress(models_dir, TrainingProgress(NAME, time.time(), title="simulating images", done=100, total=1800))
    page = text_of(client.get("/").text)
    assert f"Simulating images for {NAME}" in page
    assert "100 of 1,800" in page
    epochs = ({"train_loss": 0.7, "watched_loss": 0.6, "accuracy": 0.8, "auc": 0.9},) * 2
    training = TrainingProgress(
        NAME, time.time() - 65, recipe="cnn", title="epoch 3/4", done=9, total=45, left_s=40.2, epochs=epochs
    )
    write_progress(models_dir, training)
    answer = client.post("/detect", files={"file": ("m51.png", png())})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_missing")
    assert "it is being trained (epoch 3/4, about 40 s left)" in answer.json()["error"]["message"]
    page = client.get("/").text
    for words in ("Epoch 3/4", "Batch 9 of 45", "about 40 s left", "Running for 1 min 5 s", "80.0 % of the validation"):
        assert words in text_of(page)
    assert page.count('<svg class="chart"') == 2

    [poll] = re.findall(r'hx-get="(/training[^"]+)"', page)
    with caplog.at_level("INFO", "astrodetect.requests"):
        figures = client.get(html.unescape(poll)).text
    assert caplog.messages == []  # else the request log has a line per second of every open page
    assert 'id="figures-1" hx-swap-oob="true"' in figures
    assert 'id="trainings"' not in figures
    colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES)
    assert client.get(html.unescape(poll)).headers["hx-refresh"] == "true"
    assert 'id="file"' in client.get("/").text
    assert client.get("/health/ready").status_code == 200


def test_what_becomes_of_a_training_is_announced_once(client: TestClient, models_dir: Path) -> None:
    def poll() -> str | None:
        [url] = re.findall(r'hx-get="(/training[^"]+)"', page)
        return client.get(html.unescape(url)).headers.get("hx-trigger")

    training = TrainingProgress(NAME, time.time(), recipe="cnn")
    write_progress(models_dir, training)
    page = client.get("/models-page").text
    assert poll() is None
    write_progress(models_dir, replace(training, state="stopped"))
    assert poll() == f'{{"announce": "The training of {NAME} was stopped"}}'
    page = client.get("/models-page").text
    assert poll() is None
    remove_progress(models_dir, NAME)
    assert poll() == '{"announce": "No training is going on"}'


def test_trainings_are_started_on_the_machine_itself_or_with_a_key(start: Start, images: Path) -> None:
    fields = {"images": str(images / "none"), "name": NAME}
    remote = start()
    for client, host, status in (
        (remote, None, 403),
        (local(remote), None, 422),
        (local(remote), "localhost:8000", 422),
        (local(remote), "rebound.example", 421),
        (local(start(allowed_hosts="*")), "rebound.example", 403),
        (local(start(train_on_page=False)), None, 403),
        (local(start(require_signed="AAAA")), None, 403),
        (start(api_key=KEY), None, 401),
        (local(start(api_key=KEY)), None, 401),
    ):
        headers = {"Host": host} if host else {}
        response = client.post(TRAIN, data=fields, headers=headers)
        assert response.status_code == status, (client.base_url, host)
        if status in {401, 421}:
            continue
        allowed = status == 422
        assert ("no folder" in response.text.lower()) == allowed
        assert ('name="images"' in client.get(TRAIN, headers=headers).text) == allowed
        cancelled = client.post(f"/models-page/{NAME}/training/cancel", headers=headers)
        assert cancelled.json()["error"]["code"] == ("training_conflict" if allowed else "training_not_allowed")
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert start(api_key=KEY).post(TRAIN, data=fields, headers=bearer).status_code == 422


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": ""}, "Name the folder of the images."),
        ({"images": "/nowhere"}, "No folder /nowhere: put images there"),
        ({"images": "~nobody-here/x"}, "No folder ~nobody-here/x"),
        ({"images": "x" * 4000}, "cannot be read"),
        ({"name": "../x"}, "Give the model a name of letters"),
        ({"name": ".x"}, "Give the model a name of letters"),
        ({"name": "x.metrics"}, "Give the model a name of letters"),
        ({"recipe": "vgg"}, "Choose a recipe"),
        ({"epochs": "0"}, "Epochs: from 1 to 10000, not 0."),
        ({"size": "ten"}, "Size: from 32 to 4096, not ten."),
        ({"crop": "nan"}, "Crop: from 0.1 to 1, not nan."),
        ({"positive": "E"}, "Name both the anomaly and its opposite, or neither; the classes are E, SB, ring."),
        ({"positive": "E", "negative": "lens"}, "has no class lens: its classes are E, SB, ring."),
        ({}, "The class ring has 3 images: at least 10 are needed."),
    ],
)
def test_a_wrong_field_is_told_in_one_line_and_the_form_keeps_its_fields(
    client: TestClient, images: Path, fields: dict[str, str], message: str
) -> None:
    values = {"images": str(images), "name": NAME, "size": "40"} | fields
    response = local(client).post(TRAIN, data=values)
    assert response.status_code == 422
    [problem] = re.findall(r'id="error"[^>]*>(.*?)</p>', response.text)
    assert message in html.unescape(problem)
    assert f'value="{values["size"]}"' in response.text


def test_a_training_is_cancelled_resumed_and_ends_with_the_service(
    database_url: str, models_dir: Path, images: Path, tmp_path: Path
) -> None:
    settings = Settings(DATABASE_URL=database_url, models_dir=models_dir, data_dir=tmp_path, model=NAME)
    fields = {"images": str(images), "name": NAME, "recipe": "cnn", "positive": "E", "negative": "SB"}
    with TestClient(create_app(settings)) as client:
        browser = local(client)
        started = browser.post(TRAIN, data=fields | {"size": "160", "epochs": "9999"})
        assert (started.status_code, started.headers["location"]) == (303, "/models-page")
        busy = browser.post(TRAIN, data=fields | {"name": "other", "size": "32"})
        assert busy.status_code == 409
        assert f"The training of {NAME} runs" in busy.text
        running = wait_until(models_dir, lambda progress: progress and len(progress.epochs) > 1)
        assert f"Training {NAME}" in text_of(browser.get("/models-page").text)
        browser.post(f"/models-page/{NAME}/training/cancel")
        stopped = wait_until(models_dir, state_is("stopped"))
        assert running is not None
        assert stopped is not None
        assert len(stopped.epochs) >= len(running.epochs)
        page = text_of(browser.get("/models-page").text)
        assert f"The training of {NAME} was stopped" in page
        assert "Resume" in page
        assert "Resume" not in text_of(client.get("/models-page").text)  # on another machine
        assert browser.post(f"/models-page/{NAME}/training/resume", data={"at": "start"}).headers["location"] == "/"
        resumed = wait_until(models_dir, lambda progress: progress and len(progress.epochs) > len(stopped.epochs))
        assert resumed is not None
        assert resumed.epochs[: len(stopped.epochs)] == stopped.epochs
        assert any(message.startswith("resuming the interrupted run") for message in resumed.messages)
    ended = read_progress(models_dir, NAME)
    assert ended is not None
    assert ended.state == "stopped"

    (models_dir / f".{NAME}.staging").mkdir()  # as a killed training leaves it
    with TestClient(create_app(settings)) as client:
        local(client).post(f"/models-page/{NAME}/training/discard")
        assert sorted(path.name for path in models_dir.iterdir()) == ["..starting.lock", f".{NAME}.lock"]


def test_a_training_of_the_form_publishes_a_model_that_serves(
    client: TestClient, models_dir: Path, images: Path
) -> None:
    fields = {"images": str(images), "name": NAME, "recipe": "forest", "positive": "E", "negative": "SB", "size": "32"}
    assert local(client).post(TRAIN, data=fields).status_code == 303
    wait_until(models_dir, lambda progress: progress is None)
    manifest = read_manifest(models_dir / f"{NAME}.json")
    assert (manifest.recipe, manifest.classes, manifest.image.size) == ("forest", ["SB", "E"], 32)
    assert manifest.data["test"]["images"] == {"SB": 3, "E": 3}
    assert client.post("/detect", files={"file": ("m51.png", png())}).json()["model"] == NAME


@pytest.mark.parametrize("killed", [False, True])
def test_a_process_that_ends_without_a_word_is_a_failed_training(
    client: TestClient, models_dir: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import time; time.sleep(60)" if killed else "raise SystemExit('train_model: no /secret left')")
    monkeypatch.setattr(training_jobs, "PROGRAM", program)
    browser, app = local(client), client.app
    fields = {"images": str(images), "name": NAME, "positive": "E", "negative": "SB"}
    assert browser.post(TRAIN, data=fields).status_code == 303
    if killed:
        assert isinstance(app, object)
        process = app.state.services.training_jobs._processes[NAME]  # type: ignore[attr-defined]
        process.send_signal(signal.SIGKILL)
    failed = wait_until(models_dir, state_is("failed"))
    assert failed is not None
    assert failed.error == ("its process was killed by signal 9" if killed else "no /secret left")
    assert failed.error in text_of(browser.get("/").text)
    assert failed.error not in text_of(client.get("/").text)  # paths are shown on this machine only


def test_a_training_whose_process_has_not_ended_is_not_discarded(client: TestClient, models_dir: Path) -> None:
    write_progress(models_dir, TrainingProgress(NAME, time.time(), state="stopped"))  # or lost: it may be suspended
    with store.exclusive_lock(models_dir, NAME):
        response = local(client).post(f"/models-page/{NAME}/training/discard")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "training_conflict")
    assert read_progress(models_dir, NAME) is not None


def test_of_a_resumption_and_a_discarding_at_once_one_is_refused(
    client: TestClient, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = TrainingProgress("m", time.time(), state="stopped", recipe="cnn", command=("--data", "x"))
    browser, lock = local(client), store.exclusive_lock

    def resumed_meanwhile(folder: Path, name: str) -> AbstractContextManager[None]:
        write_progress(models_dir, replace(stopped, state="running"))
        return lock(folder, name)

    write_progress(models_dir, stopped)
    with monkeypatch.context() as patch:
        patch.setattr(store, "exclusive_lock", resumed_meanwhile)
        assert browser.post("/models-page/m/training/discard").status_code == 409
    write_progress(models_dir, stopped)
    monkeypatch.setattr(training_jobs, "require_extra", lambda *_: remove_progress(models_dir, "m", checkpoints=True))
    assert browser.post("/models-page/m/training/resume").status_code == 409
    assert read_progress(models_dir, "m") is None


def test_labelled_images_become_the_images_of_the_form(client: TestClient) -> None:
    here = local(client)
    page = here.post(f"{TRAIN}/labels")
    assert (page.status_code, "needs images of two labels" in text_of(page.text)) == (422, True)
    database = client.app.state.services.database  # type: ignore[attr-defined]
    for number in range(30):
        sha256 = f"{number:064x}"
        pixels = decode(png(number), ImageContract(size=32))
        database.save_thumbnails([make_thumbnail(sha256, pixels)], [])
        scored = ScoredImage("m51.jpg", sha256, score=0.9, threshold=0.5, model="m", model_version="1")
        [row] = database.record_many([scored])
        database.add_label(row.id, "ring" if number % 2 else "ordinary", who=None, note=None)
    with ThreadPoolExecutor(2) as threads:  # two reviewers in the same second
        answer, other = threads.map(here.post, [f"{TRAIN}/labels"] * 2)
    assert (answer.status_code, other.status_code) == (303, 303), text_of(answer.text + other.text)
    page = here.get(answer.headers["location"])
    [folder] = re.findall(r'name="images" value="([^"]+)"', page.text)
    assert sorted(str(path.relative_to(folder)) for path in Path(folder).glob("*/*")) == [
        "test/ordinary",
        "test/ring",
        "train/ordinary",
        "train/ring",
    ]
    fields = {**training.EMPTY_FORM, "name": NAME, "images": folder}
    assert training.train_arguments(fields, Path(folder))[-4:] == ["--data", folder, "--classes", "all"]
    assert client.post(f"{TRAIN}/labels").status_code == 403  # from another machine
