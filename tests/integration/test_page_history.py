"""The history page: filters in its address, pages by key both ways, and what it says where there is nothing to show."""

import gc
import re
import threading
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect.service.web import history
from astrodetect.settings import Settings
from main import create_app

HTMX = {"HX-Request": "true"}
BROWSER = {"Accept": "text/html"}
HOSTILE = '<script>alert(1)</script>"onload="\u202egpj.png' + "x" * 10_000
ROWS = [  # id, name, score, result, day, model, label, novelty
    (1, "NGC 7.jpg", 0.1, "No Anomaly", "2026-11-01", "first", "SB", 0.2),
    (2, "m51_100%.jpg", 0.6, "Anomaly Detected", "2026-11-02", "first", "E", 0.999),
    (3, "ngc 8.jpg", 0.9, "Anomaly Detected", "2026-11-03", "second", "E", None),
    (4, "ring.fits", 0.7, "merger", "2026-11-03", "galaxies", "merger", 0.5),
]


@pytest.fixture
def some(page_client: TestClient, log_url: str) -> None:
    for row in ROWS:
        query(
            log_url,
            'INSERT INTO predictions (id, image_name, score, result, "timestamp", model, label, novelty)'
            " VALUES (%s, %s, %s, %s, (%s || ' 12:00Z')::timestamptz, %s, %s, %s)",
            *row,
        )


def many(log_url: str, first: int, last: int) -> None:
    """Rows with these ids, every other one an anomaly."""
    query(
        log_url,
        "INSERT INTO predictions (id, image_name, score, result, image_sha256) SELECT n, n || '.jpg', 0.5,"
        " CASE WHEN n %% 2 = 1 THEN 'Anomaly Detected' ELSE 'No Anomaly' END, encode(sha256(n::text::bytea), 'hex')"
        " FROM generate_series(%s, %s) n",
        first,
        last,
    )


def ids(page: Any) -> list[int]:
    return [int(id_) for id_ in re.findall(r'class="name" href="/history/(\d+)', page.text)]


def link(page: Any, name: str) -> str:
    """Where the link with this id leads, empty where there is none."""
    found = re.search(rf'id="{name}"[^>]* href="([^"]+)"', page.text)
    return unescape(found[1]) if found else ""


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", [4, 3, 2, 1]),
        ("result=Anomaly+Detected", [3, 2]),
        ("result=merger", [4]),
        ("label=E", [3, 2]),
        ("min_score=0.6", [4, 3, 2]),
        ("min_score=.6&max_score=0.7", [4, 2]),
        ("min_novelty=0.5", [4, 2]),
        ("since=2026-11-02", [4, 3, 2]),
        ("until=2026-11-02", [2, 1]),  # that day too, as people mean it
        ("since=2026-11-02&until=2026-11-02", [2]),
        ("model=second", [3]),
        ("name=ngc", [3, 1]),
        ("name=100%25", [2]),
        ("name=ngc&min_score=0.5&result=Anomaly+Detected&until=2026-11-03", [3]),
        ("name=ngc&model=galaxies", []),
    ],
)
def test_each_filter_of_the_address_narrows_what_is_shown(
    page_client: TestClient, some: None, asked: str, found: list[int]
) -> None:
    page = page_client.get(f"/history?{asked}")
    assert (page.status_code, ids(page)) == (200, found)
    assert ("Nothing matches" in page.text) == (not found)


def test_every_row_comes_once_page_by_page_both_ways_while_new_ones_come(page_client: TestClient, log_url: str) -> None:
    many(log_url, 1, 2 * history.A_PAGE + 10)
    page, shown = page_client.get("/history"), []
    assert link(page, "newer") == ""
    shown.append(ids(page))
    while older := link(page, "older"):
        many(log_url, 1000 + len(shown), 1000 + len(shown))
        page = page_client.get(older)
        shown.append(ids(page))
    assert [id_ for some in shown for id_ in some] == list(range(2 * history.A_PAGE + 10, 0, -1))
    for some in reversed(shown[:-1]):
        page = page_client.get(link(page, "newer"))
        assert ids(page) == some
    last = page_client.get(link(page, "newer"))  # two new rows only: a whole page instead
    assert ids(last) == [1002, 1001, *shown[0][: history.A_PAGE - 2]]
    assert ids(page_client.get(link(page, "newest"))) == ids(last)


def test_links_to_other_pages_and_to_rows_keep_the_filters(page_client: TestClient, log_url: str) -> None:
    many(log_url, 1, 2 * history.A_PAGE + 2)
    page = page_client.get("/history?result=No+Anomaly")
    assert link(page, "older") == f"/history?result=No+Anomaly&before={ids(page)[-1]}"
    assert f'href="/history/{ids(page)[0]}?result=No+Anomaly"' in page.text
    older = page_client.get(link(page, "older"))
    assert ids(older) == [2]
    assert link(older, "newest") == "/history?result=No+Anomaly"
    assert re.findall(r'href="(/predictions[^"]+)"', older.text) == [
        "/predictions.csv?result=No+Anomaly",
        "/predictions.json?result=No+Anomaly",
    ]


def test_fields_that_a_form_sends_empty_ask_for_nothing(page_client: TestClient, some: None) -> None:
    sent = "/history?name=+ngc+&result=&min_score=&max_score=&since=&until=&model=&label=&min_novelty="
    answer = page_client.get(sent, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/history?name=ngc")
    assert ids(page_client.get(sent)) == [3, 1]
    assert ids(page_client.get(sent, headers=HTMX)) == [3, 1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("min_score=abc", "“abc” is no score: it is a number from 0 to 1, such as 0.9."),
        ("max_score=7", "“7” is no score"),
        ("min_novelty=nan", "“nan” is no novelty"),
        ("since=yesterday", "“yesterday” is no date: 2026-11-21 is one."),
        ("until=2026-02-30", "“2026-02-30” is no date"),
        ("until=2026", "“2026” is no date"),
        ("request_id=7", "“7” is no id of a request."),
        (f"name={'x' * 256}", "is too long: 255 characters at most."),
        ("min_score=%3Cscript%3Ealert(1)%3C/script%3E", "“<script>alert(1)</script>” is no score"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line_and_stays_as_it_was_typed(
    page_client: TestClient, some: None, asked: str, said: str
) -> None:
    page = page_client.get(f"/history?{asked}&model=first")
    assert (page.status_code, ids(page)) == (422, [])
    [line] = re.findall(r'<p class="problem" id="wrong">(.*)</p>', page.text)
    assert said in unescape(line)
    assert "<script>alert" not in page.text
    name, typed = asked.split("=")
    [kept] = re.findall(rf'name="{name}" value="([^"]*)"', page.text)
    assert unescape(kept) == typed.replace("%3C", "<").replace("%3E", ">")
    assert '<option value="first" selected>' in page.text
    part = page_client.get(f"/history?{asked}", headers=HTMX)
    assert (part.status_code, said in unescape(part.text)) == (200, True)


@pytest.mark.parametrize("edge", ["before=abc", "after=-1", "before=1e9", "after=" + "9" * 5000])
def test_an_edge_that_is_no_id_is_none(page_client: TestClient, some: None, edge: str) -> None:
    assert ids(page_client.get(f"/history?{edge}")) == [4, 3, 2, 1]


def test_each_filter_can_be_taken_away_by_itself(page_client: TestClient, some: None) -> None:
    page = page_client.get("/history?name=ngc&min_score=0.5&until=2026-11-03")
    links = [unescape(address) for address in re.findall(r'class="chip" href="([^"]+)"', page.text)]
    assert links == [
        "/history?min_score=0.5&until=2026-11-03",
        "/history?name=ngc&until=2026-11-03",
        "/history?name=ngc&min_score=0.5",
    ]
    assert "name has “ngc”" in page.text
    assert '<a href="/history">Clear all</a>' in page.text


def test_htmx_gets_the_rows_alone_with_the_address_for_them_and_going_back_all_of_the_page(
    page_client: TestClient, some: None
) -> None:
    asked = "/history?name=ngc&result=&min_score="
    part = page_client.get(asked, headers=HTMX)
    assert "<html" not in part.text
    assert part.text.count('id="rows"') == 1
    assert part.headers["hx-push-url"] == "/history?name=ngc"
    assert part.headers["vary"] == "HX-Request"
    assert ">2 predictions</p>" in part.text
    there = {"HX-Current-URL": "http://testserver/history?name=ngc"}
    assert page_client.get(asked, headers=HTMX | there).headers["hx-push-url"] == "false"
    whole = page_client.get("/history?name=ngc", headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in whole.text
    assert 'name="name" value="ngc"' in whole.text


def test_rows_show_pictures_and_labels_that_there_are(page_client: TestClient, log_url: str) -> None:
    many(log_url, 1, 2)
    sums = [sha for (sha,) in query(log_url, "SELECT image_sha256 FROM predictions ORDER BY id")]
    query(log_url, "INSERT INTO pictures (image_sha256, jpeg, width, height) VALUES (%s, '', 1, 1)", sums[0])
    for label in ("interesting", "artefact"):
        page_client.post("/predictions/1/label", json={"label": label})
    page = page_client.get("/history").text
    assert f'src="/pictures/{sums[0]}"' in page
    assert sums[1] not in page
    assert page.count("no picture kept") == 1
    assert page.count('<span class="chip artefact">') == 1
    assert '<span class="chip interesting">' not in page


def test_labels_of_rows_whose_image_nobody_can_tell_are_shown(page_client: TestClient, some: None) -> None:
    page_client.post("/predictions/2/label", json={"label": "artefact"})
    assert page_client.get("/history").text.count('<span class="chip artefact">') == 1
    assert 'Labelled <span class="chip artefact">' in page_client.get("/review?id=2").text


def test_a_page_asks_the_log_as_often_for_many_rows_as_for_one(
    page_client: TestClient, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Any = page_client.app.state.database  # type: ignore[attr-defined]
    asked, run = [], database._run

    def counted(statement: str, values: Any) -> Any:
        if threading.current_thread().name.startswith("AnyIO"):  # a request's, not the album's
            asked.append(statement)
        return run(statement, values)

    monkeypatch.setattr(database, "_run", counted)
    many(log_url, 1, 1)
    page_client.get("/history")
    once = len(asked)
    many(log_url, 2, history.A_PAGE + 5)
    page_client.get("/history")
    assert once > 0
    assert len(asked) == 2 * once


def test_names_that_are_markup_are_text_and_short(page_client: TestClient, log_url: str) -> None:
    query(log_url, "INSERT INTO predictions (image_name, score, result) VALUES (%s, 0.5, %s)", HOSTILE, HOSTILE[:90])
    for path in ("/history", "/history?name=%3Cscript%3E&model=%22%3E%3Cscript%3E"):
        page = page_client.get(path).text
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "x" * 100 not in page
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\shx-on|javascript:", page) == []
    assert "&lt;script&gt;alert(1)" in page_client.get("/history").text
    assert '<option value="&#34;&gt;&lt;script&gt;" selected>' in page


def test_an_empty_log_leads_to_where_images_come_from_and_a_page_beyond_it_to_the_newest(
    page_client: TestClient, log_url: str
) -> None:
    page = page_client.get("/history").text
    assert "Nothing is logged yet" in page
    assert 'data-after="0"' in page
    many(log_url, 5, 5)
    assert "The log ends here" in page_client.get("/history?before=5").text
    assert ids(page_client.get("/history?after=5")) == [5]
    assert 'data-after="5"' in page_client.get("/history").text
    assert "data-after" not in page_client.get("/history?result=merger").text


def test_while_postgresql_is_away_the_page_says_so_and_the_filters_are_not_lost(tmp_path: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=tmp_path))) as client:
        page = client.get("/history?name=ngc&min_score=0.5", headers=BROWSER)
        assert (page.status_code, "hunter2" in page.text) == (503, False)
        assert 'href="/history?name=ngc&amp;min_score=0.5">Try again</a>' in page.text
        assert client.get("/history/1", headers=BROWSER).status_code == 503
        for kind in ("csv", "json"):
            assert client.get(f"/predictions.{kind}").status_code == 503
    gc.collect()
