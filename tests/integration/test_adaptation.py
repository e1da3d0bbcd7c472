"""New ordinary images: a new version of the model, and what is in the log described anew, each row once."""

import base64
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.__main__ import main as run
from astrodetect.anomalies import adaptation
from astrodetect.anomalies.novelty import Novelty
from astrodetect.db.descriptions import OutdatedRows, RowNovelty
from astrodetect.errors import ModelError
from astrodetect.features.central_object import feature_matrix
from astrodetect.features.extraction import measurement_key
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest, read_manifest
from astrodetect.records import Floats, PredictionFilters, ScoredImage
from astrodetect.service import novelty_updater
from astrodetect.service.adaptation_job import AdaptationJob
from astrodetect.service.novelty_updater import NoveltyUpdater
from astrodetect.settings import settings
from database import Database

TRAINING, FOREIGN, OWN = 120, 110, 10
NAME = "resnet50_model"
ROWS = "SELECT image_sha256, score, label, timestamp, novelty, in_domain, space FROM predictions ORDER BY id"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose detectors were fitted on lawns; not to be modified."""
    folder = tmp_path_factory.mktemp("published")
    lawns = np.stack([colour_models.image("lawn", seed) for seed in range(TRAINING)])
    colour_models.publish_with_detectors(folder, NAME, lawns)
    return folder


@pytest.fixture
def models_dir(published: Path, tmp_path: Path) -> Path:
    """A copy of that model, which a test may adapt."""
    return shutil.copytree(published, tmp_path / "models")


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty_updater, "CHECK_S", 0.1)


def send(client: TestClient, name: str, seed: int) -> dict[str, Any]:
    data = images.encode_png(colour_models.image(name, seed))
    response: dict[str, Any] = client.post("/detect", files={"file": (f"{name}-{seed}.png", data)}).json()
    return response


def fill(client: TestClient) -> None:
    """Images like the training set, images from elsewhere, and one of each again."""
    for seed in (*range(500, 500 + OWN), 500):
        send(client, "lawn", seed)
    for seed in (*range(FOREIGN), 0):
        send(client, "nebula", seed)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_rows(database_url: str, space: str | None) -> None:
    """Until every row is described by these detectors."""
    wait_until(lambda: query(database_url, "SELECT DISTINCT space FROM predictions") == [(space,)])
    wait_until(
        lambda: (
            query(database_url, "SELECT next_id <= last_id + 1 FROM novelty_updates WHERE space = %s", space)
            == [(True,)]
        )
    )


def test_the_images_of_a_filter_become_ordinary_the_log_is_described_anew_and_rollback_restores_it(
    client: TestClient, database_url: str, models_dir: Path
) -> None:
    fill(client)
    before, first = query(database_url, ROWS), read_manifest(models_dir / f"{NAME}.json")
    assert "Make these the ordinary images" in client.get("/history?name=nebula").text
    response = client.post("/history/ordinary", data={"name": "nebula"})
    assert (response.status_code, response.headers["location"]) == (303, "/history?name=nebula")
    wait_until(lambda: read_manifest(models_dir / f"{NAME}.json").version != first.version)
    adapted = read_manifest(models_dir / f"{NAME}.json")
    wait_for_rows(database_url, adapted.space)
    after = query(database_url, ROWS)
    assert [row[:4] for row in after] == [row[:4] for row in before]
    assert f"novelty compares with {FOREIGN} images" in (notice := client.get("/domain").text)
    assert f"{len(after)} logged predictions are described anew." in notice
    own, foreign = after[: OWN + 1], after[OWN + 1 :]
    assert all(not row[5] for row in own)
    assert np.mean([row[5] for row in foreign]) > 0.9
    again = send(client, "nebula", 0)  # as if it had been scored by the present detectors
    assert again["model_version"] == adapted.version
    assert (again["novelty"], again["in_domain"]) == pytest.approx(after[OWN + 1][4:6])
    neighbours = client.get(f"/predictions/{OWN + 2}/similar?limit=5").json()["similar"]
    assert {neighbour["prediction"]["label"] for neighbour in neighbours} == {"nebula"}
    assert client.get("/review/next?by=novelty&limit=1").json()["next"][0]["prediction"]["label"] == "lawn"

    assert client.post(f"/models/{NAME}/rollback").json()["version"] == first.version
    wait_for_rows(database_url, first.space)
    restored = query(database_url, ROWS)
    assert [row[:4] + row[5:] for row in restored[: len(before)]] == [row[:4] + row[5:] for row in before]
    assert [row[4] for row in restored[: len(before)]] == pytest.approx([row[4] for row in before], abs=1e-6)
    assert query(database_url, "SELECT count(*) FROM features GROUP BY space, image_sha256 HAVING count(*) > 1") == []


@pytest.fixture
def sky(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 100 images, in the environment of the commands."""
    (tmp_path / "sky").mkdir()
    for seed in range(100):
        data = images.encode_png(colour_models.image("nebula", seed))
        (tmp_path / "sky" / f"{seed}.png").write_bytes(data)
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(models_dir))
    settings.cache_clear()
    return tmp_path / "sky"


def test_the_command_adapts_a_model_that_is_being_served(
    client: TestClient, database_url: str, models_dir: Path, sky: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    send(client, "nebula", 0)
    first = read_manifest(models_dir / f"{NAME}.json")
    assert run(["adapt", NAME, str(sky)]) == 0
    adapted = read_manifest(models_dir / f"{NAME}.json")
    assert capsys.readouterr().out == (
        f"{NAME}: version {adapted.version}, novelty compares with 100 images\n"
        f"to undo: python -m astrodetect models rollback {NAME} {first.version}\n"
    )
    assert adapted.adapted is not None
    assert (adapted.adapted["source"], adapted.adapted["images"]) == ("sky", 100)
    wait_for_rows(database_url, adapted.space)
    assert query(database_url, "SELECT in_domain FROM predictions") == [(True,)]


def test_too_few_stored_descriptions_change_nothing_and_say_so(client: TestClient, models_dir: Path) -> None:
    send(client, "nebula", 0)
    files = read_manifest(models_dir / f"{NAME}.json").files
    client.post("/history/ordinary")
    wait_until(lambda: "was not adapted: only 1 of these 1 images" in client.get("/domain").text)
    assert read_manifest(models_dir / f"{NAME}.json").files == files


@pytest.fixture
def replaced(models_dir: Path) -> tuple[Manifest, Novelty]:
    """The model with new detectors, which no service has loaded."""
    nebulae = np.stack([colour_models.image("nebula", seed) for seed in range(TRAINING)])
    colour_models.attach_novelty(models_dir, NAME, nebulae)
    novelty = Novelty.load((models_dir / f"{NAME}.novelty.npz").read_bytes())
    return read_manifest(models_dir / f"{NAME}.json"), novelty


@pytest.fixture
def logged(log: Database, replaced: tuple[Manifest, Novelty]) -> Database:
    """A log of 20 rows by earlier detectors; the seventh has no description."""
    nebulae = np.stack([colour_models.image("nebula", seed) for seed in range(20)])
    rows = [
        ScoredImage(
            *("", f"{number:064x}", 0.5, 0.5, NAME, "1"),
            novelty=0.5,
            space="5f0c3a9be214",
            vector=(1.0, 2.0),
            description=None if number == 6 else base64.b64encode(features.tobytes()).decode(),
            description_kind=measurement_key(replaced[0].image),
        )
        for number, features in enumerate(feature_matrix("shapes", nebulae, 1.0))
    ]
    log.record_many(rows)
    return log


def test_a_model_replaced_meanwhile_by_one_that_prepares_images_otherwise_is_not_adapted(
    logged: Database, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = adaptation.fit_ordinary

    def fit_after_a_swap(features: Floats) -> Novelty:
        colour_models.publish(models_dir, NAME, colour_models.TWO_CLASSES, stretch="asinh")
        return fit(features)

    monkeypatch.setattr(adaptation, "fit_ordinary", fit_after_a_swap)
    job = AdaptationJob(logged, models_dir)
    job.start(NAME, PredictionFilters(), "everything")
    wait_until(lambda: job.state is not None and not job.state.running)
    job.close()
    assert job.state is not None
    assert "was replaced meanwhile" in job.state.error
    assert f"{NAME}.novelty.npz" not in read_manifest(models_dir / f"{NAME}.json").files


def test_threads_of_one_process_do_not_change_a_model_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as thread, store.exclusive_lock(tmp_path, NAME):
        other = thread.submit(ExitStack().enter_context, store.exclusive_lock(tmp_path, NAME))
        with pytest.raises(ModelError, match="is changing the model"):
            other.result()
        code = (
            f"import fasteners; print(fasteners.InterProcessLock({str(tmp_path / f'.{NAME}.lock')!r}).acquire(False))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_two_services_do_no_step_of_an_update_twice(
    logged: Database, replaced: tuple[Manifest, Novelty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty_updater, "STEP_ROWS", 2)
    begun: list[int] = []
    outdated = logged.description_log.outdated

    def read_step(*arguments: Any, **options: Any) -> OutdatedRows | None:
        if step := outdated(*arguments, **options):
            begun.append(step.next_id)
        return step

    monkeypatch.setattr(logged.description_log, "outdated", read_step)
    updaters = [
        NoveltyUpdater(logged, lambda: {NAME: replaced}, refresh=lambda: None, in_flight=lambda: 0) for _ in range(2)
    ]
    wait_until(lambda: (update := logged.description_log.update(NAME)) is not None and not update.running)
    for updater in updaters:
        updater.close()
    assert len(begun) == len(set(begun)) >= 10


def test_an_interrupted_update_continues_where_it_stopped_and_no_row_is_described_twice(
    logged: Database, database_url: str, replaced: tuple[Manifest, Novelty], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty_updater, "STEP_ROWS", 3)
    finished: list[list[int]] = []
    two_steps = threading.Event()
    finish = logged.description_log.finish_step

    def finish_step(model: str, space: str, step: OutdatedRows, values: RowNovelty | None) -> None:
        finish(model, space, step, values)
        finished.append(step.ids)
        if len(finished) == 2:
            two_steps.set()

    monkeypatch.setattr(logged.description_log, "finish_step", finish_step)

    def start_updater(in_flight: int) -> NoveltyUpdater:
        detectors: Mapping[str, tuple[Manifest, Novelty]] = {NAME: replaced}
        return NoveltyUpdater(logged, lambda: detectors, refresh=lambda: None, in_flight=lambda: in_flight)

    updater = start_updater(in_flight=1)  # waits between steps
    two_steps.wait(20)
    updater.close()
    update = logged.description_log.update(NAME)
    assert update is not None
    assert update.running
    assert 0 < update.progress < 1
    updater = start_updater(in_flight=0)
    wait_until(lambda: not logged.description_log.update(NAME).running)  # type: ignore[union-attr]
    updater.close()
    ids = [id_ for step in finished for id_ in step]
    assert sorted(ids) == [id_ for id_ in range(1, 21) if id_ != 7]
    update = logged.description_log.update(NAME)
    assert update is not None
    assert (update.described, update.missing) == (19, 1)
    spaces = dict(query(database_url, "SELECT id, space FROM predictions"))
    assert {id_ for id_, space in spaces.items() if space != replaced[0].space} == {7}
