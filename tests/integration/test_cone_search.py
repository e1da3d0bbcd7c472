"""Predictions around a position: in pages, in exports, and by Simple Cone Search with the client pyvo."""

import io
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from astrodetect.records import Cone, Prediction, PredictionFilters, ScoredImage
from astrodetect.sky import healpix
from database import Database

ROWS = 3_000
CENTRES = [(0.0, 0.0), (359.99, 41.9), (0.02, -41.8), (211.0, 90.0), (10.0, -89.9), (120.0, 30.0)]


def scored(number: int, ra: float | None, dec: float | None) -> ScoredImage:
    return ScoredImage(
        f"{number}.png",
        f"{number:064x}",
        number / ROWS,
        0.5,
        "resnet50_model",
        "1",
        ra=ra,
        dec=dec,
        object_id=f"o{number}",
    )


@pytest.fixture
def rows(log: Database) -> list[ScoredImage]:
    """Rows all over the sky, denser around the centres, some at the same place, and some without a position."""
    random = np.random.default_rng(8)
    ra, dec = random.uniform(0, 360, ROWS), np.degrees(np.arcsin(random.uniform(-1, 1, ROWS)))
    for n, (centre_ra, centre_dec) in enumerate(CENTRES):
        near = slice(n * 200, n * 200 + 200)
        dec[near] = (centre_dec + random.uniform(-0.5, 0.5, 200)).clip(-90, 90)
        ra[near] = (centre_ra + random.uniform(-0.5, 0.5, 200) / max(0.01, np.cos(np.radians(centre_dec)))) % 360
    rows = [scored(n, *place) for n, place in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))]
    rows += [scored(ROWS, None, None)]
    for begin in range(0, len(rows), 500):
        log.record_many(rows[begin : begin + 500])
    return rows


def test_cells_of_the_sky_count_the_rows_that_the_filters_select(log: Database, rows: list[ScoredImage]) -> None:
    placed = [row for row in rows if row.ra is not None and row.dec is not None]
    ra, dec = np.array([row.ra for row in placed], float), np.array([row.dec for row in placed], float)
    scores = np.array([row.score for row in placed])
    near = healpix.separation(120.0, 30.0, ra, dec) <= 0.3
    for filters, selected, order in (
        (PredictionFilters(), scores >= 0, 4),
        (PredictionFilters(min_score=0.5), scores >= 0.5, 4),
        (PredictionFilters(cone=Cone(120.0, 30.0, 0.3)), near, 12),
    ):
        cells, counts = np.unique(healpix.cells_of(ra[selected], dec[selected], order), return_counts=True)
        found = sorted(log.sky.cells(filters, order), key=lambda cell: cell.cell)
        assert [(cell.cell, cell.count) for cell in found] == list(zip(cells.tolist(), counts.tolist(), strict=True))
        alone = [cell for cell in found if cell.count == 1]
        assert alone
        for cell in alone:
            row = log.prediction(cell.id or 0)
            assert (row.ra, row.dec) == (cell.ra, cell.dec)


def names(predictions: list[Prediction]) -> list[str]:
    return [prediction.image_name for prediction in predictions]


def test_a_cone_has_exactly_the_rows_within_its_radius_newest_first(log: Database, rows: list[ScoredImage]) -> None:
    placed = rows[:ROWS]
    ra, dec = np.array([row.ra for row in placed], float), np.array([row.dec for row in placed], float)
    for centre in CENTRES:
        for radius in (0.001, 0.2, 30, 180):
            distances = healpix.separation(*centre, ra, dec)
            expected = [placed[n].image_name for n in np.flatnonzero(distances <= radius)[::-1]]
            page = log.predictions(PredictionFilters(cone=Cone(*centre, radius)), limit=ROWS + 1)
            assert names(page.predictions) == expected
            assert page.next_before is None
            if expected:  # the newest rows are filtered first, the one without a position too
                page = log.predictions(PredictionFilters(cone=Cone(*centre, radius)), limit=1)
                assert names(page.predictions) == expected[:1]


def test_a_cone_is_paged_in_both_directions_and_combined_with_filters(log: Database, rows: list[ScoredImage]) -> None:
    filters = PredictionFilters(cone=Cone(120, 30, 0.4), min_score=0.34)
    everything = log.predictions(filters, limit=ROWS)
    assert 20 < len(everything.predictions) < 190
    first = log.predictions(filters, limit=10)
    second = log.predictions(filters, limit=10, before=first.next_before)
    assert names(first.predictions + second.predictions) == names(everything.predictions)[:20]
    back = log.predictions(filters, limit=10, after=second.previous_after)
    assert names(back.predictions) == names(first.predictions)


def test_the_index_can_find_a_cone_and_its_nearest_rows(log: Database) -> None:
    from astrodetect.db import statements
    from astrodetect.db.ranked_pages import NEARNESS
    from database import SQL

    parameters = statements.filter_parameters(PredictionFilters(cone=Cone(120, 30, 0.01)), 50, None)
    plan = "\n".join(
        row["QUERY PLAN"]
        for statement in (SQL["newest_in_cone"], SQL["highest_in_cone"].format(key=NEARNESS))
        for row in log._execute(f"SET enable_seqscan = off; EXPLAIN {statement}", parameters)
    )
    assert plan.count("predictions_healpix") == 2


def test_rows_are_sorted_by_distance_around_poles_and_the_wrap_of_ra(log: Database, rows: list[ScoredImage]) -> None:
    ra, dec = np.array([row.ra for row in rows[:ROWS]], float), np.array([row.dec for row in rows[:ROWS]], float)
    for centre in CENTRES:
        distances = healpix.separation(*centre, ra, dec)
        filters, edge, found = PredictionFilters(cone=Cone(*centre, 180)), None, list[int]()
        for _ in range(3):
            page = log.ranked.read(filters, "distance", limit=30, before=edge)
            found += [int(name.removesuffix(".png")) for name in names(page.predictions)]
            edge = page.next_before
        assert len({*found}) == 90
        np.testing.assert_allclose(distances[found], np.sort(distances)[:90], atol=1e-6)  # at a pole many are at 0


@pytest.fixture
def cone_client(page_client: TestClient, log_url: str) -> TestClient:
    """A service with a few predictions around (202.4, 47.2), one of them with awkward texts, and one elsewhere."""
    log = Database(log_url, connections=1, timeout_s=5)
    awkward = replace(
        scored(2, 202.401, 47.2),
        image_name="<&\"\x01é'.png",
        label="SB",
        probabilities={"SB": 0.75, "E": 0.25},
        object_id=None,
    )
    log.record_many([scored(1, 202.4, 47.2), awkward, scored(3, 202.4, 47.3), scored(4, 10.0, -20.0)])
    log.close()
    return page_client


def test_pages_and_exports_take_a_cone(cone_client: TestClient) -> None:
    cone = {"ra": "13:29:36", "dec": "+47:12:00", "radius": "0.01"}
    page = cone_client.get("/predictions", params={**cone, "limit": "1"}).json()
    [row] = page["predictions"]
    [older] = cone_client.get(page["next"]).json()["predictions"]
    assert (row["ra"], older["object_id"]) == (202.401, "o1")
    exported = cone_client.get("/predictions.json", params=cone).json()
    assert [row["id"] for row in exported] == [row["id"], older["id"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ra": "400", "dec": "1", "radius": "1"}, "cone: RA in degrees from 0 to 360"),
        ({"ra": "4", "dec": "1"}, "cone: a cone needs ra, dec and radius: radius missing"),
        ({"ra": "4", "dec": "1", "radius": "-1"}, "cone: a radius in degrees from 0 to 180, not -1"),
    ],
)
def test_a_bad_cone_is_refused_with_the_reason(
    page_client: TestClient, arguments: dict[str, str], message: str
) -> None:
    answer = page_client.get("/predictions", params=arguments)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(message)


def strict_table(document: bytes) -> Any:
    """The table of a VOTable that astropy finds nothing wrong with."""
    from astropy.io import votable

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return votable.parse(io.BytesIO(document), verify="exception").get_first_table()


@pytest.mark.parametrize(("verbosity", "columns"), [("1", 3), ("2", 12), ("3", 26), ("", 12)])
def test_simple_cone_search_answers_valid_votables(cone_client: TestClient, verbosity: str, columns: int) -> None:
    answer = cone_client.get("/scs", params={"RA": "202.4", "DEC": "47.2", "SR": "0.01", "VERB": verbosity})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-votable+xml")
    table = strict_table(answer.content)
    assert len(table.fields) == columns
    ucds = [field.ucd for field in table.fields]
    assert [ucds.count(ucd) for ucd in ("ID_MAIN", "POS_EQ_RA_MAIN", "POS_EQ_DEC_MAIN")] == [1, 1, 1]
    assert table.array["ra"].tolist() == [202.401, 202.4]
    if columns > 3:
        assert table.array["image_name"].tolist() == ["<&\"�é'.png", "1.png"]
        assert table.array["label"].tolist() == ["SB", ""]
        assert table.array["novelty"].mask.all()


def test_a_radius_of_zero_asks_for_the_columns_alone(cone_client: TestClient) -> None:
    table = strict_table(cone_client.get("/scs", params={"RA": "202.4", "DEC": "47.2", "SR": "0"}).content)
    assert (len(table.fields), len(table.array)) == (12, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "a cone needs RA, DEC and SR, in degrees"),
        ({"RA": "400", "DEC": "1", "SR": "1"}, "RA in degrees from 0 to 360"),
        ({"RA": "4", "DEC": "<1>", "SR": "1"}, "Dec in degrees from -90 to 90, or as -12:34:56.7, not <1>"),
        ({"RA": "4", "DEC": "1", "SR": "1", "VERB": "9"}, "VERB is 1, 2 or 3, not 9"),
    ],
)
def test_an_error_of_a_cone_search_is_a_votable(
    page_client: TestClient, arguments: dict[str, str], message: str
) -> None:
    from astropy.io import votable

    answer = page_client.get("/scs", params=arguments)
    [info] = votable.parse(io.BytesIO(answer.content), verify="exception").infos
    assert info.name == "Error"
    assert info.value.startswith(message)


@contextmanager
def pyvo_through(client: TestClient) -> Iterator[Any]:
    """A session of requests for pyvo, whose requests the test client answers."""
    import requests
    from requests.adapters import BaseAdapter
    from urllib3 import HTTPResponse

    class Adapter(BaseAdapter):
        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
            answer = client.get(str(request.path_url))
            response = requests.Response()
            response.status_code, response.url, response.request = answer.status_code, str(request.url), request
            response.headers.update(answer.headers)
            response.raw = HTTPResponse(io.BytesIO(answer.content), preload_content=False, status=answer.status_code)
            return response

        def close(self) -> None: ...

    with requests.Session() as session:
        session.mount("http://", Adapter())
        yield session


def test_pyvo_reads_the_log_and_its_errors(cone_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyvo
    from astropy import units

    from astrodetect.service.routes import cone_search

    with pyvo_through(cone_client) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of astropy, on units in columns of texts
        service = pyvo.dal.SCSService("http://service.test/scs", session=session)
        found = service.search(pos=(202.4, 47.2), radius=0.2 * units.deg, verbosity=3)
        assert [record.id for record in found] == [str(n) for n in sorted(map(int, found["id"]), reverse=True)]
        assert found.to_table()["object_id"].tolist() == ["o3", "", "o1"]
        assert found[2].pos.dec.deg == 47.2
        with pytest.raises(pyvo.dal.DALQueryError, match="VERB is 1, 2 or 3"):
            service.search(pos=(1, 10), radius=1, VERB=9)
        monkeypatch.setattr(cone_search, "MAX_ROWS", 2)
        assert len(service.search(pos=(202.4, 47.2), radius=0.2)) == 2
    answer = cone_client.get("/scs", params={"RA": "202.4", "DEC": "47.2", "SR": "0.2"})
    assert "OVERFLOW" in answer.text


@pytest.mark.skipif(shutil.which("stilts") is None, reason="stilts is not installed")
def test_votlint_finds_nothing_wrong_with_any_votable(cone_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from astrodetect.service.routes import cone_search

    monkeypatch.setattr(cone_search, "MAX_ROWS", 2)
    cone = "/scs?RA=202.4&DEC=47.2&SR=0.2"
    for path in (f"{cone}&VERB=3", f"{cone}&VERB=9", "/predictions.vot"):
        document = cone_client.get(path).content
        command = ["stilts", "votlint", "votable=-"]
        linted = subprocess.run(command, input=document, capture_output=True, timeout=120, check=True)
        assert (linted.stdout, linted.stderr) == (b"", b""), path
