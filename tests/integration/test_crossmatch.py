"""Catalogues in the database: imports, what is known of predictions, and where it is seen."""

import csv
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collect_command import collect, read_rows
from programs import free_port, query, run_here, wait_for_lock_or_end
from source_server import LibraryImage, SourceServer, SourceState
from starlette.testclient import TestClient

from astrodetect.__main__ import main
from astrodetect.db import arrivals
from astrodetect.db.catalogues import CatalogueTables
from astrodetect.db.connections import Connection, connect
from astrodetect.records import PredictionFilters, ScoredImage
from astrodetect.service import arrival_matcher
from astrodetect.sky.known_objects import KnownColumns, read_known_objects
from database import SQL, Database

M51 = (202.46957, 47.19525)
CATALOGUE = (
    "main_id,otype,ra,dec,nbref,z,note\n"
    "M 51,GPair,202.46957,47.19525,4313,0.0015,\\.\n"
    'M 51b,Galaxy,202.4698,47.1953,12,,"a ""quoted"", \\N text"\n'
    "nowhere,?,,,,,\n"
)


@pytest.fixture
def crossmatch(database_url: str, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs the command on the test's database; its output."""

    def run(*words: object, status: int = 0) -> list[str]:
        done = run_here(main, "crossmatch", *words, environment={"DATABASE_URL": database_url})
        assert done.returncode == status, done.stderr
        return (done.stdout or done.stderr).splitlines()

    return run


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "objects.csv"
    path.write_text(CATALOGUE, encoding="utf-8")
    return path


def record(log: Database, *positions: tuple[float, float] | None) -> list[int]:
    rows = [
        ScoredImage(
            f"{n}.png", f"{n:064x}", 0.9, 0.5, "m", "1", ra=position and position[0], dec=position and position[1]
        )
        for n, position in enumerate(positions)
    ]
    return [row.id for row in log.record_many(rows)]


def test_an_import_keeps_every_column_and_replaces_the_catalogue_as_a_whole(
    crossmatch: Callable[..., list[str]], catalogue: Path, database_url: str
) -> None:
    lines = crossmatch("import", catalogue, "--name", "mine")
    assert lines[0] == "imported mine: 3 objects, 1 without a position"
    columns = "object_id, name, type, ra, healpix IS NULL, reference_count, columns"
    assert query(database_url, f"SELECT {columns} FROM catalogue_objects ORDER BY id") == [
        ("M 51", "M 51", "GPair", 202.46957, False, 4313, {"z": "0.0015", "note": "\\."}),
        ("M 51b", "M 51b", "Galaxy", 202.4698, False, 12, {"note": 'a "quoted", \\N text'}),
        ("nowhere", "nowhere", "?", None, True, None, None),
    ]
    catalogue.write_text("id,ra,dec\na,1,2\n", encoding="utf-8")
    crossmatch("import", catalogue, "--name", "mine")
    assert query(database_url, "SELECT object_id FROM catalogue_objects") == [("a",)]
    [line] = crossmatch("list")
    assert line.startswith("mine: 1 objects, imported 2")
    assert crossmatch("remove", "mine") == ["removed mine: 1 objects"]
    assert crossmatch("list") == ["no catalogues"]
    assert crossmatch("remove", "mine", status=1) == ["astrodetect: there is no catalogue mine: see crossmatch list"]


def test_an_import_that_fails_or_is_stopped_leaves_the_earlier_one(
    crossmatch: Callable[..., list[str]], catalogue: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from astrodetect.db import catalogues

    crossmatch("import", catalogue, "--name", "mine")
    before = query(database_url, "SELECT * FROM catalogue_objects ORDER BY id")
    bad = catalogue.with_name("bad.csv")
    bad.write_text("id,ra,dec\na,1,2\nb,400,2\n", encoding="utf-8")
    [line] = crossmatch("import", bad, "--name", "mine", status=1)
    assert "bad.csv, row 2: RA in degrees from 0 to 360" in line

    def stopped(*_: object) -> Any:
        yield ["mine", *[None] * 11]
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogues, "_object_rows", stopped)
    crossmatch("import", catalogue, "--name", "mine", status=130)
    assert query(database_url, "SELECT * FROM catalogue_objects ORDER BY id") == before


def test_predictions_get_the_nearest_known_object(
    crossmatch: Callable[..., list[str]], catalogue: Path, log: Database, database_url: str
) -> None:
    near, far, unplaced, again = record(log, M51, (10, 10), None, M51)
    assert crossmatch()[1].startswith("0.0 matches")
    assert [log.prediction(row).known for row in (near, far, unplaced)] == [False, False, None]
    crossmatch("import", catalogue, "--name", "mine")
    assert crossmatch()[0] == ("2 of 3 predictions with a position are within 2″ of one of 2 known objects, 1 are not")
    row = log.prediction(near)
    assert (row.known, row.known_name, row.known_type, row.known_arcsec) == (True, "M 51", "GPair", 0)
    assert (row.known_references, row.known_catalogue) == (4313, "mine")
    pages = {
        known: [row.id for row in log.predictions(PredictionFilters(known=known), limit=9).predictions]
        for known in (True, False, None)
    }
    assert pages == {True: [again, near], False: [far], None: [again, unplaced, far, near]}
    stored = query(database_url, 'SELECT prediction_id, "timestamp", xmin::text FROM catalogue_matches ORDER BY 1')
    crossmatch()
    assert (
        query(database_url, 'SELECT prediction_id, "timestamp", xmin::text FROM catalogue_matches ORDER BY 1') == stored
    )
    crossmatch("remove", "mine")
    assert [log.prediction(row).known for row in (near, far)] == [None, False]


def test_new_predictions_are_matched_without_a_command(
    crossmatch: Callable[..., list[str]], catalogue: Path, log: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival_matcher, "CHECK_S", 3600.0)  # the steps are those of the test
    monkeypatch.setattr(arrivals, "ROWS_PER_STEP", 2)
    with closing(arrival_matcher.ArrivalMatcher(log)) as matcher:
        [early] = record(log, M51)
        matcher.step()
        assert log.prediction(early).known is None  # there is nothing to compare with
        crossmatch("import", catalogue, "--name", "mine")
        matcher.step()
        assert log.prediction(early).known is None  # the command compares what is there
        inner, outer = ((M51[0], M51[1] - arcsec / 3600) for arcsec in (1.99, 2.01))  # M 51b is in the north
        near, unplaced, within, beyond, pole, again = record(log, M51, None, inner, outer, (359.9999, 89.99), M51)
        matcher.step()
        rows = log.by_ids([near, unplaced, within, beyond, pole, again])
        assert [rows[row].known for row in rows] == [True, None, True, False, False, True]
        row = rows[within]
        known = (row.known_name, row.known_type, row.known_references, row.known_catalogue)
        assert known == ("M 51", "GPair", 4313, "mine")
        assert row.known_arcsec == pytest.approx(1.99, abs=1e-6)
        matches = {row: rows[row] for row in rows if rows[row].known is not None}
        crossmatch()
        assert {row: log.prediction(row) for row in matches} == matches  # the command says the same
        crossmatch("remove", "mine")
        record(log, M51)
        monkeypatch.setattr(log.arrivals, "match", None)  # not called without a catalogue
        matcher.step()


def test_a_comparison_of_all_keeps_the_matches_of_predictions_that_arrive_meanwhile(
    crossmatch: Callable[..., list[str]],
    catalogue: Path,
    log: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crossmatch("import", catalogue, "--name", "mine")
    [gone] = record(log, M51)
    tables, copy_positions = CatalogueTables(database_url, SQL), CatalogueTables._all_positions
    crossmatch()
    query(database_url, "DELETE FROM predictions")
    arrived = []

    def copy_before_others_arrive(tables: CatalogueTables, connection: Connection) -> Any:
        positions = copy_positions(tables, connection)
        arrived.extend(record(log, M51))
        log.arrivals.match(gone, arrived[0])
        return positions

    monkeypatch.setattr(CatalogueTables, "_all_positions", copy_before_others_arrive)
    tables.match_predictions(2.0)
    assert query(database_url, "SELECT prediction_id, known FROM catalogue_matches") == [(arrived[0], True)]
    with closing(connect(database_url, timeout_s=10)) as connection, connection.cursor() as cursor:
        assert log.arrivals.newest() == (arrived[0], arrived[0])
        cursor.execute("BEGIN; LOCK TABLE catalogue_matches IN SHARE ROW EXCLUSIVE MODE")
        assert log.arrivals.newest() is None  # it would wait


def test_a_comparison_is_with_one_version_of_each_catalogue(
    crossmatch: Callable[..., list[str]],
    catalogue: Path,
    log: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crossmatch("import", catalogue, "--name", "mine")
    record(log, M51)
    known, copy_positions = read_known_objects(str(catalogue), KnownColumns()), CatalogueTables._positions
    tables, threads, changes = CatalogueTables(database_url, SQL), ThreadPoolExecutor(1), list[Future[Any]]()

    def copy_before_a_change(tables: CatalogueTables, connection: Connection, statement: str) -> Any:
        yield from copy_positions(tables, connection, statement)
        if statement == "copy_object_positions":
            changes.append(threads.submit(*change))
            wait_for_lock_or_end(changes[-1], database_url)

    monkeypatch.setattr(CatalogueTables, "_positions", copy_before_a_change)
    change: tuple[Any, ...] = (tables.replace, "mine", "imported", "again", known)
    nearest, rows = tables.match_positions(np.array([M51[0]]), np.array([M51[1]]), 2.0)
    assert nearest.ids.tolist() == [*rows]
    tables.match_predictions(2.0)
    assert query(database_url, "SELECT known, name FROM catalogue_matches") == [(True, "M 51")]
    change = (tables.remove, "mine")
    assert tables.match_predictions(2.0).matched == 1
    threads.shutdown()
    assert [change.result() for change in changes] == [None, None, 3]
    assert query(database_url, "SELECT known, name FROM catalogue_matches") == []


def test_without_a_match_a_new_prediction_is_not_called_unknown_before_online_catalogues_are_asked(
    crossmatch: Callable[..., list[str]], catalogue: Path, log: Database, database_url: str
) -> None:
    crossmatch("import", catalogue, "--name", "mine")
    query(database_url, "INSERT INTO catalogues (name, kind, source, objects) VALUES ('simbad', 'online', '', 1)")
    near, far = record(log, M51, (10.0, 10.0))
    assert log.arrivals.match(near - 1, far) == far
    assert [log.prediction(row).known for row in (near, far)] == [True, None]


def test_a_table_is_compared_with_the_imported_catalogues(
    crossmatch: Callable[..., list[str]], catalogue: Path, tmp_path: Path
) -> None:
    crossmatch("import", catalogue, "--name", "mine")
    table, output = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("path,ra,dec\na.jpg,202.4696,47.1952\nb.jpg,3,3\n", encoding="utf-8")
    lines = crossmatch(table, "--output", output)
    assert lines[0].startswith("1 of 2 rows")
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["known"], row["known_name"], row["known_catalogue"]) for row in rows] == [
        ("true", "M 51", "mine"),
        ("false", "", ""),
    ]


def test_collected_images_are_rows_but_not_known_objects(
    crossmatch: Callable[..., list[str]], tmp_path: Path, log: Database, database_url: str
) -> None:
    state = SourceState({"spiral galaxy": [LibraryImage("PIA1", 1), LibraryImage("PIA2", 2)]})
    folder = tmp_path / "nasa"
    words = ("nasa", "--class", "galaxy=spiral galaxy", "--output", folder)
    with SourceServer(state) as server:
        unreachable = collect(server, *words, DATABASE_URL=f"postgresql://u@127.0.0.1:{free_port()}/x")
        assert (unreachable.returncode, unreachable.stdout) == (0, f"{folder}\n")
        assert "not recorded in the database: cannot reach PostgreSQL" in unreachable.stderr
        for _ in range(2):
            assert collect(server, *words, DATABASE_URL=database_url).returncode == 0
    [line] = crossmatch("list")
    assert line.startswith(f"{folder}: 2 objects, collected 2")
    [digest] = {row["sha256"] for row in read_rows(folder / "catalogue.csv") if row["source_id"] == "PIA2"}
    log.record_many([ScoredImage("x.jpg", digest, 0.9, 0.5, "m", "1", ra=1, dec=2)])
    joined = "FROM predictions JOIN catalogue_objects AS o USING (image_sha256)"
    [[title, label, url, source]] = query(database_url, f"SELECT o.name, type, url, columns ->> 'source' {joined}")
    assert (title, label, source) == ('The "PIA2", seen', "galaxy", "nasa")
    assert url.startswith("http://127.0.0.1")
    query(database_url, "UPDATE catalogue_objects SET ra = 1, dec = 2, healpix = 3")
    assert "within 2″ of one of 0 known objects" in crossmatch()[0]


def test_history_and_the_page_of_a_prediction_show_what_is_known(
    catalogue: Path, page_client: TestClient, log_url: str
) -> None:
    log = Database(log_url, connections=1, timeout_s=5)
    near, far, unplaced = record(log, M51, (10, 10), None)
    log.close()
    catalogue.write_text("name,type,ra,dec\n<M 51>,GPair,202.46957,47.19525\n", encoding="utf-8")
    for words in (("import", catalogue, "--name", "mine"), ()):
        assert run_here(main, "crossmatch", *words, environment={"DATABASE_URL": log_url}).returncode == 0
    shown = {id_: page_client.get(f"/history/{id_}").text for id_ in (near, far, unplaced)}
    assert "Known: <b><bdi>&lt;M 51&gt;</bdi></b>, GPair, 0.0″ away (mine)" in shown[near]
    assert "No known object there" in shown[far]
    assert "nown object" not in shown[unplaced].partition("<main")[2]
    rows = page_client.get("/history?known=true").text
    assert "known: <bdi>&lt;M 51&gt;</bdi></span>" in rows
    assert (f"/history/{near}?known=true" in rows, f"/history/{far}?" in rows) == (True, False)
    assert f"/history/{far}?known=false" in page_client.get("/history?known=false").text
    assert "is neither true nor false" in page_client.get("/history?known=perhaps").text


def test_responses_exports_and_cones_say_what_is_known(
    crossmatch: Callable[..., list[str]], catalogue: Path, page_client: TestClient, log_url: str
) -> None:
    log = Database(log_url, connections=1, timeout_s=5)
    near, far = record(log, M51, (10, 10))
    log.close()
    for words in (("import", catalogue, "--name", "mine"), ()):
        assert run_here(main, "crossmatch", *words, environment={"DATABASE_URL": log_url}).returncode == 0
    known = {
        "known": True,
        "known_name": "M 51",
        "known_type": "GPair",
        "known_arcsec": 0.0,
        "known_references": 4313,
        "known_catalogue": "mine",
    }
    assert page_client.get(f"/predictions/{near}").json().items() >= known.items()
    for value, expected in (("true", [near]), ("false", [far])):
        for path in ("/predictions", "/predictions.json"):
            answer = page_client.get(path, params={"known": value}).json()
            assert [row["id"] for row in (answer["predictions"] if path == "/predictions" else answer)] == expected
    assert page_client.get("/predictions", params={"known": "perhaps"}).status_code == 422
    [row] = csv.DictReader(page_client.get("/predictions.csv", params={"known": "true"}).text.splitlines())
    assert (row["known"], row["known_name"], row["known_arcsec"]) == ("True", "M 51", "0")
    cone = {"RA": str(M51[0]), "DEC": str(M51[1]), "SR": "0.1"}
    assert "<TD>M 51</TD>" in page_client.get("/scs", params=cone).text
    assert "<TD>GPair</TD>" in page_client.get("/scs", params=cone | {"VERB": "3"}).text
