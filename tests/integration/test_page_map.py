"""The map as a page: its points over a real log, what is said of one, and what to do where there is none yet."""

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.model_store.manifest import read_manifest
from astrodetect.records import Prediction, ScoredImage
from astrodetect.service import projection_jobs
from database import Database

NAME, COUNT = "resnet50_model", 24
BYTES_A_POINT = 15
WITHIN_S = 60.0
BROWSER = {"Accept": "text/html"}
HTMX = {"HX-Request": "true", "Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>\u202egpj.png"
SOON = """
from astrodetect.anomalies import projection
projection.NICENESS = 0
projection.tsne_projection = lambda vectors, _: projection.pca_projection(vectors)
projection.main()
"""
FAILS = (sys.executable, "-c", "raise SystemExit('no <memory> left')")

Start = Callable[..., TestClient]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with detectors, and one without."""
    folder = tmp_path_factory.mktemp("models")
    usual = np.stack([colour_models.image("nebula", seed) for seed in range(30)])
    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES)
    colour_models.attach_novelty(folder, NAME, usual)
    colour_models.publish(folder, "plain", colour_models.TWO_CLASSES)
    return folder


@pytest.fixture
def space(folder: Path) -> str:
    return read_manifest(folder / f"{NAME}.json").space or ""


@pytest.fixture
def rows(database_url: str, space: str) -> list[Prediction]:
    """Images in the log, the later the more unusual; the name of the last one is out for mischief."""
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


def drawn(client: TestClient) -> str:
    """The page, once a map is drawn."""
    give_up = time.monotonic() + WITHIN_S
    client.get("/map", headers=BROWSER)
    while "hx-get" in client.get("/map/progress", headers=HTMX).text:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    return client.get("/map", headers=BROWSER).text


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that draws spares itself t-SNE, and goes before nobody."""
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess((sys.executable, "-c", SOON)))


def test_whoever_asks_for_the_map_has_it_drawn(start: Start, rows: list[Prediction]) -> None:
    client = start()
    first = client.get("/map", headers=BROWSER)
    assert first.status_code == 200
    assert 'hx-get="/map/progress?shown=" hx-trigger="every 1s"' in first.text  # on and on, whatever an answer was
    page = drawn(client)
    assert f"{COUNT} images by {projection.TSNE_METHOD}" in page
    assert '/map.js"' in page
    assert "Draw it again" in page
    assert "every 1s" not in page
    for legend in ("nebula", "lawn", "not labelled", "interesting", "less than half"):
        assert f"{legend} <span" in page
    assert client.get("/map/progress?shown=", headers=HTMX).headers["hx-refresh"] == "true"
    assert "hx-refresh" not in client.get("/map/progress?shown=2026", headers=HTMX).headers


def test_the_points_are_few_bytes_and_asked_for_once(start: Start, rows: list[Prediction]) -> None:
    client = start()
    assert client.get("/map/points").status_code == 404
    drawn(client)
    client.post(f"/predictions/{rows[3].id}/label", json={"label": "artefact"})
    answer = client.get("/map/points")
    assert len(answer.content) == BYTES_A_POINT * COUNT
    ids = np.frombuffer(answer.content, "<f8", COUNT)
    assert ids.tolist() == [row.id for row in reversed(rows)]  # the most unusual first
    xy = np.frombuffer(answer.content, "<u2", 2 * COUNT, 8 * COUNT).reshape(COUNT, 2)
    assert (xy.min(axis=0).tolist(), xy.max(axis=0).tolist()) == ([0, 0], [65535, 65535])
    by_class, by_label, by_novelty = np.frombuffer(answer.content, np.uint8, offset=12 * COUNT).reshape(3, COUNT)
    assert by_class[::-1].tolist() == [0, 0, 1] * (COUNT // 3)
    assert by_label[::-1].tolist() == [3 if number == 3 else 0 for number in range(COUNT)]
    assert set(by_novelty.tolist()) == {0, 1, 2, 4}
    assert by_novelty.tolist() == sorted(by_novelty.tolist(), reverse=True)
    again = client.get("/map/points", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.post(f"/predictions/{rows[4].id}/label", json={"label": "ordinary"})
    assert client.get("/map/points", headers={"If-None-Match": answer.headers["etag"]}).status_code == 200


def test_what_is_said_of_a_point_is_harmless(start: Start, rows: list[Prediction]) -> None:
    client = start()
    client.post(f"/predictions/{rows[-1].id}/label", json={"label": "interesting"})
    answer = client.get(f"/map/image/{rows[-1].id}?place=1&of={COUNT}", headers=HTMX)
    for said in ("&lt;script&gt;alert(1)", "⟨U+202E⟩", "No Anomaly", "interesting", f"image 1 of {COUNT}"):
        assert said in answer.text
    assert "<script" not in answer.text
    assert f'href="/history/{rows[-1].id}"' in answer.text
    assert client.get("/map/image/999999", headers=HTMX).status_code == 404
    assert client.get("/map/image/0", headers=HTMX).status_code == 422


def test_a_map_says_how_many_images_it_lacks_and_is_drawn_again(
    start: Start, rows: list[Prediction], space: str, database_url: str
) -> None:
    client = start()
    assert "new image" not in drawn(client)
    log = Database(database_url, connections=1, timeout_s=5)
    log.record_many([replace(scored(COUNT + n, space), novelty=0.5, request_id=uuid.uuid4()) for n in range(2)])
    log.close()
    assert "Draw it again (2 new images)" in client.get("/map", headers=BROWSER).text
    again = client.post("/map", headers=BROWSER)
    assert (again.status_code, again.headers["location"]) == (303, "/map")
    assert f"{COUNT + 2} images by" in drawn(client)
    part = client.post("/map", headers=HTMX)
    assert (part.status_code, part.text.startswith('<div id="drawn"')) == (200, True)
    assert "finer" not in part.text  # the map that there is stays until then


def test_a_map_is_there_after_a_restart(start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    points = None
    for _ in range(2):
        client = start()
        drawn(client)
        points, before = client.get("/map/points").content, points
        monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(FAILS))  # and none is drawn
    assert points == before


def test_a_page_that_waits_for_a_map_that_nobody_draws_any_more_has_it_drawn(
    start: Start, rows: list[Prediction]
) -> None:
    client = start()
    give_up = time.monotonic() + WITHIN_S
    while "hx-get" in client.get("/map/progress?shown=", headers=HTMX).text:  # without a look at the page
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert f"{COUNT} images by {projection.TSNE_METHOD}" in client.get("/map", headers=BROWSER).text


def test_why_there_is_no_map_is_said(
    start: Start, rows: list[Prediction], monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(projection_jobs, "ProjectionProcess", lambda: ProjectionProcess(FAILS))
    page = drawn(start())
    assert "no &lt;memory&gt; left" in page
    assert "Try again" in page
    assert projection.PCA_METHOD in page  # which is there whatever comes
    assert "carries no detectors" in start(model="plain").get("/map", headers=BROWSER).text
    assert "no model yet" in start(model="nowhere").get("/map", headers=BROWSER).text
    query(database_url, "DELETE FROM features WHERE prediction_id > %s", rows[2].id)
    few = start(data_dir=tmp_path / "another")
    assert "3 images have been scored" in few.get("/map", headers=BROWSER).text
    query(database_url, "DROP TABLE features")
    assert "pgvector" in start().get("/map", headers=BROWSER).text


def test_while_postgresql_is_away_the_map_says_so(start: Start) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    client = start(database_url=url)
    for path in ("/map", "/map/progress", "/map/points", "/map/image/1"):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 503
        assert "hunter2" not in answer.text


def test_new_images_are_counted_up_to_what_is_asked_for(rows: list[Prediction], database_url: str, space: str) -> None:
    log = Database(database_url, connections=1, timeout_s=5)
    assert log.newcomers(space, after=rows[-4].id, most=100) == 3
    assert log.newcomers(space, after=0, most=5) == 5
    assert log.newcomers("another", after=0, most=5) == 0
    log.close()
