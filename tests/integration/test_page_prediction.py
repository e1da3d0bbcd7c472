"""The page of one prediction: everything that is known of it, and labels given and taken back."""

import re
from contextlib import closing
from html import unescape
from typing import Any

import numpy as np
import psycopg2
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect.records import HeatMap, Thumbnail
from astrodetect.service.web import prediction
from database import SQL

HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}
SUM, OTHER = "a" * 64, "b" * 64
HOSTILE = '<script>alert(1)</script>"onload="\u202egpj.png' + "x" * 10_000
INSERT = (
    "INSERT INTO predictions (id, image_name, score, result, image_sha256, model, model_version, label, novelty,"
    " threshold, probabilities, space, request_id) VALUES (%s, %s, 0.75, 'Anomaly Detected', %s, 'resnet50_model', %s,"
    """ 'E', 0.9924, 0.5, '{"E": 0.75, "SB": 0.25}', '5f0c3a9be214', gen_random_uuid())"""
)


@pytest.fixture
def three(page_client: TestClient, log_url: str) -> None:
    """Two predictions of one image, by two versions of a model, and one of another image."""
    for id_, name, image, version in (
        (1, "m51.jpg", SUM, "v1"),
        (2, "m52.jpg", OTHER, "v2"),
        (3, "m51.jpg", SUM, "v2"),
    ):
        query(log_url, INSERT, id_, name, image, version)


def database(client: TestClient) -> Any:
    return client.app.state.database  # type: ignore[attr-defined]


def given(log_url: str) -> list[tuple[Any, ...]]:
    return query(log_url, "SELECT prediction_id, label, who, note FROM labels ORDER BY id")


def test_all_that_is_known_of_a_prediction_stands_on_its_page(page_client: TestClient, three: None) -> None:
    page = unescape(page_client.get("/history/3").text)
    for known in (
        "m51.jpg",
        "score 0.750, anomaly above 0.5",
        "75.0 %",
        "More unusual than 99.2 % of the training images.",
        "resnet50_model",
        "version v2",
        SUM,
        "5f0c3a9be214",
        'href="/predictions/3"',
        'hx-get="/history/3/alike"',
    ):
        assert known in page, known
    assert page_client.get("/predictions/3").json()["request_id"] in page
    [others] = re.findall(r"<tbody>(.*)</tbody>", page, re.S)
    assert re.findall(r'href="/history/(\d+)"', others) == ["1"]
    assert "scored again" not in page_client.get("/history/2").text


def test_the_way_to_newer_and_older_ones_keeps_to_the_filters_that_led_here(
    page_client: TestClient, three: None
) -> None:
    around = re.compile(r'rel="(prev|next)"[^>]* href="([^"]+)"')
    assert around.findall(page_client.get("/history/2").text) == [("prev", "/history/3"), ("next", "/history/1")]
    page = page_client.get("/history/1?name=m51").text
    assert around.findall(page) == [("prev", "/history/3?name=m51")]
    assert '<a href="/history?name=m51">Those that match</a>' in page


def test_the_picture_is_shown_with_where_this_very_model_looked(page_client: TestClient, three: None) -> None:
    picture = Thumbnail(SUM, b"jpeg", width=200, height=100)
    heat = HeatMap(SUM, "v2", np.array([[0, 255]], np.uint8), crop=0.5)
    database(page_client).keep_pictures([picture], [heat])
    page = page_client.get("/history/3").text
    assert f'<image href="/pictures/{SUM}" width="200" height="100"/>' in page
    assert re.search(r'class="heat" href="data:image/png;base64,\w[^"]*" x="75.0" y="25.0" width="50.0"', page)
    older = page_client.get("/history/1").text
    assert f'<image href="/pictures/{SUM}"' in older
    assert 'class="heat"' not in older
    assert "No heat map is kept" in older


def test_where_there_is_no_picture_the_page_says_why(page_client: TestClient, three: None, log_url: str) -> None:
    assert "has gone to make room" in page_client.get("/history/2").text
    query(log_url, """UPDATE predictions SET "timestamp" = now() - interval '400 days' WHERE id = 2""")
    assert "Pictures go after 365 days" in page_client.get("/history/2").text
    query(log_url, "UPDATE predictions SET image_sha256 = NULL WHERE id = 2")
    assert "kept no sum of the image" in page_client.get("/history/2").text
    settings = page_client.app.state.settings  # type: ignore[attr-defined]
    page_client.app.state.settings = settings.model_copy(update={"thumbnail_max_bytes": 0})  # type: ignore[attr-defined]
    try:
        assert "keeps no pictures" in page_client.get("/history/2").text
    finally:
        page_client.app.state.settings = settings  # type: ignore[attr-defined]


def test_what_an_older_program_logged_has_its_page(page_client: TestClient, log_url: str) -> None:
    query(log_url, "INSERT INTO predictions (id, image_name, score, result) VALUES (7, '', 0.25, 'No Anomaly')")
    page = page_client.get("/history/7").text
    assert "An image without a name" in page
    assert "score 0.250" in page
    assert "Not known: the model carries no detectors." in page
    assert "alike" not in page
    assert page_client.post("/history/7/label", data={"label": "ordinary"}, headers=HTMX).status_code == 200


def test_a_name_that_is_markup_is_text_and_all_of_it_is_there(
    page_client: TestClient, three: None, log_url: str
) -> None:
    query(log_url, "UPDATE predictions SET image_name = %s, model = %s, result = %s", HOSTILE, HOSTILE[:90], HOSTILE)
    page_client.post("/history/1/label", data={"label": "ordinary", "note": HOSTILE[:9000]})
    page = page_client.get("/history/1").text
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page) == []
    [name] = re.findall(r'<dd class="whole" tabindex="0"><bdi>([^<]*)</bdi>', page)
    assert unescape(name) == HOSTILE.replace("\u202e", "⟨U+202E⟩")
    [title] = re.findall(r"<title>([^<]*)</title>", page)
    assert len(unescape(title)) < 100


def test_without_scripts_a_label_is_given_and_taken_back(page_client: TestClient, three: None, log_url: str) -> None:
    sent = {"label": "interesting", "note": " a ring? ", "who": " Ada "}
    answer = page_client.post("/history/1/label", data=sent, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/history/1#labels-1")
    assert given(log_url) == [(1, "interesting", "Ada", "a ring?")]
    page = page_client.get("/history/3").text  # of the same image, so that it has the label too
    assert '<span class="chip interesting">' in page
    assert '<p class="note">a ring?</p>' in page
    assert 'value="Ada"' in page  # for the next label
    [undo] = re.findall(r'action="(/labels/\d+/undo)"', page)
    answer = page_client.post(undo, data={"prediction": "3"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/history/3#labels-3")
    assert given(log_url) == []


def test_htmx_gets_the_labels_alone_and_what_was_done(page_client: TestClient, three: None) -> None:
    page_client.post("/history/1/label", data={"label": "ordinary", "who": "Ada"}, headers=HTMX)
    part = page_client.post("/history/3/label", data={"label": "artefact"}, headers=HTMX)
    assert "<html" not in part.text
    assert re.findall(r'class="chip (\w+)"', part.text) == ["artefact", "ordinary"]
    assert part.headers["hx-trigger"] == '{"say": "Labelled artefact"}'
    newest, oldest = re.findall(r"/labels/(\d+)/undo\" hx-post", part.text)
    part = page_client.post(f"/labels/{newest}/undo", data={"prediction": "3"}, headers=HTMX)
    assert re.findall(r'class="chip (\w+)"', part.text) == ["ordinary"]
    assert part.headers["hx-trigger"] == '{"say": "No longer labelled artefact"}'
    again = page_client.post(f"/labels/{newest}/undo", data={"prediction": "3"}, headers=HTMX)
    assert (again.status_code, again.headers["hx-trigger"]) == (200, '{"say": "That label had gone already"}')
    assert int(oldest) < int(newest)


def test_of_many_labels_the_newest_are_shown(page_client: TestClient, three: None, log_url: str) -> None:
    query(log_url, "INSERT INTO labels (prediction_id, label) SELECT 1, 'ordinary' FROM generate_series(1, 25)")
    page = page_client.get("/history/3").text
    assert page.count('class="chip ordinary"') == prediction.MOST_LABELS
    assert "and 5 older ones" in page


def test_on_a_card_among_others_a_label_is_small_and_takes_no_keys(
    page_client: TestClient, three: None, log_url: str
) -> None:
    page_client.post("/history/1/label", data={"label": "ordinary", "who": "Ada"})
    part = page_client.post("/history/1/label", data={"label": "artefact", "small": "1"}, headers=HTMX).text
    assert re.findall(r'class="chip (\w+)"', part) == ["artefact"]
    assert "data-key" not in part
    assert "<textarea" not in part
    assert given(log_url)[-1] == (1, "artefact", "Ada", None)  # by whoever labelled before in this browser
    part = page_client.post("/labels/1000/undo", data={"prediction": "1", "small": "1"}, headers=HTMX).text
    assert "data-key" not in part


def test_an_image_that_was_scored_often_long_ago_costs_no_look_at_all_that_came_since(
    page_client: TestClient, log_url: str
) -> None:
    query(
        log_url,
        "INSERT INTO predictions (id, image_name, score, result, image_sha256) SELECT n, 'sky', 0, 'No Anomaly',"
        " CASE WHEN n <= 5000 THEN 'often' ELSE n::text END FROM generate_series(1, 10000) AS n",
    )
    query(log_url, "VACUUM ANALYZE predictions")
    called = {"images": ["often", "5001", "5002"], "ids": [7]}
    for statement, asked in (("of_image", {"image": "often", "limit": 12}), ("called", called)):
        with closing(psycopg2.connect(log_url)) as connection, connection.cursor() as cursor:
            cursor.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + SQL[statement], asked)
            [([said],)] = cursor.fetchall()
        assert said["Plan"]["Shared Hit Blocks"] + said["Plan"]["Shared Read Blocks"] < 30, statement  # of about 150


def test_what_is_not_there_is_said_on_a_page(page_client: TestClient, three: None, log_url: str) -> None:
    for path in ("/history/99", f"/history/{2**63 - 1}"):
        page = page_client.get(path, headers=BROWSER)
        assert (page.status_code, "There is nothing here" in page.text) == (404, True)
    for path in ("/history/0", "/history/m51", f"/history/{2**63}", "/history/" + "9" * 5000):
        assert page_client.get(path, headers=BROWSER).status_code == 422
    assert page_client.post("/history/99/label", data={"label": "ordinary"}).status_code == 404
    for sent in (
        {"label": "odd"},
        {},
        {"label": "ordinary", "note": "x" * 10_001},
        {"label": "ordinary", "who": "x" * 61},
    ):
        assert page_client.post("/history/1/label", data=sent).status_code == 422, sent
    assert page_client.post("/labels/1/undo").status_code == 422
    assert given(log_url) == []
