"""The Live page: the newest predictions and where the stream continues."""

import re
from collections.abc import Callable

from malicious_server import png
from programs import query
from starlette.testclient import TestClient

from astrodetect.service.web.live import ROWS_SHOWN

ROW = "INSERT INTO predictions (image_name, score, result, novelty) VALUES (%s, 0.1, %s, %s)"
AWAY = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
BROWSER = {"Accept": "text/html"}


def card_ids(page: str) -> list[int]:
    """The ids of the cards, in order."""
    return [int(id_) for id_ in re.findall(r'<li class="card[^"]*" id="p(\d+)"', page)]


def test_the_page_shows_the_newest_rows_and_where_the_stream_continues(client: TestClient, database_url: str) -> None:
    empty = client.get("/live").text
    assert (card_ids(empty), 'data-after="0"' in empty) == ([], True)
    assert re.search(r'id="empty">', empty)
    for number in range(1, ROWS_SHOWN + 5):
        query(database_url, ROW, f"{number}.png", "No Anomaly", None)
    page = client.get("/live").text
    assert card_ids(page) == list(range(ROWS_SHOWN + 4, 4, -1))
    assert f'data-after="{ROWS_SHOWN + 4}"' in page
    assert re.search(r'id="empty" hidden>', page)


def test_anomalies_and_unusual_images_are_marked_and_can_be_shown_alone(client: TestClient, database_url: str) -> None:
    for name, result, novelty in (
        ("a", "Anomaly Detected", None),
        ("b", "No Anomaly", 0.5),
        ("c", "No Anomaly", 0.99),
        ("d", "Anomaly Detected", 1.0),
        ("e", "No Anomaly", 0.98),
    ):
        query(database_url, ROW, name, result, novelty)
    page, only = client.get("/live").text, client.get("/live?only=unusual").text
    assert card_ids(page) == [5, 4, 3, 2, 1]
    assert card_ids(only) == [4, 3, 1]
    assert "/live/events?only=unusual" in only
    assert re.findall(r'class="card anomalous" id="p(\d)"', page) == ["4", "1"]
    assert re.findall(r'class="card unusual" id="p(\d)"', page) == ["3"]
    assert page.count("◆ unusual") == 1


def test_a_new_row_has_its_thumbnail_and_an_old_row_without_one_says_so(client: TestClient, database_url: str) -> None:
    row = client.post("/detect", files={"file": ("m51.png", png())}).json()
    query(database_url, ROW, "of psql", "No Anomaly", None)
    page = client.get("/live").text
    assert page.count(f'src="/pictures/{row["image_sha256"]}"') == page.count("no thumbnail") == 1


def test_markup_in_names_is_escaped(client: TestClient, database_url: str) -> None:
    query(database_url, ROW, "<script>alert(1)</script>\u202egpj.png", "<i>anomalous</i>", None)
    page = client.get("/live").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;⟨U+202E⟩gpj.png" in page
    assert "<i>" not in page


def test_invalid_filters_and_stream_positions_are_refused(client: TestClient) -> None:
    for url in ("/live?only=stars", "/live/events?after=-1", "/live/events?after=x", "/live/events?after=5.x"):
        assert client.get(url).status_code == 422
    assert client.get("/live/events", headers={"Last-Event-ID": "<script>"}).status_code == 422


def test_without_postgresql_the_page_is_an_error(start: Callable[..., TestClient]) -> None:
    page = start(database_url=AWAY).get("/live", headers=BROWSER)
    assert page.status_code == 503
    assert "does not answer" in page.text
