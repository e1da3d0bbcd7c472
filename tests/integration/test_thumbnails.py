"""Pictures of what was scored: kept beside its row, shown to browsers, let go when they are old or many."""

import gc
import hashlib
import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest
from malicious_server import png
from PIL import Image
from programs import ROOT, query
from starlette.testclient import TestClient

import database
from astrodetect.cli import score
from astrodetect.db.connections import connect
from astrodetect.inference.engine import Engine, load_model
from astrodetect.records import HeatMap, ScoredImage, Thumbnail
from astrodetect.scoring import batch_scoring
from astrodetect.settings import Settings
from database import Database
from main import create_app

MONTH = 30  # days
SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")


@pytest.fixture
def log(database_url: str) -> Iterator[Database]:
    log = Database(database_url, connections=2, timeout_s=5)
    yield log
    log.close()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    colour_models.attach_novelty(
        folder, "resnet50_model", np.stack([colour_models.image("nebula", seed) for seed in range(30)])
    )
    return folder


@contextmanager
def service(database_url: str, models: Path, **chosen: object) -> Iterator[TestClient]:
    settings = Settings(DATABASE_URL=database_url, models_dir=models, **chosen)  # type: ignore[arg-type]
    with TestClient(create_app(settings)) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def kept(log: Database, count: int, size: int = 1000) -> list[str]:
    """So many pictures of this many bytes, the first of them the oldest by a day each."""
    names = [f"{number:064x}" for number in range(count)]
    for name in names:
        log.save_thumbnails([Thumbnail(name, bytes(size), 2, 1)], [HeatMap(name, "1", np.zeros((2, 3), np.uint8), 0.5)])
    return names


def test_what_is_scored_is_seen_at_once_by_its_sum_and_is_kept_with_its_heat_map(
    database_url: str, models: Path, log: Database
) -> None:
    alone, together, unusual = png(1, side=600), png(2), png(3)
    with service(database_url, models) as client:
        row = client.post("/detect", files={"file": alone}).json()
        client.post("/detect/batch", files={"file": together})
        client.post("/detect-anomalies", files={"file": unusual})
        shown = client.get(f"/pictures/{row['image_sha256']}")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert {"private", "immutable"} <= set(shown.headers["cache-control"].split(", "))
        assert Image.open(io.BytesIO(shown.content)).size == (256, 256)
        known = client.get(f"/pictures/{row['image_sha256']}", headers={"If-None-Match": shown.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        assert client.get(f"/pictures/{sum_of(together)}").status_code == 200
        assert client.get(f"/pictures/{'0' * 64}").json()["error"]["code"] == "not_found"
        assert client.get("/pictures/..%2Fetc").status_code in {404, 422}
    for data in (alone, together, unusual):
        picture, heat = log.thumbnail(sum_of(data)), log.heat_map(sum_of(data), row["model_version"])
        assert picture is not None
        assert heat is not None
        assert (int(heat.places.max()), heat.crop) == (255, 1.0)
    assert log.heat_map(sum_of(alone), "another") is None
    assert log.images_with_thumbnails([sum_of(alone), "0" * 64]) == {sum_of(alone)}


@pytest.mark.parametrize("said", colour_models.TWO_CLASSES)
def test_a_heat_map_shows_what_spoke_for_the_verdict_whichever_it_was(
    database_url: str, models: Path, tmp_path: Path, log: Database, said: str
) -> None:
    [other] = {*colour_models.TWO_CLASSES} - {said}
    images = [colour_models.image(said, seed) for seed in range(2)]
    for pixels in images:
        pixels[:8, :8] = colour_models.image(other)[:8, :8]
    alone, logged = (tmp_path / f"{name}.png" for name in ("alone", "logged"))
    for pixels, path in zip(images, (alone, logged), strict=True):
        Image.fromarray(pixels).save(path)
    with service(database_url, models) as client:
        row = client.post("/detect", files={"file": alone.read_bytes()}).json()
    assert row["label"] == said
    settings = Settings(DATABASE_URL=database_url)
    with score.open_recorder(settings) as record:
        task = batch_scoring.ScoringTask(
            [str(logged)], tmp_path / "t.csv", restart=False, max_pixels=10_000, thumbnail_px=64
        )
        batch_scoring.score_task(task, Engine(load_model(models, "resnet50_model")), total=1, record=record)
    for path in (alone, logged):
        heat = log.heat_map(sum_of(path.read_bytes()), row["model_version"])
        assert heat is not None
        assert heat.places[:8, :8].max() == 0
        assert heat.places[8:, 8:].min() > 0


def test_where_none_are_to_be_kept_there_are_none(database_url: str, models: Path, log: Database) -> None:
    kept(log, 3)
    with service(database_url, models, thumbnail_max_bytes=0) as client:
        row = client.post("/detect", files={"file": png()}).json()
        assert client.get(f"/pictures/{row['image_sha256']}").status_code == 404
    assert query(database_url, "SELECT count(*) FROM pictures") == [(0,)]


def test_scores_that_are_logged_without_the_service_have_pictures_too(
    database_url: str, models: Path, tmp_path: Path, log: Database
) -> None:
    (tmp_path / "sky").mkdir()
    for seed in range(3):
        (tmp_path / "sky" / f"{seed}.png").write_bytes(png(seed))
    (tmp_path / "sky" / "torn.png").write_bytes(png()[:50])
    done = subprocess.run(
        [sys.executable, "-m", "astrodetect", "score", str(tmp_path / "sky"), "--log", "--output", tmp_path / "t.csv"],
        cwd=ROOT,
        env={"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sums = {sum_of(png(seed)) for seed in range(3)}
    assert log.images_with_thumbnails([*sums]) == sums
    assert query(database_url, "SELECT count(*) FROM heat_maps WHERE octet_length(places) = width * height") == [(3,)]


def test_a_run_that_cannot_keep_pictures_says_so_once_and_goes_on_with_its_rows(
    database_url: str, log: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    query(database_url, "DROP TABLE pictures CASCADE")
    with score.open_recorder(Settings(DATABASE_URL=database_url)) as record:
        for number in range(2):
            scored = replace(SCORED, image_sha256=f"{number:064x}", request_id=uuid.uuid4())
            record([scored], [Thumbnail(scored.image_sha256, b"jpeg", 1, 1)], [])
    assert query(database_url, "SELECT count(*) FROM predictions") == [(2,)]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("some scores are recorded without thumbnails: ")


def test_a_short_run_too_lets_go_of_what_is_too_much(database_url: str, log: Database) -> None:
    names = kept(log, 3)
    with score.open_recorder(Settings(DATABASE_URL=database_url, thumbnail_max_bytes=2_000)) as record:
        record([SCORED], [Thumbnail(SCORED.image_sha256, bytes(1_000), 1, 1)], [])
    assert log.images_with_thumbnails([*names, SCORED.image_sha256]) == {names[2], SCORED.image_sha256}


def test_a_picture_is_kept_once_and_counts_as_new_when_its_image_comes_again(log: Database, database_url: str) -> None:
    [name] = kept(log, 1)
    query(database_url, "UPDATE pictures SET \"timestamp\" = now() - interval '40 days'")
    log.save_thumbnails([Thumbnail(name, b"other", 9, 9)] * 2, [])
    assert log.thumbnail(name) == Thumbnail(name, bytes(1000), 2, 1)
    assert log.prune_thumbnails(days=MONTH, max_bytes=10**9) == 0


def test_the_old_go_and_those_of_labelled_images_stay(
    log: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "THUMBNAIL_BATCH", 4)
    names = kept(log, 20)
    query(
        database_url,
        "UPDATE pictures SET \"timestamp\" = now() - interval '40 days' WHERE image_sha256 < %s",
        names[15],
    )
    [row] = log.record_many([replace(SCORED, image_sha256=names[3])])
    log.add_label(row.id, "interesting", who=None, note=None)
    assert log.prune_thumbnails(days=MONTH, max_bytes=10**9) == 14
    left = {names[3], *names[15:]}
    assert log.images_with_thumbnails(names) == left
    assert {name for (name,) in query(database_url, "SELECT image_sha256 FROM heat_maps")} == left


def test_of_too_many_bytes_the_oldest_go_first(
    log: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "THUMBNAIL_BATCH", 4)
    names = kept(log, 20, size=1000)
    [row] = log.record_many([replace(SCORED, image_sha256=names[0])])
    log.add_label(row.id, "artefact", who=None, note=None)
    assert log.prune_thumbnails(days=MONTH, max_bytes=8_500) == 12
    assert log.images_with_thumbnails(names) == {names[0], *names[13:]}
    assert log.prune_thumbnails(days=MONTH, max_bytes=8_500) == 0


def test_a_heat_map_is_kept_where_its_picture_is_and_goes_with_it(log: Database, database_url: str) -> None:
    def heat(image: str) -> HeatMap:
        return HeatMap(image, "1", np.zeros((2, 3), np.uint8), 0.5)

    [name] = kept(log, 1)
    log.save_thumbnails([], [heat(name), heat("0" * 63 + "9"), replace(heat(name), model_version="2")])
    assert query(database_url, "SELECT image_sha256, model_version FROM heat_maps ORDER BY 2") == [
        (name, "1"),
        (name, "2"),
    ]
    assert log.prune_thumbnails(days=MONTH, max_bytes=0) == 1
    assert query(database_url, "SELECT count(*) FROM heat_maps") == [(0,)]


def test_heat_maps_come_while_their_pictures_go(log: Database, database_url: str) -> None:
    names = kept(log, 200)
    heats = [HeatMap(name, "2", np.zeros((2, 3), np.uint8), 0.5) for name in names]
    with ThreadPoolExecutor(2) as threads:
        gone = threads.submit(log.prune_thumbnails, days=MONTH, max_bytes=50_000)
        for begin in range(0, len(heats), 10):
            log.save_thumbnails([], heats[begin : begin + 10])
        assert gone.result() + log.prune_thumbnails(days=MONTH, max_bytes=50_000) == 150
    assert log.images_with_thumbnails(names) == set(names[150:])
    assert {name for (name,) in query(database_url, "SELECT image_sha256 FROM heat_maps")} == set(names[150:])


def test_two_services_do_not_prune_at_once(log: Database, database_url: str) -> None:
    names = kept(log, 3)
    other = connect(database_url, timeout_s=5)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [database.PRUNING])
        assert log.prune_thumbnails(days=MONTH, max_bytes=0) == 0
        cursor.execute("SELECT pg_advisory_unlock(%s)", [database.PRUNING])
        assert log.prune_thumbnails(days=MONTH, max_bytes=0) == len(names)
    other.close()
