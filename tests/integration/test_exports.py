"""Exports of the predictions: complete, filtered, and safe to open in a spreadsheet."""

import csv
import errno
import io
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from programs import query
from starlette.requests import ClientDisconnect, Request
from starlette.testclient import TestClient

from astrodetect.errors import DatabaseUnavailable
from astrodetect.service.disconnection import DISCONNECTION, Disconnection
from astrodetect.service.routes import predictions
from astrodetect.sky import table_writers

NAMES = [
    "m51.jpg",
    "=1+1",
    "-2.jpg",
    "+3+A1",
    "@x",
    "\tx",
    'a "quoted", name\nof two lines',
    "<script>",
    "ünï ⛄ \u202e",
]


@pytest.fixture
def recorded(page_client: TestClient, log_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows on several pages of the export."""
    monkeypatch.setattr(predictions, "EXPORT_PAGE_ROWS", 4)
    for n, name in enumerate(NAMES, 1):
        query(
            log_url,
            "INSERT INTO predictions (id, image_name, score, result, probabilities) VALUES (%s, %s, %s, %s, %s)",
            n,
            name,
            n / 10,
            "=bad" if n == 1 else "No Anomaly",
            '{"E": 0.5, "ü": 0.5}',
        )
    return NAMES


def read_csv(response: Any) -> list[dict[str, str]]:
    assert response.status_code == 200, response.text
    return list(csv.DictReader(io.StringIO(response.text, newline=""), strict=True))


def test_an_export_has_every_row_once_newest_first(page_client: TestClient, recorded: list[str]) -> None:
    rows = read_csv(page_client.get("/predictions.csv"))
    assert [int(row["id"]) for row in rows] == list(range(len(NAMES), 0, -1))
    assert list(rows[0])[:5] == ["id", "image_name", "score", "result", "timestamp"]
    assert (rows[-1]["score"], rows[-1]["model"], rows[-1]["probabilities"]) == ("0.1", "", '{"E": 0.5, "ü": 0.5}')
    expected = page_client.get("/predictions?limit=100").json()["predictions"]
    assert page_client.get("/predictions.json").json() == expected


def test_csv_cells_are_no_formulas_and_json_has_names_unchanged(page_client: TestClient, recorded: list[str]) -> None:
    rows = read_csv(page_client.get("/predictions.csv"))[::-1]
    assert not [value for row in rows for value in row.values() if re.match(r"[=+\-@\t\r]", value)]
    assert [row["image_name"].removeprefix("'") for row in rows] == recorded
    assert [row["image_name"] for row in rows if row["image_name"].startswith("'")] == [
        f"'{name}" for name in NAMES[1:6]
    ]
    assert [row["image_name"] for row in page_client.get("/predictions.json").json()] == recorded[::-1]


def test_exports_take_the_filters_of_predictions(page_client: TestClient, recorded: list[str]) -> None:
    assert [row["id"] for row in read_csv(page_client.get("/predictions.csv?min_score=0.2&max_score=0.7"))] == list(
        "765432"
    )
    assert [row["id"] for row in page_client.get("/predictions.json?name=jpg").json()] == [3, 1]
    for kind in ("csv", "json"):
        assert page_client.get(f"/predictions.{kind}?min_score=2").status_code == 422
    assert page_client.get("/predictions.xml").status_code == 422


def test_an_export_without_rows_is_valid(page_client: TestClient) -> None:
    assert read_csv(page_client.get("/predictions.csv")) == []
    assert page_client.get("/predictions.csv").text.startswith("id,image_name,score,")
    assert page_client.get("/predictions.json").json() == []


def test_an_export_is_named_after_its_day(page_client: TestClient) -> None:
    for kind, media_type in (("csv", "text/csv; charset=utf-8"), ("json", "application/json")):
        headers = page_client.get(f"/predictions.{kind}").headers
        assert headers["content-type"] == media_type
        assert re.fullmatch(
            rf'attachment; filename="predictions-20\d\d-\d\d-\d\d\.{kind}"', headers["content-disposition"]
        )


def test_the_history_page_links_to_the_export_of_its_rows(page_client: TestClient, log_url: str) -> None:
    for hour in (0, 23):
        query(
            log_url,
            """INSERT INTO predictions (image_name, score, result, "timestamp") VALUES (%s, 0, 'No Anomaly', %s)""",
            f"{hour}.jpg",
            f"2026-11-20 {hour}:59Z",
        )
    page = page_client.get("/history?until=2026-11-20").text
    [link] = re.findall(r'href="(/predictions\.csv[^"]*)"', page)
    assert [row["image_name"] for row in read_csv(page_client.get(link))] == ["23.jpg", "0.jpg"]


@pytest.mark.filterwarnings("ignore:Column .* contains NULL")  # of logical values, which astropy makes False
@pytest.mark.parametrize("kind", ["parquet", "vot", "fits"])
def test_tables_have_typed_columns_with_the_values_of_the_rows(
    page_client: TestClient, recorded: list[str], log_url: str, kind: str
) -> None:
    query(log_url, "UPDATE predictions SET ra = 202.5, dec = 47.25, object_id = 'M51' WHERE id = 1")
    response = page_client.get(f"/predictions.{kind}?max_score=0.75")
    assert response.status_code == 200
    assert response.headers["content-disposition"].endswith(f'.{kind}"')
    table = read_table(response.content, kind)
    expected = page_client.get("/predictions.json?max_score=0.75").json()
    assert list(table)[:5] == ["id", "image_name", "score", "result", "timestamp"]
    assert table["id"] == [row["id"] for row in expected]
    assert table["score"] == [row["score"] for row in expected]
    assert (table["ra"][-1], table["dec"][-1]) == (202.5, 47.25)
    if kind != "fits":  # which holds ASCII only
        names = [row["image_name"] for row in expected]
        assert table["image_name"] == (names if kind == "parquet" else [name.strip() for name in names])  # XML's spaces
        assert table["in_domain"] == [None] * len(expected)
    empty = page_client.get(f"/predictions.{kind}?name=none-of-them")
    assert read_table(empty.content, kind)["id"] == []


def test_few_tables_are_made_at_a_time_and_a_full_disk_is_one_line(
    page_client: TestClient, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(predictions.TABLES_AT_ONCE + 1):
        assert page_client.get("/predictions.vot").status_code == 200
    with ExitStack() as stack:
        for _ in range(predictions.TABLES_AT_ONCE):
            stack.enter_context(predictions._table_slot())
        refused = page_client.get("/predictions.fits")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert len(read_csv(page_client.get("/predictions.csv"))) == len(recorded)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(table_writers.WRITERS, ".fits", fail)
    full = page_client.get("/predictions.fits")
    assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
    assert "temporary files" in full.json()["error"]["message"]


def test_texts_of_rows_are_made_by_one_thread_at_a_time(
    page_client: TestClient, recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    working, overlaps = threading.Lock(), 0

    def write(_: object) -> Iterator[str]:
        nonlocal overlaps
        for _ in range(5):
            if working.acquire(blocking=False):
                time.sleep(0.01)
                working.release()
            else:
                overlaps += 1
            yield "x"

    monkeypatch.setitem(predictions.TEXT_EXPORTS, "csv", (write, "text/csv"))
    with ThreadPoolExecutor(4) as clients:
        responses = list(clients.map(page_client.get, ["/predictions.csv"] * 4))
    assert ([response.text for response in responses], overlaps) == (["xxxxx"] * 4, 0)


def test_an_export_that_postgresql_ends_is_cut_short_with_one_line(
    page_client: TestClient, recorded: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = predictions._write_csv

    def write_first(pages: Iterator[list[Any]]) -> Iterator[str]:
        yield from write([next(pages)])
        raise DatabaseUnavailable("PostgreSQL does not answer")

    monkeypatch.setitem(predictions.TEXT_EXPORTS, "csv", (write_first, "text/csv"))
    assert 0 < len(read_csv(page_client.get("/predictions.csv"))) < len(recorded)
    assert caplog.messages == ["a file of rows is cut short: PostgreSQL does not answer"]


def test_a_table_that_nobody_waits_for_is_not_made_to_its_end() -> None:
    disconnection, read = Disconnection(), list[int]()

    def pages() -> Iterator[list[Any]]:
        for number in range(9):
            read.append(number)
            yield []

    wanted = predictions._until_disconnect(Request({"type": "http", DISCONNECTION: disconnection}), pages())
    next(wanted)
    disconnection.happen()
    with pytest.raises(ClientDisconnect):
        list(wanted)
    assert read == [0, 1]


def read_table(content: bytes, kind: str) -> dict[str, list[Any]]:
    """The columns of a table, read by the usual libraries."""
    if kind == "parquet":
        from pyarrow import parquet

        columns: dict[str, list[Any]] = parquet.read_table(io.BytesIO(content)).to_pydict()
        return columns
    if kind == "vot":
        from astropy.io import votable

        array = votable.parse(io.BytesIO(content), verify="exception").get_first_table().array
        return {name: array[name].tolist() for name in array.dtype.names}
    from astropy.table import Table

    table = Table.read(io.BytesIO(content), format="fits")
    return {name: table[name].tolist() for name in table.colnames}
