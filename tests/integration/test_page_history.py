"""The history page: filters in its URL, keyset pagination both ways, and empty and error states."""

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
from astrodetect.sky.healpix import cell_index
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
def rows(page_client: TestClient, log_url: str) -> None:
    for row in ROWS:
        query(
            log_url,
            'INSERT INTO predictions (id, image_name, score, result, "timestamp", model, label, novelty)'
            " VALUES (%s, %s, %s, %s, (%s || ' 12:00Z')::timestamptz, %s, %s, %s)",
            *row,
        )


def insert_rows(log_url: str, first: int, last: int) -> None:
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
    """The URL of the link with this id, or an empty string."""
    match = re.search(rf'id="{name}"[^>]* href="([^"]+)"', page.text)
    return unescape(match[1]) if match else ""


@pytest.mark.parametrize(
    ("query_string", "expected"),
    [
        ("", [4, 3, 2, 1]),
        ("result=Anomaly+Detected", [3, 2]),
        ("result=merger", [4]),
        ("label=E", [3, 2]),
        ("min_score=0.6", [4, 3, 2]),
        ("min_score=.6&max_score=0.7", [4, 2]),
        ("min_novelty=0.5", [4, 2]),
        ("since=2026-11-02", [4, 3, 2]),
        ("until=2026-11-02", [2, 1]),  # that day included
        ("since=2026-11-02&until=2026-11-02", [2]),
        ("model=second", [3]),
        ("name=ngc", [3, 1]),
        ("name=100%25", [2]),
        ("name=ngc&min_score=0.5&result=Anomaly+Detected&until=2026-11-03", [3]),
        ("name=ngc&model=galaxies", []),
    ],
)
def test_each_filter_of_the_url_selects_its_rows(
    page_client: TestClient, rows: None, query_string: str, expected: list[int]
) -> None:
    page = page_client.get(f"/history?{query_string}")
    assert (page.status_code, ids(page)) == (200, expected)
    assert ("No matches" in page.text) == (not expected)


def test_a_position_selects_the_rows_within_its_radius(page_client: TestClient, rows: None, log_url: str) -> None:
    for id_, ra, dec in ((1, 202.4696, 47.1952), (2, 202.4796, 47.1952), (3, 22.4696, -47.1952)):
        query(
            log_url,
            "UPDATE predictions SET ra = %s, dec = %s, healpix = %s, object_id = 'M51' WHERE id = %s",
            ra,
            dec,
            cell_index(ra, dec),
            id_,
        )
    for position in ("202.4696 47.1952", "13:29:52.7 +47:11:43", "13 29 52.7 47 11 43", "202.4696, 47.1952"):
        page = page_client.get("/history", params={"position": position})
        assert (page.status_code, ids(page)) == (200, [2, 1])
        page = page_client.get("/history", params={"position": position, "radius": "0.001"})
        assert ids(page) == [1]
        assert f"within 0.001° of {position}" in unescape(page.text)
    page = page_client.get("/history?position=202.4696+47.1952&radius=0.001&model=first")
    exports = [unescape(url) for url in re.findall(r'href="(/predictions[^"]+)"', page.text)]
    assert "/predictions.csv?model=first&radius=0.001&ra=202.4696&dec=47.1952" in exports
    assert len(page_client.get(exports[0]).text.splitlines()) == 2
    assert 'href="/history?model=first"' in page.text  # without the position, and so without its radius
    assert ids(page_client.get("/history?radius=0.001")) == [4, 3, 2, 1]
    page = page_client.get("/history?position=1+2&radius=far")
    assert (page.status_code, "“far” is not a radius: enter degrees from 0 to 180" in page.text) == (422, True)


def test_pagination_shows_every_row_once_in_both_directions_while_rows_are_inserted(
    page_client: TestClient, log_url: str
) -> None:
    insert_rows(log_url, 1, 2 * history.PAGE_SIZE + 10)
    page, pages = page_client.get("/history"), []
    assert link(page, "newer") == ""
    pages.append(ids(page))
    while older := link(page, "older"):
        insert_rows(log_url, 1000 + len(pages), 1000 + len(pages))
        page = page_client.get(older)
        pages.append(ids(page))
    assert [id_ for page_ids in pages for id_ in page_ids] == list(range(2 * history.PAGE_SIZE + 10, 0, -1))
    for page_ids in reversed(pages[:-1]):
        page = page_client.get(link(page, "newer"))
        assert ids(page) == page_ids
    last = page_client.get(link(page, "newer"))  # only two newer rows: the newest page instead
    assert ids(last) == [1002, 1001, *pages[0][: history.PAGE_SIZE - 2]]
    assert ids(page_client.get(link(page, "newest"))) == ids(last)


def test_links_to_pages_rows_and_exports_keep_the_filters(page_client: TestClient, log_url: str) -> None:
    insert_rows(log_url, 1, 2 * history.PAGE_SIZE + 2)
    page = page_client.get("/history?result=No+Anomaly")
    assert link(page, "older") == f"/history?result=No+Anomaly&before={ids(page)[-1]}"
    assert f'href="/history/{ids(page)[0]}?result=No+Anomaly"' in page.text
    older = page_client.get(link(page, "older"))
    assert ids(older) == [2]
    assert link(older, "newest") == "/history?result=No+Anomaly"
    assert re.findall(r'href="(/predictions[^"]+)"', older.text) == [
        f"/predictions.{kind}?result=No+Anomaly" for kind in ("csv", "json", "parquet", "vot", "fits")
    ]


def test_empty_form_fields_do_not_filter(page_client: TestClient, rows: None) -> None:
    url = "/history?name=+ngc+&result=&min_score=&max_score=&since=&until=&model=&label=&min_novelty="
    response = page_client.get(url, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (303, "/history?name=ngc")
    assert ids(page_client.get(url)) == [3, 1]
    assert ids(page_client.get(url, headers=HTMX)) == [3, 1]


@pytest.mark.parametrize(
    ("query_string", "message"),
    [
        ("min_score=abc", "“abc” is not a score: enter a number from 0 to 1, such as 0.9."),
        ("max_score=7", "“7” is not a score"),
        ("min_novelty=nan", "“nan” is not a novelty"),
        ("since=yesterday", "“yesterday” is not a date: enter one such as 2026-11-21."),
        ("until=2026-02-30", "“2026-02-30” is not a date"),
        ("until=2026", "“2026” is not a date"),
        ("position=M51", "“M51” is not a position: enter RA and Dec, such as 202.47 47.2"),
        ("position=400,0", "“400,0” is not a position"),
        ("request_id=7", "“7” is not a request id."),
        (f"name={'x' * 256}", "is too long: 255 characters at most."),
        ("min_score=%3Cscript%3Ealert(1)%3C/script%3E", "“<script>alert(1)</script>” is not a score"),
    ],
)
def test_an_invalid_filter_is_explained_and_stays_as_entered(
    page_client: TestClient, rows: None, query_string: str, message: str
) -> None:
    page = page_client.get(f"/history?{query_string}&model=first")
    assert (page.status_code, ids(page)) == (422, [])
    [line] = re.findall(r'<p class="problem" id="error">(.*)</p>', page.text)
    assert message in unescape(line)
    assert "<script>alert" not in page.text
    name, entered = query_string.split("=")
    [value] = re.findall(rf'name="{name}" value="([^"]*)"', page.text)
    assert unescape(value) == entered.replace("%3C", "<").replace("%3E", ">")
    assert '<option value="first" selected>' in page.text
    fragment = page_client.get(f"/history?{query_string}", headers=HTMX)
    assert (fragment.status_code, message in unescape(fragment.text)) == (200, True)


@pytest.mark.parametrize("edge", ["before=abc", "after=-1", "before=1e9", "after=" + "9" * 5000])
def test_an_invalid_page_edge_is_ignored(page_client: TestClient, rows: None, edge: str) -> None:
    assert ids(page_client.get(f"/history?{edge}")) == [4, 3, 2, 1]


def test_each_filter_has_a_link_that_removes_it(page_client: TestClient, rows: None) -> None:
    page = page_client.get("/history?name=ngc&min_score=0.5&until=2026-11-03")
    links = [unescape(url) for url in re.findall(r'class="chip" href="([^"]+)"', page.text)]
    assert links == [
        "/history?min_score=0.5&until=2026-11-03",
        "/history?name=ngc&until=2026-11-03",
        "/history?name=ngc&min_score=0.5",
    ]
    assert "name contains “ngc”" in page.text
    assert '<a href="/history">Clear all</a>' in page.text


def test_htmx_gets_the_rows_with_their_url_and_the_whole_page_for_its_history(
    page_client: TestClient, rows: None
) -> None:
    url = "/history?name=ngc&result=&min_score="
    fragment = page_client.get(url, headers=HTMX)
    assert "<html" not in fragment.text
    assert fragment.text.count('id="rows"') == 1
    assert fragment.headers["hx-push-url"] == "/history?name=ngc"
    assert fragment.headers["vary"] == "HX-Request"
    assert ">2 predictions</p>" in fragment.text
    current = {"HX-Current-URL": "http://testserver/history?name=ngc"}
    assert page_client.get(url, headers=HTMX | current).headers["hx-push-url"] == "false"
    whole = page_client.get("/history?name=ngc", headers=HTMX | {"HX-History-Restore-Request": "true"})
    assert "<html" in whole.text
    assert 'name="name" value="ngc"' in whole.text


def test_rows_show_stored_thumbnails_and_current_labels(page_client: TestClient, log_url: str) -> None:
    insert_rows(log_url, 1, 2)
    hashes = [sha for (sha,) in query(log_url, "SELECT image_sha256 FROM predictions ORDER BY id")]
    query(log_url, "INSERT INTO pictures (image_sha256, jpeg, width, height) VALUES (%s, '', 1, 1)", hashes[0])
    for label in ("interesting", "artefact"):
        page_client.post("/predictions/1/label", json={"label": label})
    page = page_client.get("/history").text
    assert f'src="/pictures/{hashes[0]}"' in page
    assert hashes[1] not in page
    assert page.count("no thumbnail") == 1
    assert page.count('<span class="chip artefact">') == 1
    assert '<span class="chip interesting">' not in page


def test_labels_of_rows_without_a_sha256_are_shown(page_client: TestClient, rows: None) -> None:
    page_client.post("/predictions/2/label", json={"label": "artefact"})
    assert page_client.get("/history").text.count('<span class="chip artefact">') == 1
    assert 'Current label: <span class="chip artefact">' in page_client.get("/review?id=2").text


def test_the_number_of_statements_does_not_depend_on_the_number_of_rows(
    page_client: TestClient, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Any = page_client.app.state.services.database  # type: ignore[attr-defined]
    statements, run = [], database._execute

    def count_and_run(statement: str, values: Any) -> Any:
        if threading.current_thread().name.startswith("reader"):  # a request's, not the thumbnail writer's
            statements.append(statement)
        return run(statement, values)

    monkeypatch.setattr(database, "_execute", count_and_run)
    insert_rows(log_url, 1, 1)
    page_client.get("/history")
    count = len(statements)
    insert_rows(log_url, 2, history.PAGE_SIZE + 5)
    page_client.get("/history")
    assert count > 0
    assert len(statements) == 2 * count


def test_markup_in_names_and_filters_is_escaped_and_shortened(page_client: TestClient, log_url: str) -> None:
    query(log_url, "INSERT INTO predictions (image_name, score, result) VALUES (%s, 0.5, %s)", HOSTILE, HOSTILE[:90])
    for path in ("/history", "/history?name=%3Cscript%3E&model=%22%3E%3Cscript%3E"):
        page = page_client.get(path).text
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "x" * 100 not in page
        assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\shx-on|javascript:", page) == []
    assert "&lt;script&gt;alert(1)" in page_client.get("/history").text
    assert '<option value="&#34;&gt;&lt;script&gt;" selected>' in page


def test_an_empty_history_and_a_page_beyond_its_end_say_how_to_go_on(page_client: TestClient, log_url: str) -> None:
    page = page_client.get("/history").text
    assert "No predictions yet" in page
    assert 'data-after="0"' in page
    insert_rows(log_url, 5, 5)
    assert "No more predictions" in page_client.get("/history?before=5").text
    assert ids(page_client.get("/history?after=5")) == [5]
    assert 'data-after="5"' in page_client.get("/history").text
    assert "data-after" not in page_client.get("/history?result=merger").text


def test_without_postgresql_the_page_is_an_error_that_keeps_the_filters(tmp_path: Path) -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    with TestClient(create_app(Settings(DATABASE_URL=url, models_dir=tmp_path))) as client:
        page = client.get("/history?name=ngc&min_score=0.5", headers=BROWSER)
        assert (page.status_code, "hunter2" in page.text) == (503, False)
        assert 'href="/history?name=ngc&amp;min_score=0.5">Try again</a>' in page.text
        assert client.get("/history/1", headers=BROWSER).status_code == 503
        for kind in ("csv", "json"):
            assert client.get(f"/predictions.{kind}").status_code == 503


def test_rows_are_sorted_by_score_or_novelty_page_by_page(
    page_client: TestClient, rows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sort, expected in (("score", [3, 4, 2, 1]), ("novelty", [2, 4, 1]), ("luck", [4, 3, 2, 1])):
        assert ids(page_client.get(f"/history?sort={sort}")) == expected
    monkeypatch.setattr(history, "PAGE_SIZE", 2)
    first = page_client.get("/history?sort=score&min_score=0.2")
    assert ids(first) == [3, 4]
    second = page_client.get(link(first, "older"))
    assert (ids(second), link(second, "older")) == ([2], "")
    assert link(second, "highest") == "/history?min_score=0.2&sort=score"
    assert 'href="/history?sort=score"' in second.text  # without the filter
    assert ids(page_client.get("/history?sort=score&position=0+0&radius=1")) == []


def test_the_rows_of_a_cone_are_sorted_too(page_client: TestClient, rows: None, log_url: str) -> None:
    query(log_url, "UPDATE predictions SET ra = 10, dec = 0, healpix = %s WHERE id <> 4", cell_index(10, 0))
    assert ids(page_client.get("/history?sort=score&position=10+0&radius=1")) == [3, 2, 1]
    assert ids(page_client.get("/history?sort=score&position=10+0&radius=1&before=3")) == [2, 1]


def test_the_rows_of_a_cone_are_sorted_by_distance_page_by_page(
    page_client: TestClient, rows: None, log_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for id_, ra in ((1, 359.9), (2, 0.5), (3, 359.9999), (4, 0.9)):  # degrees from the centre: 0.1, 0.5, 0.0001, 0.9
        cell = cell_index(ra, 0)
        query(log_url, "UPDATE predictions SET ra = %s, dec = 0, healpix = %s WHERE id = %s", ra, cell, id_)
    url = "/history?sort=distance&position=0+0"
    first = page_client.get(f"{url}&radius=1")
    assert ids(first) == [3, 1, 2, 4]
    assert "0.36″ away" in first.text
    assert ids(page_client.get(f"{url}&radius=0.6")) == [3, 1, 2]
    assert ids(page_client.get(f"{url}&radius=1&min_score=0.3")) == [3, 2, 4]
    monkeypatch.setattr(history, "PAGE_SIZE", 2)
    pages = [page_client.get(f"{url}&radius=1")]
    pages.append(page_client.get(link(pages[0], "older")))
    assert [ids(page) for page in pages] == [[3, 1], [2, 4]]
    assert link(pages[1], "highest") == "/history?position=0+0&radius=1&sort=distance"
    refused = page_client.get("/history?sort=distance")
    assert (refused.status_code, ids(refused)) == (422, [])
    assert "Sorting by distance needs a position" in refused.text
