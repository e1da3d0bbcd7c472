"""The page of one prediction: its data, heat map, and adding and removing labels."""

import re
from contextlib import closing
from dataclasses import replace
from html import unescape
from typing import Any

import numpy as np
import psycopg2
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect.records import HeatMap, Thumbnail
from astrodetect.service.services import attach
from astrodetect.service.web import prediction
from database import SQL

HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}
SHA256, OTHER = "a" * 64, "b" * 64
HOSTILE = '<script>alert(1)</script>"onload="\u202egpj.png' + "x" * 10_000
INSERT = (
    "INSERT INTO predictions (id, image_name, score, result, image_sha256, model, model_version, label, novelty,"
    " threshold, probabilities, space, request_id) VALUES (%s, %s, 0.75, 'Anomaly Detected', %s, 'resnet50_model', %s,"
    """ 'E', 0.9924, 0.5, '{"E": 0.75, "SB": 0.25}', '5f0c3a9be214', gen_random_uuid())"""
)


@pytest.fixture
def predictions(page_client: TestClient, log_url: str) -> None:
    """Two predictions of one image, by two versions of a model, and one of another image."""
    for id_, name, image, version in (
        (1, "m51.jpg", SHA256, "v1"),
        (2, "m52.jpg", OTHER, "v2"),
        (3, "m51.jpg", SHA256, "v2"),
    ):
        query(log_url, INSERT, id_, name, image, version)


def database(client: TestClient) -> Any:
    return client.app.state.services.database  # type: ignore[attr-defined]


def stored_labels(log_url: str) -> list[tuple[Any, ...]]:
    return query(log_url, "SELECT prediction_id, label, who, note FROM labels ORDER BY id")


def test_the_page_shows_all_data_of_a_prediction(page_client: TestClient, predictions: None) -> None:
    page = unescape(page_client.get("/history/3").text)
    for text in (
        "m51.jpg",
        "score 0.750, threshold 0.5",
        "75.0 %",
        "Novelty above that of 99.2 % of the training images.",
        "resnet50_model",
        "version v2",
        SHA256,
        "5f0c3a9be214",
        'href="/predictions/3"',
        'hx-get="/history/3/alike"',
    ):
        assert text in page, text
    assert page_client.get("/predictions/3").json()["request_id"] in page
    [others] = re.findall(r"<tbody>(.*)</tbody>", page, re.S)
    assert re.findall(r'href="/history/(\d+)"', others) == ["1"]
    assert "Other predictions" not in page_client.get("/history/2").text


def test_links_to_the_newer_and_older_prediction_keep_the_filters(page_client: TestClient, predictions: None) -> None:
    neighbours = re.compile(r'rel="(prev|next)"[^>]* href="([^"]+)"')
    assert neighbours.findall(page_client.get("/history/2").text) == [("prev", "/history/3"), ("next", "/history/1")]
    page = page_client.get("/history/1?name=m51").text
    assert neighbours.findall(page) == [("prev", "/history/3?name=m51")]
    assert '<a href="/history?name=m51">Filtered history</a>' in page


def test_the_thumbnail_is_shown_with_the_heat_map_of_the_same_model_version(
    page_client: TestClient, predictions: None
) -> None:
    thumbnail = Thumbnail(SHA256, b"jpeg", width=200, height=100)
    heat_map = HeatMap(SHA256, "v2", np.eye(7, dtype=np.uint8) * 255, crop=0.5)
    database(page_client).save_thumbnails([thumbnail], [heat_map])
    page = page_client.get("/history/3").text
    assert f'<image class="pixels" href="/pictures/{SHA256}" width="200" height="100"/>' in page
    assert re.search(r'class="heat-map" href="data:image/png;base64,\w[^"]*" x="75.0" y="25.0" width="50.0"', page)
    older = page_client.get("/history/1").text
    assert f'<image class="pixels" href="/pictures/{SHA256}"' in older
    assert 'class="heat-map"' not in older
    assert "No heat map: the version of the model" in older


def test_the_page_says_why_there_is_no_thumbnail(page_client: TestClient, predictions: None, log_url: str) -> None:
    assert "deleted to free space" in page_client.get("/history/2").text
    query(log_url, """UPDATE predictions SET "timestamp" = now() - interval '400 days' WHERE id = 2""")
    assert "deleted after 365 days" in page_client.get("/history/2").text
    query(log_url, "UPDATE predictions SET image_sha256 = NULL WHERE id = 2")
    assert "no SHA-256 of the image" in page_client.get("/history/2").text
    app: Any = page_client.app
    services = app.state.services
    settings = services.settings.model_copy(update={"thumbnail_max_bytes": 0})
    attach(app, replace(services, settings=settings))
    try:
        assert "stores no thumbnails" in page_client.get("/history/2").text
    finally:
        attach(app, services)


def test_rows_of_older_programs_have_a_page(page_client: TestClient, log_url: str) -> None:
    query(log_url, "INSERT INTO predictions (id, image_name, score, result) VALUES (7, '', 0.25, 'No Anomaly')")
    page = page_client.get("/history/7").text
    assert "Unnamed image" in page
    assert "score 0.250" in page
    assert "Novelty unknown: the model has no detectors." in page
    assert "alike" not in page
    assert page_client.post("/history/7/label", data={"label": "ordinary"}, headers=HTMX).status_code == 200


def test_markup_in_a_name_is_escaped_and_the_whole_name_shown(
    page_client: TestClient, predictions: None, log_url: str
) -> None:
    query(log_url, "UPDATE predictions SET image_name = %s, model = %s, result = %s", HOSTILE, HOSTILE[:90], HOSTILE)
    page_client.post("/history/1/label", data={"label": "ordinary", "note": HOSTILE[:9000]})
    page = page_client.get("/history/1").text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []
    [name] = re.findall(r'<dd class="scrollable" tabindex="0"><bdi>([^<]*)</bdi>', page)
    assert unescape(name) == HOSTILE.replace("\u202e", "⟨U+202E⟩")
    [title] = re.findall(r"<title>([^<]*)</title>", page)
    assert len(unescape(title)) < 100


def test_without_scripts_a_label_is_added_and_removed(page_client: TestClient, predictions: None, log_url: str) -> None:
    form = {"label": "interesting", "note": " a ring? ", "who": " Ada "}
    response = page_client.post("/history/1/label", data=form, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/history/1#labels-1")
    assert stored_labels(log_url) == [(1, "interesting", "Ada", "a ring?")]
    page = page_client.get("/history/3").text  # of the same image, so that it has the label too
    assert '<span class="chip interesting">' in page
    assert '<p class="note">a ring?</p>' in page
    assert 'value="Ada"' in page  # for the next label
    [undo] = re.findall(r'action="(/labels/\d+/undo)"', page)
    response = page_client.post(undo, data={"prediction": "3"}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/history/3#labels-3")
    assert stored_labels(log_url) == []


def test_htmx_gets_the_labels_and_a_message(page_client: TestClient, predictions: None) -> None:
    page_client.post("/history/1/label", data={"label": "ordinary", "who": "Ada"}, headers=HTMX)
    fragment = page_client.post("/history/3/label", data={"label": "artefact"}, headers=HTMX)
    assert "<html" not in fragment.text
    assert re.findall(r'class="chip (\w+)"', fragment.text) == ["artefact", "ordinary"]
    assert fragment.headers["hx-trigger"] == '{"announce": "Labelled artefact"}'
    newest, oldest = re.findall(r"/labels/(\d+)/undo\" hx-post", fragment.text)
    fragment = page_client.post(f"/labels/{newest}/undo", data={"prediction": "3"}, headers=HTMX)
    assert re.findall(r'class="chip (\w+)"', fragment.text) == ["ordinary"]
    assert fragment.headers["hx-trigger"] == '{"announce": "Label artefact removed"}'
    again = page_client.post(f"/labels/{newest}/undo", data={"prediction": "3"}, headers=HTMX)
    assert (again.status_code, again.headers["hx-trigger"]) == (200, '{"announce": "That label was already removed"}')
    assert int(oldest) < int(newest)


def test_only_the_newest_labels_are_listed(page_client: TestClient, predictions: None, log_url: str) -> None:
    query(log_url, "INSERT INTO labels (prediction_id, label) SELECT 1, 'ordinary' FROM generate_series(1, 25)")
    page = page_client.get("/history/3").text
    assert page.count('class="chip ordinary"') == prediction.MAX_LABELS_SHOWN
    assert "and 5 older ones" in page


def test_labels_on_an_upload_card_are_compact_and_have_no_shortcuts(
    page_client: TestClient, predictions: None, log_url: str
) -> None:
    page_client.post("/history/1/label", data={"label": "ordinary", "who": "Ada"})
    fragment = page_client.post("/history/1/label", data={"label": "artefact", "compact": "1"}, headers=HTMX).text
    assert re.findall(r'class="chip (\w+)"', fragment) == ["artefact"]
    assert "data-key" not in fragment
    assert "<textarea" not in fragment
    assert stored_labels(log_url)[-1] == (1, "artefact", "Ada", None)  # the name that this browser gave before
    fragment = page_client.post("/labels/1000/undo", data={"prediction": "1", "compact": "1"}, headers=HTMX).text
    assert "data-key" not in fragment


def test_queries_by_image_use_the_index_for_an_image_with_many_old_rows(page_client: TestClient, log_url: str) -> None:
    query(
        log_url,
        "INSERT INTO predictions (id, image_name, score, result, image_sha256) SELECT n, 'sky', 0, 'No Anomaly',"
        " CASE WHEN n <= 5000 THEN 'often' ELSE n::text END FROM generate_series(1, 10000) AS n",
    )
    query(log_url, "VACUUM ANALYZE predictions")
    label_parameters = {"images": ["often", "5001", "5002"], "ids": [7]}
    for statement, parameters in (("by_image", {"image": "often", "limit": 12}), ("labels_by_image", label_parameters)):
        with closing(psycopg2.connect(log_url)) as connection, connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + SQL[statement], parameters)
            [([explained],)] = cursor.fetchall()
        plan = explained["Plan"]
        blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert blocks < 60, statement  # of about 150; two of them per row, for its match and its tags


def test_unknown_ids_and_invalid_labels_are_refused(page_client: TestClient, predictions: None, log_url: str) -> None:
    for path in ("/history/99", f"/history/{2**63 - 1}"):
        page = page_client.get(path, headers=BROWSER)
        assert (page.status_code, "Not found" in page.text) == (404, True)
    for path in ("/history/0", "/history/m51", f"/history/{2**63}", "/history/" + "9" * 5000):
        assert page_client.get(path, headers=BROWSER).status_code == 422
    assert page_client.post("/history/99/label", data={"label": "ordinary"}).status_code == 404
    for form in (
        {"label": "odd?"},
        {},
        {"label": "ordinary", "note": "x" * 10_001},
        {"label": "ordinary", "who": "x" * 61},
    ):
        assert page_client.post("/history/1/label", data=form).status_code == 422, form
    assert page_client.post("/labels/1/undo").status_code == 422
    assert stored_labels(log_url) == []
