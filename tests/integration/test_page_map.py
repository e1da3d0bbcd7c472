"""The Map page: its points, the tooltip of a point, and what it says while there is no map."""

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.model_store.manifest import read_manifest
from astrodetect.records import Prediction, ScoredImage
from astrodetect.service import projection_jobs
from astrodetect.service.novelty_updater import NoveltyUpdater
from astrodetect.service.web import projection_map
from database import Database

NAME, COUNT = "resnet50_model", 24
POINT_BYTES = 15
TIMEOUT_S = 60.0
BROWSER = {"Accept": "text/html"}
HTMX = {"HX-Request": "true", "Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>\u202egpj.png"
FAST_PROCESS = """
from astrodetect.anomalies import projection
projection.NICENESS = 0
projection.tsne_projection = lambda vectors, _: projection.pca_projection(vectors)
projection.main()
"""
FAILING_PROCESS = (sys.executable, "-c", "raise SystemExit('no <memory> left')")

Start = Callable[..., TestClient]


@pytest.fixture
def space(models_dir: Path) -> str:
    return read_manifest(models_dir / f"{NAME}.json").space or ""


@pytest.fixture
def rows(database_url: str, space: str) -> list[Prediction]:
    """Logged images of increasing novelty; the last one has a hostile name."""
    log = Database(database_url, connections=1, timeout_s=5)
    rows = log.record_many([scored(number, space) for number in range(COUNT)])
    log.close()
    return rows


def scored(number: int, space: str) -> ScoredImage:
    label = ("nebula", "nebula", "lawn")[number % 3]
    vector = np.random.default_rng(number).normal(size=5)
    vector[0] += 9 * (label == "lawn")
    return ScoredImage(
        HOSTILE if number == COUNT - 1 else f"{number}.png",
        f"{number:064x}",
        0.2,
        0.5,
        NAME,
        "1",
        label=label,
        novelty=number / (COUNT - 1),
        vector=tuple(vector.tolist()),
        space=space,
    )


def finished_map(client: TestClient) -> str:
    """The page, once the map is computed."""
    deadline = time.monotonic() + TIMEOUT_S
    client.get("/map", headers=BROWSER)
    while "hx-get" in client.get("/map/progress", headers=HTMX).text:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return client.get("/map", headers=BROWSER).text


@pytest.fixture(autouse=True)
def fast_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The projection process uses principal components instead of t-SNE, at normal priority."""
    monkeypatch.setattr(
        projection_jobs, "ProjectionProcess", lambda: ProjectionProcess((sys.executable, "-c", FAST_PROCESS))
    )


def test_the_first_request_for_the_page_starts_the_projection(start: Start, rows: list[Prediction]) -> None:
    client = start()
    first = client.get("/map", headers=BROWSER)
    assert first.status_code == 200
    assert 'hx-get="/map/progress?shown=" hx-trigger="every 1s"' in first.text
    page = finished_map(client)
    assert f"{COUNT} images by {projection.TSNE_METHOD}" in page
    assert '/map.js"' in page
    assert "Recompute" in page
    assert "every 1s" not in page
    for legend in ("nebula", "lawn", "not labelled", "interesting", "below 50 %"):
        assert f"{legend} <span" in page
    assert client.get("/map/progress?shown=", headers=HTMX).headers["hx-refresh"] == "true"
    assert "hx-refresh" not in client.get("/map/progress?shown=2026", headers=HTMX).headers


def test_the_first_projection_waits_until_the_log_is_described(
    start: Start, rows: list[Prediction], database_url: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(NoveltyUpdater, "step", lambda _: None)  # the update stays where it is
    monkeypatch.setattr(projection_jobs.ProjectionJobs, "start", lambda _, space: started.append(space))
    client = start()
    query(
        database_url,
        "INSERT INTO novelty_updates (model, space, newest_id, next_id, last_id) VALUES (%s, %s, 24, 9, 0)",
        NAME,
        space,
    )
    for path in ("/map", "/map/progress"):
        assert "every 1s" in client.get(path, headers=BROWSER).text
    assert started == []
    query(database_url, "UPDATE novelty_updates SET next_id = last_id + 1")
    client.get("/map/progress", headers=BROWSER)
    assert started == [space]


def test_points_are_compact_ordered_by_novelty_and_cached_by_etag(start: Start, rows: list[Prediction]) -> None:
    client = start()
    assert client.get("/map/points").status_code == 404
    finished_map(client)
    client.post(f"/predictions/{rows[3].id}/label", json={"label": "artefact"})
    response = client.get("/map/points")
    assert len(response.content) == POINT_BYTES * COUNT
    ids = np.frombuffer(response.content, "<f8", COUNT)
    assert ids.tolist() == [row.id for row in reversed(rows)]  # by descending novelty
    xy = np.frombuffer(response.content, "<u2", 2 * COUNT, 8 * COUNT).reshape(COUNT, 2)
    assert (xy.min(axis=0).tolist(), xy.max(axis=0).tolist()) == ([0, 0], [65535, 65535])
    by_class, by_label, by_novelty = np.frombuffer(response.content, np.uint8, offset=12 * COUNT).reshape(3, COUNT)
    assert by_class[::-1].tolist() == [0, 0, 1] * (COUNT // 3)
    assert by_label[::-1].tolist() == [3 if number == 3 else 0 for number in range(COUNT)]
    assert set(by_novelty.tolist()) == {0, 1, 2, 4}
    assert by_novelty.tolist() == sorted(by_novelty.tolist(), reverse=True)
    again = client.get("/map/points", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.post(f"/predictions/{rows[4].id}/label", json={"label": "ordinary"})
    assert client.get("/map/points", headers={"If-None-Match": response.headers["etag"]}).status_code == 200


def test_few_points_have_pictures_where_a_thumbnail_is_stored(
    start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    assert client.get("/map/pictures").json() == []  # no map yet
    finished_map(client)
    assert client.get("/map/pictures").json() == [None] * COUNT
    monkeypatch.setattr(projection_map, "MAX_PICTURED", COUNT - 1)
    assert client.get("/map/pictures").json() == []


def test_of_many_images_the_most_unusual_are_points_and_all_are_in_tiles(
    start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection_map, "MAX_POINTS", COUNT - 1)
    monkeypatch.setattr(projection_map, "MOST_UNUSUAL", 5)
    client = start()
    assert client.get("/map/tiles/0/0/0").status_code == 404  # no map yet
    page = finished_map(client)
    assert f'data-total="{COUNT}" data-fullest="1"' in page
    assert len(client.get("/map/points").content) == 5 * POINT_BYTES
    client.post(f"/predictions/{rows[3].id}/label", json={"label": "artefact"})
    response = client.get("/map/tiles/0/0/0?by=label")
    assert np.frombuffer(response.content, "<u4", 2).tolist() == [0, COUNT]
    assert {*np.frombuffer(response.content, "<f8", COUNT, 8).tolist()} == {row.id for row in rows}
    assert client.get("/map/tiles/0/0/0?by=label", headers={"If-None-Match": response.headers["etag"]}).content == b""
    assert client.get("/map/tiles/1/2/0").status_code == 404
    assert client.get("/map/tiles/9/0/0").status_code == client.get("/map/tiles/0/0/0?by=size").status_code == 422
    assert client.get("/map/density.png").content.startswith(b"\x89PNG")
    assert 'src="/map/density.png"' in page


def test_the_tooltip_of_a_point_escapes_its_image_name(start: Start, rows: list[Prediction]) -> None:
    client = start()
    client.post(f"/predictions/{rows[-1].id}/label", json={"label": "interesting"})
    response = client.get(f"/map/image/{rows[-1].id}?rank=1&total={COUNT}", headers=HTMX)
    for text in ("&lt;script&gt;alert(1)", "⟨U+202E⟩", "No Anomaly", "interesting", f"image 1 of {COUNT}"):
        assert text in response.text
    assert "<script" not in response.text
    assert f'href="/history/{rows[-1].id}"' in response.text
    assert client.get("/map/image/999999", headers=HTMX).status_code == 404
    assert client.get("/map/image/0", headers=HTMX).status_code == 422


def test_a_map_counts_new_images_and_is_recomputed(
    start: Start, rows: list[Prediction], space: str, database_url: str
) -> None:
    client = start()
    assert "new image" not in finished_map(client)
    log = Database(database_url, connections=1, timeout_s=5)
    log.record_many([replace(scored(COUNT + n, space), novelty=0.5, request_id=uuid.uuid4()) for n in range(2)])
    log.close()
    assert "Recompute (2 new images)" in client.get("/map", headers=BROWSER).text
    again = client.post("/map", headers=BROWSER)
    assert (again.status_code, again.headers["location"]) == (303, "/map")
    assert f"{COUNT + 2} images by" in finished_map(client)
    fragment = client.post("/map", headers=HTMX)
    assert (fragment.status_code, fragment.text.startswith('<div id="map-status"')) == (200, True)
    assert "t-SNE map" not in fragment.text  # the current map stays until then


def test_a_map_outlives_a_restart(start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    points = None
    for _ in range(2):
        client = start()
        finished_map(client)
        points, before = client.get("/map/points").content, points
        monkeypatch.setattr(
            projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(FAILING_PROCESS)
        )  # no second one
    assert points == before


def test_polling_starts_the_projection_where_none_is_running(start: Start, rows: list[Prediction]) -> None:
    client = start()
    deadline = time.monotonic() + TIMEOUT_S
    while "hx-get" in client.get("/map/progress?shown=", headers=HTMX).text:  # the page itself is not requested
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert f"{COUNT} images by {projection.TSNE_METHOD}" in client.get("/map", headers=BROWSER).text


def test_the_page_says_why_there_is_no_map(
    start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(FAILING_PROCESS))
    page = finished_map(start())
    assert "no &lt;memory&gt; left" in page
    assert "Try again" in page
    assert projection.PCA_METHOD in page  # shown while t-SNE is not available
    assert "has no novelty detectors" in start(model="colours").get("/map", headers=BROWSER).text
    assert "No model is loaded yet" in start(model="nowhere").get("/map", headers=BROWSER).text
    another = start(data_dir=tmp_path / "another").get("/map", headers=BROWSER).text  # of the same database
    assert "no &lt;memory&gt; left" in another
    assert projection.PCA_METHOD in another
    query(database_url, "DELETE FROM features WHERE prediction_id > %s", rows[2].id)
    query(database_url, "DELETE FROM leases")
    small = start(data_dir=tmp_path / "yet another")
    assert "3 images have been scored" in small.get("/map", headers=BROWSER).text
    query(database_url, "DROP TABLE features")
    assert "pgvector" in start().get("/map", headers=BROWSER).text


def test_without_postgresql_the_map_routes_fail_with_503(start: Start) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    client = start(database_url=url)
    for path in (
        "/map",
        "/map/progress",
        "/map/points",
        "/map/pictures",
        "/map/tiles/0/0/0",
        "/map/image/1",
        "/map/sky",
    ):
        response = client.get(path, headers=BROWSER)
        assert response.status_code == 503
        assert "hunter2" not in response.text


def test_new_images_are_counted_up_to_the_limit(rows: list[Prediction], database_url: str, space: str) -> None:
    log = Database(database_url, connections=1, timeout_s=5)
    assert log.embeddings.count_newer(space, after=rows[-4].id, most=100) == 3
    assert log.embeddings.count_newer(space, after=0, most=5) == 5
    assert log.embeddings.count_newer("another", after=0, most=5) == 0
    log.close()
