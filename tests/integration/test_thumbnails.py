"""Thumbnails of scored images: stored, served to browsers, and deleted when they are old or too many."""

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
from worker_in_process import InProcessPool

import database
from astrodetect.cli import score_worker
from astrodetect.db.connections import connect
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.records import HeatMap, ScoredImage, Thumbnail
from astrodetect.scoring import batch_scoring
from astrodetect.settings import Settings
from database import Database
from main import create_app

MONTH = 30  # days
SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")


@contextmanager
def service(database_url: str, models_dir: Path, **chosen: object) -> Iterator[TestClient]:
    settings = Settings(DATABASE_URL=database_url, models_dir=models_dir, **chosen)  # type: ignore[arg-type]
    with TestClient(create_app(settings)) as client:
        yield client
    gc.collect()  # an app is a ring of references, and each holds a network


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def save_thumbnails(log: Database, count: int, size: int = 1000) -> list[str]:
    """Stores `count` thumbnails of `size` bytes, the oldest first."""
    names = [f"{number:064x}" for number in range(count)]
    for name in names:
        log.save_thumbnails([Thumbnail(name, bytes(size), 2, 1)], [HeatMap(name, "1", np.zeros((2, 3), np.uint8), 0.5)])
    return names


def test_a_scored_image_has_a_thumbnail_at_once_and_a_stored_heat_map(
    database_url: str, models_dir: Path, log: Database
) -> None:
    alone, together, unusual = png(1, side=600), png(2), png(3)
    with service(database_url, models_dir) as client:
        row = client.post("/detect", files={"file": alone}).json()
        client.post("/detect/batch", files={"file": together})
        client.post("/detect-anomalies", files={"file": unusual})
        response = client.get(f"/pictures/{row['image_sha256']}")
        assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert {"private", "immutable"} <= set(response.headers["cache-control"].split(", "))
        assert Image.open(io.BytesIO(response.content)).size == (512, 512)
        cached = client.get(f"/pictures/{row['image_sha256']}", headers={"If-None-Match": response.headers["etag"]})
        assert (cached.status_code, cached.content) == (304, b"")
        assert client.get(f"/pictures/{sha256_of(together)}").status_code == 200
        assert client.get(f"/pictures/{'0' * 64}").json()["error"]["code"] == "not_found"
        assert client.get("/pictures/..%2Fetc").status_code in {404, 422}
    for data in (alone, together, unusual):
        picture, heat = log.thumbnail(sha256_of(data)), log.heat_map(sha256_of(data), row["model_version"])
        assert picture is not None
        assert heat is not None
        assert (int(heat.places.max()), heat.crop) == (255, 1.0)
    assert log.heat_map(sha256_of(alone), "another") is None
    assert log.images_with_thumbnails([sha256_of(alone), "0" * 64]) == {sha256_of(alone)}


@pytest.mark.parametrize("label", colour_models.TWO_CLASSES)
def test_a_heat_map_shows_the_regions_that_support_the_predicted_class(
    database_url: str, models_dir: Path, tmp_path: Path, log: Database, label: str
) -> None:
    [other] = {*colour_models.TWO_CLASSES} - {label}
    images = [colour_models.image(label, seed) for seed in range(2)]
    for pixels in images:
        pixels[:8, :8] = colour_models.image(other)[:8, :8]
    alone, logged = (tmp_path / f"{name}.png" for name in ("alone", "logged"))
    for pixels, path in zip(images, (alone, logged), strict=True):
        Image.fromarray(pixels).save(path)
    with service(database_url, models_dir) as client:
        row = client.post("/detect", files={"file": alone.read_bytes()}).json()
    assert row["label"] == label
    settings = Settings(DATABASE_URL=database_url)
    engine = Engine(load_verified(models_dir, "resnet50_model"))
    task = batch_scoring.ScoringTask([str(logged)], tmp_path / "t.csv", restart=False)
    with score_worker.open_recorder(settings) as record, InProcessPool(engine, record, thumbnail_px=64) as pool:
        batch_scoring.score_task(task, engine.manifest, pool)
    for path in (alone, logged):
        heat = log.heat_map(sha256_of(path.read_bytes()), row["model_version"])
        assert heat is not None
        assert heat.places[:8, :8].max() == 0
        assert heat.places[8:, 8:].min() > 0


def test_a_limit_of_zero_bytes_deletes_and_stores_no_thumbnails(
    database_url: str, models_dir: Path, log: Database
) -> None:
    save_thumbnails(log, 3)
    with service(database_url, models_dir, thumbnail_max_bytes=0) as client:
        row = client.post("/detect", files={"file": png()}).json()
        assert client.get(f"/pictures/{row['image_sha256']}").status_code == 404
    assert query(database_url, "SELECT count(*) FROM pictures") == [(0,)]


def test_scores_recorded_by_the_command_have_thumbnails(
    database_url: str, models_dir: Path, tmp_path: Path, log: Database
) -> None:
    (tmp_path / "sky").mkdir()
    for seed in range(3):
        (tmp_path / "sky" / f"{seed}.png").write_bytes(png(seed))
    (tmp_path / "sky" / "torn.png").write_bytes(png()[:50])
    done = subprocess.run(
        [sys.executable, "-m", "astrodetect", "score", str(tmp_path / "sky"), "--log", "--output", tmp_path / "t.csv"],
        cwd=ROOT,
        env={"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models_dir), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sha256s = {sha256_of(png(seed)) for seed in range(3)}
    assert log.images_with_thumbnails([*sha256s]) == sha256s
    assert query(database_url, "SELECT count(*) FROM heat_maps WHERE octet_length(places) = width * height") == [(3,)]


def test_a_scoring_run_that_cannot_store_thumbnails_warns_once_and_records_its_rows(
    database_url: str, log: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    query(database_url, "DROP TABLE pictures CASCADE")
    with score_worker.open_recorder(Settings(DATABASE_URL=database_url)) as record:
        for number in range(2):
            scored = replace(SCORED, image_sha256=f"{number:064x}", request_id=uuid.uuid4())
            record([scored], [Thumbnail(scored.image_sha256, b"jpeg", 1, 1)], [])
    assert query(database_url, "SELECT count(*) FROM predictions") == [(2,)]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("some scores are recorded without thumbnails: ")


def test_a_scoring_run_prunes_thumbnails(database_url: str, log: Database) -> None:
    names = save_thumbnails(log, 3)
    with score_worker.open_recorder(Settings(DATABASE_URL=database_url, thumbnail_max_bytes=2_000)) as record:
        record([SCORED], [Thumbnail(SCORED.image_sha256, bytes(1_000), 1, 1)], [])
    assert log.images_with_thumbnails([*names, SCORED.image_sha256]) == {names[2], SCORED.image_sha256}


def test_a_thumbnail_stored_again_is_kept_and_its_age_starts_anew(log: Database, database_url: str) -> None:
    [name] = save_thumbnails(log, 1)
    query(database_url, "UPDATE pictures SET \"timestamp\" = now() - interval '40 days'")
    log.save_thumbnails([Thumbnail(name, b"other", 9, 9)] * 2, [])
    assert log.thumbnail(name) == Thumbnail(name, bytes(1000), 2, 1)
    assert log.prune_thumbnails(days=MONTH, max_bytes=10**9) == 0


def test_old_thumbnails_are_deleted_but_for_labelled_images(
    log: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "THUMBNAIL_BATCH", 4)
    names = save_thumbnails(log, 20)
    query(
        database_url,
        "UPDATE pictures SET \"timestamp\" = now() - interval '40 days' WHERE image_sha256 < %s",
        names[15],
    )
    [row] = log.record_many([replace(SCORED, image_sha256=names[3])])
    log.add_label(row.id, "interesting", who=None, note=None)
    assert log.prune_thumbnails(days=MONTH, max_bytes=10**9) == 14
    remaining = {names[3], *names[15:]}
    assert log.images_with_thumbnails(names) == remaining
    assert {name for (name,) in query(database_url, "SELECT image_sha256 FROM heat_maps")} == remaining


def test_beyond_the_byte_limit_the_oldest_thumbnails_are_deleted(
    log: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "THUMBNAIL_BATCH", 4)
    names = save_thumbnails(log, 20, size=1000)
    [row] = log.record_many([replace(SCORED, image_sha256=names[0])])
    log.add_label(row.id, "artefact", who=None, note=None)
    assert log.prune_thumbnails(days=MONTH, max_bytes=8_500) == 12
    assert log.images_with_thumbnails(names) == {names[0], *names[13:]}
    assert log.prune_thumbnails(days=MONTH, max_bytes=8_500) == 0


def test_a_heat_map_is_stored_and_deleted_with_its_thumbnail(log: Database, database_url: str) -> None:
    def heat_map_of(image: str) -> HeatMap:
        return HeatMap(image, "1", np.zeros((2, 3), np.uint8), 0.5)

    [name] = save_thumbnails(log, 1)
    log.save_thumbnails(
        [], [heat_map_of(name), heat_map_of("0" * 63 + "9"), replace(heat_map_of(name), model_version="2")]
    )
    assert query(database_url, "SELECT image_sha256, model_version FROM heat_maps ORDER BY 2") == [
        (name, "1"),
        (name, "2"),
    ]
    assert log.prune_thumbnails(days=MONTH, max_bytes=0) == 1
    assert query(database_url, "SELECT count(*) FROM heat_maps") == [(0,)]


def test_heat_maps_can_be_stored_while_thumbnails_are_deleted(log: Database, database_url: str) -> None:
    names = save_thumbnails(log, 200)
    heat_maps = [HeatMap(name, "2", np.zeros((2, 3), np.uint8), 0.5) for name in names]
    with ThreadPoolExecutor(2) as threads:
        deleted = threads.submit(log.prune_thumbnails, days=MONTH, max_bytes=50_000)
        for start in range(0, len(heat_maps), 10):
            log.save_thumbnails([], heat_maps[start : start + 10])
        assert deleted.result() + log.prune_thumbnails(days=MONTH, max_bytes=50_000) == 150
    assert log.images_with_thumbnails(names) == set(names[150:])
    assert {name for (name,) in query(database_url, "SELECT image_sha256 FROM heat_maps")} == set(names[150:])


def test_two_services_do_not_prune_at_the_same_time(log: Database, database_url: str) -> None:
    names = save_thumbnails(log, 3)
    other = connect(database_url, timeout_s=5)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [database.PRUNING])
        assert log.prune_thumbnails(days=MONTH, max_bytes=0) == 0
        cursor.execute("SELECT pg_advisory_unlock(%s)", [database.PRUNING])
        assert log.prune_thumbnails(days=MONTH, max_bytes=0) == len(names)
    other.close()
