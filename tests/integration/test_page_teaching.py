"""Teaching a network from the Review page: the form, the process that it starts, and the order of the queue after."""

import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from malicious_server import png
from starlette.testclient import TestClient

from astrodetect.anomalies.teaching import MIN_WANTED
from astrodetect.errors import TrainingConflict
from astrodetect.model_store import training_progress
from astrodetect.recipes import TEACHING_RECIPE
from astrodetect.records import ScoredImage
from astrodetect.service import training_jobs
from astrodetect.service.review_queue import ReviewQueue
from database import Database

TEACH, SPACE = "/review/teach", "5f0c3a9be214"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without detectors."""
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    return folder


def local(client: TestClient) -> TestClient:
    """A browser on the machine of the service."""
    return TestClient(client.app, base_url="http://127.0.0.1:8000", client=("127.0.0.1", 50000), follow_redirects=False)


def problem(page: str) -> str:
    [text] = re.findall(r'id="error"[^>]*>(.*?)</p>', page)
    return html.unescape(text)


def test_the_form_starts_teach_with_the_labels_of_the_log(
    client: TestClient, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f'href="{TEACH}"' in client.get("/review").text
    assert "python -m astrodetect teach my/images" in client.get(TEACH).text  # a client on another machine
    browser, started = local(client), list[tuple[Any, ...]]()
    monkeypatch.setattr(
        training_jobs.TrainingJobs, "start", lambda _, *given, labels: started.append((*given, "".join(labels)))
    )
    fields = {"images": str(tmp_path), "name": "taught"}
    assert client.post(TEACH, data=fields).status_code == 403
    for changed, message in (
        ({"images": ""}, "Name the folder of the images."),
        ({"images": "/nowhere"}, "No folder /nowhere."),
        ({"images": "x" * 4000}, "No folder xxx"),
        ({"name": "../x"}, "Give the model a name of letters"),
        ({}, f"0 images are labelled interesting: a network learns from {MIN_WANTED} or more."),
    ):
        refused = browser.post(TEACH, data=fields | changed)
        assert refused.status_code == 422
        assert message in problem(refused.text)
    for number in range(MIN_WANTED):
        row = client.post("/detect", files={"file": (f"{number}.png", png(number))}).json()["id"]
        client.post(f"/predictions/{row}/label", json={"label": "ring" if number % 2 else "interesting"})
    assert not started
    answer = browser.post(TEACH, data=fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/models-page")
    [(name, recipe, command, _, text)] = started
    labels = training_progress.labels_path(models_dir, name)
    assert (name, recipe) == ("taught", TEACHING_RECIPE)
    assert command == ["teach", str(tmp_path), "--labels", str(labels), "--name", "taught"]
    assert len(text.splitlines()) == 1 + MIN_WANTED


def test_the_process_of_teach_runs_the_package_with_the_models_of_the_service(
    client: TestClient, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, sys; import astrodetect; "
        "print(json.dumps([sys.argv[1:], os.environ['ASTRODETECT_MODELS_DIR'], astrodetect.__file__])); sys.exit(1)"
    )
    assert training_jobs._program(("teach", "x")) == ["-m", "astrodetect"]
    assert training_jobs._program(("--recipe", "cnn")) == [str(training_jobs.PROGRAM)]
    monkeypatch.setattr(training_jobs, "_program", lambda _: [str(program)])
    jobs = client.app.state.services.training_jobs  # type: ignore[attr-defined]
    jobs.start("taught", TEACHING_RECIPE, ["teach", "my images"], tmp_path, labels=["its ", "labels"])
    for thread in jobs._waiting:
        thread.join()
    ended = training_progress.read_progress(models_dir, "taught")
    assert ended
    arguments, models, package = json.loads(ended.error)
    assert (arguments, models) == (["teach", "my images"], str(models_dir))
    assert Path(package).parent == Path(sys.modules["astrodetect"].__file__ or "").parent
    labels = training_progress.labels_path(models_dir, "taught")
    training_progress.write_progress(models_dir, replace(ended, name="other", state="running"))
    with pytest.raises(TrainingConflict):  # the labels of a training that runs are not replaced
        jobs.start("taught", TEACHING_RECIPE, ["teach", "my images"], tmp_path, labels=["later ones"])
    assert labels.read_text() == "its labels"
    training_progress.remove_progress(models_dir, "other")
    jobs.discard("taught")
    assert not labels.exists()


def test_the_score_of_a_taught_network_orders_the_queue(log: Database) -> None:
    random = np.random.default_rng(0)
    log.record_many(
        [
            ScoredImage(
                f"{number}",
                f"{number:064}",
                0.9 if number == 7 else 0.1 + number / 1000,
                0.5,
                "m",
                "1",
                novelty=0.5,
                vector=tuple(random.normal(0, 1, 3).tolist()),
                space=SPACE,
            )
            for number in range(60)
        ]
    )
    first = [
        [
            found.prediction.image_name
            for found in ReviewQueue(log).next("interest", limit=10, space=SPACE, taught=taught).candidates
        ]
        for taught in (None, "m", "other")
    ]
    assert ["7" in names for names in first] == [False, True, False]
    assert first[0] == first[2]
