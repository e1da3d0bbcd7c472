"""SIMBAD, NED and VizieR by TAP, from a local service of the same shapes: opt-in, asked once, and through faults."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import query, run_here
from pydantic import ValidationError
from tap_server import FAULTS, TapServer, TapState

from astrodetect.__main__ import main
from astrodetect.datasets.sources import http, tap
from astrodetect.records import ScoredImage
from astrodetect.settings import Settings
from database import Database

SIMBAD = [
    {"main_id": "M  51", "otype": "GiP", "ra": 202.4696, "dec": 47.1952, "nbref": 4313.0},
    {"main_id": "elsewhere", "otype": "*", "ra": 10.0, "dec": 10.0, "nbref": 1.0},
]
NED = [{"prefname": "NGC 1", "prefphytype": "G", "ra": 1.0, "dec": -1.0, "z": 0.015}]
VIZIER = [{"Name": "lens", "RAJ2000": 1.0, "DEJ2000": -1.0001, "zl": 0.4}]


@pytest.fixture
def server() -> Iterator[TapServer]:
    state = TapState({"basic": SIMBAD, "NEDTAP.objdir": NED, '"J/ApJ/1/lenses"': VIZIER})
    with TapServer(state) as server:
        yield server


@pytest.fixture
def crossmatch(database_url: str, server: TapServer) -> Callable[..., tuple[list[str], str]]:
    """Runs the command with online catalogues; its output, and its stderr."""

    def run(*words: object, online: str = "simbad", status: int = 0) -> tuple[list[str], str]:
        environment = {**server.environment, "DATABASE_URL": database_url, "ASTRODETECT_ONLINE_CATALOGUES": online}
        done = run_here(main, "crossmatch", *words, environment=environment)
        assert done.returncode == status, done.stderr
        return done.stdout.splitlines(), done.stderr

    return run


@pytest.fixture
def ids(log: Database) -> list[int]:
    """Predictions at M 51, twice, and at the other two places."""
    places = [(202.4696, 47.1952), (202.4696, 47.1952), (1.0, -1.0), (300.0, 80.0)]
    rows = [ScoredImage(f"{n}", f"{n:064x}", 0.9, 0.5, "m", "1", ra=ra, dec=dec) for n, (ra, dec) in enumerate(places)]
    return [row.id for row in log.record_many(rows)]


def test_no_online_catalogue_is_asked_by_default(
    crossmatch: Callable[..., tuple[list[str], str]], server: TapServer, ids: list[int]
) -> None:
    assert Settings().online_catalogues == ""
    crossmatch(online="")
    assert server.state.queries == []


def test_each_position_is_asked_about_once_and_the_answers_are_stored(
    crossmatch: Callable[..., tuple[list[str], str]],
    server: TapServer,
    ids: list[int],
    log: Database,
    database_url: str,
) -> None:
    everywhere = "simbad, ned,vizier:J/ApJ/1/lenses"
    lines, _ = crossmatch(online=everywhere)
    assert lines[0].startswith("3 of 4 predictions with a position are within 2″ of one of 3 known objects")
    rows = [log.prediction(id_) for id_ in ids]
    assert [(row.known_name, row.known_type, row.known_references, row.known_catalogue) for row in rows] == [
        ("M  51", "GiP", 4313, "SIMBAD"),
        ("M  51", "GiP", 4313, "SIMBAD"),
        ("NGC 1", "G", None, "NED"),
        (None, None, None, None),
    ]
    assert query(database_url, "SELECT columns FROM catalogue_objects WHERE name = 'lens'") == [({"zl": 0.4},)]
    assert len(server.state.queries) == 3
    assert all(text.count("CIRCLE") == 3 for text in server.state.queries)
    assert server.state.headers[0]["User-Agent"].startswith("astrodetect/")
    crossmatch(online=everywhere)
    assert len(server.state.queries) == 3
    listed, _ = crossmatch("list")
    assert [line.partition(" objects, online 2")[0] for line in listed] == [
        "NED: 1",
        "SIMBAD: 1",
        "VizieR J/ApJ/1/lenses: 1",
    ]
    crossmatch("--radius", "5")  # a larger one asks again
    assert len(server.state.queries) == 4
    query(database_url, """UPDATE catalogue_lookups SET "timestamp" = now() - interval '91 days'""")
    crossmatch("--radius", "5")  # as do old answers
    assert len(server.state.queries) == 5
    assert query(database_url, "SELECT count(*) FROM catalogue_objects WHERE catalogue = 'SIMBAD'") == [(1,)]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_are_retried(
    crossmatch: Callable[..., tuple[list[str], str]],
    server: TapServer,
    ids: list[int],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASTRODETECT_COLLECT_TIMEOUT_S", "1" if fault == "silence" else "30")
    server.state.faults = [fault]
    lines, _ = crossmatch()
    assert lines[0].startswith("2 of 4")
    assert len(server.state.queries) >= 2  # more where the machine is slower than the timeout


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error", "SIMBAD refused: the query took too long, try a smaller one: run the same command again to continue"),
        ("overflow", "SIMBAD has more objects there than it sends: choose a smaller --radius"),
        ("400", 'SIMBAD refused: table "basic" has no column otype'),
        ("404", "SIMBAD answered 404"),
        ("503", "SIMBAD answered 503 (5 attempts)"),
    ],
)
def test_what_was_answered_before_a_failure_is_kept(
    *,
    crossmatch: Callable[..., tuple[list[str], str]],
    server: TapServer,
    ids: list[int],
    database_url: str,
    fault: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tap, "POSITIONS_PER_QUERY", 1)
    server.state.faults = ["", *[fault] * http.MAX_ATTEMPTS]
    _, stderr = crossmatch(status=1)
    assert message in stderr.splitlines()[-1]
    assert query(database_url, "SELECT count(*) FROM catalogue_lookups") == [(1,)]
    server.state.faults, server.state.queries = [], []
    assert crossmatch()[0][0].startswith("2 of 4")
    assert len(server.state.queries) == 2


def test_a_table_asks_too_and_an_unknown_one_of_vizier_is_an_error(
    crossmatch: Callable[..., tuple[list[str], str]], tmp_path: Path
) -> None:
    table, output = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("ra,dec\n202.4696,47.1952\n", encoding="utf-8")
    crossmatch(table, "--output", output)
    assert "M  51,GiP,0,4313,SIMBAD" in output.read_text(encoding="utf-8")
    _, stderr = crossmatch(table, "--output", output, online="vizier:I/0", status=1)
    assert 'VizieR I/0 refused: table "I/0" is unknown' in stderr


@pytest.mark.parametrize("names", ["gaia", "vizier:a b", 'vizier:x"', "simbad;ned"])
def test_other_names_of_catalogues_are_refused(names: str) -> None:
    with pytest.raises(ValidationError, match="online_catalogues"):
        Settings(online_catalogues=names)
