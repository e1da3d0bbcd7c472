"""The predictions database in a real PostgreSQL."""

import datetime as dt
import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from programs import ROOT, query

import database
import setup_db
from astrodetect.db.embedded import server_process
from astrodetect.db.statements import storable_text
from astrodetect.errors import DatabaseError, DatabaseNotSetUp, DatabaseUnavailable, NotFound
from astrodetect.records import ANOMALY, NO_ANOMALY, Prediction, PredictionFilters, ScoredImage
from astrodetect.settings import Settings
from database import Database

SCORED = ScoredImage("m51.jpg", "ab" * 32, score=0.9, threshold=0.5, model="resnet50_model", model_version="1")
SEVERAL = ScoredImage(
    "m42.jpg",
    "cd" * 32,
    score=0.7,
    threshold=None,
    model="galaxies",
    model_version="2",
    label="nebula",
    probabilities={"galaxy": 0.1, "nebula": 0.7, 'a \'b\\ "c" %s ✨': 0.2},
)


def scored(name: str = "m51.jpg", score: float = 0.9) -> ScoredImage:
    return replace(SCORED, image_name=name, score=score, request_id=uuid.uuid4())


def recorded(log: Database, scored: ScoredImage) -> Prediction:
    [row] = log.record_many([scored])
    return row


def names(log: Database, filters: PredictionFilters) -> list[str]:
    return [prediction.image_name for prediction in log.predictions(filters, limit=100).predictions]


def test_recorded_predictions_are_returned_and_found(log: Database, database_url: str) -> None:
    row = recorded(log, SCORED)
    assert log.prediction(row.id) == row
    assert (row.image_name, row.score, row.result, row.threshold) == ("m51.jpg", 0.9, ANOMALY, 0.5)
    assert (row.request_id, row.image_sha256) == (SCORED.request_id, "ab" * 32)
    assert (row.model, row.model_version) == ("resnet50_model", "1")
    assert row.timestamp.utcoffset() == dt.timedelta(0)
    five = 'SELECT id, image_name, score, result, "timestamp" FROM predictions'
    assert query(database_url, five) == [(row.id, "m51.jpg", 0.9, ANOMALY, row.timestamp)]


def test_the_probabilities_of_several_classes_are_recorded(log: Database, database_url: str) -> None:
    both = log.record_many([SEVERAL, SCORED])
    assert log.predictions(PredictionFilters(), limit=10).predictions == both[::-1]
    assert (both[0].result, both[0].label, both[0].threshold) == ("nebula", "nebula", None)
    assert both[0].probabilities == SEVERAL.probabilities
    assert (both[1].label, both[1].probabilities) == (None, None)
    by_hand = "SELECT (probabilities ->> label)::float FROM predictions WHERE label IS NOT NULL"
    assert query(database_url, by_hand) == [(0.7,)]


def test_any_class_name_can_be_recorded(log: Database) -> None:
    for name in ("nul\0nul", "half \ud83d", "", "x" * 1_000, "{}", "a: b, c"):
        row = recorded(log, replace(SEVERAL, label=name, probabilities={name: 1.0}, request_id=uuid.uuid4()))
        assert (row.label, row.result, row.probabilities) == (
            storable_text(name),
            storable_text(name),
            {storable_text(name): 1.0},
        )
        assert names(log, PredictionFilters(label=name)) == ["m42.jpg"]


def test_a_request_id_that_is_recorded_twice_has_one_row(log: Database, database_url: str) -> None:
    with ThreadPoolExecutor(8) as crowd:
        rows = list(crowd.map(lambda _: recorded(log, SCORED), range(50)))
    assert len(set(rows)) == 1
    assert query(database_url, "SELECT count(*) FROM predictions") == [(1,)]


def test_rows_of_older_versions_are_part_of_the_history(postgres_url: str) -> None:
    query(
        postgres_url,
        "CREATE TABLE predictions (id SERIAL PRIMARY KEY, image_name TEXT, score FLOAT, result TEXT,"
        " timestamp TIMESTAMP DEFAULT '2024-05-01 12:00')",
    )
    query(postgres_url, "INSERT INTO predictions (image_name, score, result) VALUES ('old.jpg', 0.1, 'No Anomaly')")
    setup_db.migrate(postgres_url)
    log = Database(postgres_url, connections=1, timeout_s=5)
    old = log.prediction(1)
    assert (old.image_name, old.request_id, old.threshold) == ("old.jpg", None, None)
    assert (old.label, old.probabilities) == (None, None)
    assert old.timestamp.tzinfo is not None
    new = recorded(log, SCORED)
    assert log.predictions(PredictionFilters(), limit=10).predictions == [new, old]
    log.close()


def test_the_error_of_an_empty_database_names_setup_db(postgres_url: str) -> None:
    log = Database(postgres_url, connections=1, timeout_s=5)
    with pytest.raises(DatabaseNotSetUp, match=r"run: python setup_db\.py"):
        log.check()
    query(postgres_url, (setup_db.MIGRATIONS / "0001_predictions.sql").read_text(encoding="utf-8"))
    with pytest.raises(DatabaseNotSetUp, match=r"run: python setup_db\.py"):
        recorded(log, SCORED)
    setup_db.migrate(postgres_url)
    log.check()
    log.close()
    missing = Database(postgres_url.replace("/test_", "/missing_"), connections=1, timeout_s=5)
    with pytest.raises(DatabaseNotSetUp, match=r"run: python setup_db\.py"):
        missing.check()


def test_rejected_statements_raise_database_error(log: Database, database_url: str) -> None:
    query(database_url, "ALTER TABLE predictions ADD CHECK (score < 0.5)")
    with pytest.raises(DatabaseError, match=r"^PostgreSQL refused: .*violates check constraint") as caught:
        recorded(log, SCORED)
    assert not isinstance(caught.value, DatabaseUnavailable)
    assert recorded(log, scored(score=0.1)).result == NO_ANOMALY


def test_a_read_only_database_is_unavailable_until_it_can_be_written(
    log: Database, database_url: str, postgres_server: str
) -> None:
    [(name,)] = query(database_url, "SELECT current_database()")
    query(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        recorded(log, SCORED)
    query(postgres_server, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert recorded(log, SCORED).score == SCORED.score  # the sessions from before stay read-only


@pytest.mark.parametrize("id_", [0, -1, 12345, 2**63, 10**40, -(10**40)])
def test_an_unknown_id_raises_not_found(log: Database, id_: int) -> None:
    with pytest.raises(NotFound, match=f"there is no prediction {id_}"):
        log.prediction(id_)


def test_pages_hold_every_row_once_while_rows_are_added(log: Database) -> None:
    ids = [recorded(log, scored(str(number))).id for number in range(23)]
    ids_of_pages: list[int] = []
    before: int | None = None
    while True:
        page = log.predictions(PredictionFilters(), limit=5, before=before)
        ids_of_pages += [prediction.id for prediction in page.predictions]
        recorded(log, scored("late"))
        if page.next_before is None:
            break
        before = page.next_before
    assert ids_of_pages == sorted(ids, reverse=True)


def test_a_full_last_page_has_no_next_page(log: Database) -> None:
    for _ in range(4):
        recorded(log, scored())
    first = log.predictions(PredictionFilters(), limit=2)
    last = log.predictions(PredictionFilters(), limit=2, before=first.next_before)
    assert (len(last.predictions), last.next_before) == (2, None)


def test_pages_can_be_read_backwards(log: Database) -> None:
    for number in range(12):
        recorded(log, scored(str(number), 0.9 if number % 2 else 0.1))
    for filters in (PredictionFilters(), PredictionFilters(result=ANOMALY)):
        pages = [log.predictions(filters, limit=2)]
        while pages[-1].next_before is not None:
            pages.append(log.predictions(filters, limit=2, before=pages[-1].next_before))
        assert pages[0].previous_after is None
        for newer, older in itertools.pairwise(pages):
            back = log.predictions(filters, limit=2, after=older.previous_after)
            assert back.predictions == newer.predictions
            assert back.next_before == newer.next_before
            assert (back.previous_after is None) == (newer is pages[0])


def test_newer_rows_and_the_rows_of_an_image_are_found(log: Database) -> None:
    assert log.newest_id() == 0
    rows = [recorded(log, scored(str(number))) for number in range(5)]
    other = recorded(log, replace(scored("other"), image_sha256="cd" * 32))
    assert log.newest_id() == other.id
    assert log.newer_than(rows[2].id, limit=10) == [other, rows[4], rows[3]]
    assert log.newer_than(rows[2].id, limit=2) == [other, rows[4]]
    assert log.newer_than(other.id, limit=10) == []
    assert log.by_image(SCORED.image_sha256, limit=3) == rows[:1:-1]


def test_every_insert_notifies_listeners(log: Database, database_url: str) -> None:
    ears = log.listen()
    recorded(log, SCORED)
    assert not ears.wait(0)
    ears.enable()
    recorded(log, scored())
    assert ears.wait(5)
    assert not ears.wait(0)
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('by hand', 0, 'No Anomaly')")
    assert ears.wait(5)
    query(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    ears.wait(5)  # its last words come before its end
    with pytest.raises(DatabaseUnavailable):
        ears.wait(5)
    ears.close()


@pytest.mark.parametrize(("before", "count"), [(10**30, 1), (-(10**30), 0)])
def test_a_page_can_start_at_any_number(log: Database, before: int, count: int) -> None:
    recorded(log, SCORED)
    assert len(log.predictions(PredictionFilters(), limit=5, before=before).predictions) == count


def test_each_filter_returns_the_matching_rows(log: Database, database_url: str) -> None:
    for name, score in [("a", 0.1), ("b", 0.5), ("c", 0.9)]:
        recorded(log, scored(name, score))
    query(database_url, "UPDATE predictions SET timestamp = make_timestamptz(2024, 1, id::int, 0, 0, 0, 'UTC')")
    day = {number: dt.datetime(2024, 1, number, tzinfo=dt.UTC) for number in (1, 2, 3)}
    assert names(log, PredictionFilters()) == ["c", "b", "a"]
    assert names(log, PredictionFilters(result=ANOMALY)) == ["c"]
    assert names(log, PredictionFilters(result=NO_ANOMALY)) == ["b", "a"]
    assert names(log, PredictionFilters(min_score=0.5)) == ["c", "b"]
    assert names(log, PredictionFilters(max_score=0.5)) == ["b", "a"]
    assert names(log, PredictionFilters(name="B")) == ["b"]
    assert names(log, PredictionFilters(since=day[2])) == ["c", "b"]
    assert names(log, PredictionFilters(until=day[2])) == ["a"]
    assert names(log, PredictionFilters(until=day[2].replace(tzinfo=None))) == ["a"]
    assert names(log, PredictionFilters(model="resnet50_model")) == ["c", "b", "a"]
    recorded(log, SEVERAL)
    assert (
        names(log, PredictionFilters(model="galaxies")) == names(log, PredictionFilters(label="nebula")) == ["m42.jpg"]
    )
    assert names(log, PredictionFilters(label="galaxy")) == []
    recorded(log, replace(scored("odd"), novelty=0.99, space="5f0c3a9be214"))
    assert names(log, PredictionFilters(min_novelty=0.99)) == ["odd"]
    assert names(log, PredictionFilters(min_novelty=0.991)) == []
    assert names(log, PredictionFilters(since=day[1], until=day[3], min_score=0.2, name="b", result=NO_ANOMALY)) == [
        "b"
    ]


@pytest.mark.parametrize("part", ["100%", "a_b", "c\\d", "GRÖSSE", "'; DROP TABLE predictions; --", "\0", "\ud800"])
def test_the_name_filter_matches_characters_literally(log: Database, part: str) -> None:
    recorded(log, scored(f"before {part.lower()} after"))
    recorded(log, scored("1000 axb c/d grosse"))
    assert names(log, PredictionFilters(name=part)) == [f"before {storable_text(part.lower())} after"]


@pytest.mark.parametrize(
    "name",
    [
        "nul\0nul",
        "half \ud83d",
        "\udcff\udcfe.jpg",
        "%s %(id)s",
        "'\"\\",
        "",
        "x" * 100_000,
        "🌌",
        "a\r\nb",
        "../../etc/passwd",
    ],
    ids=["nul", "surrogate", "undecodable", "percent", "quotes", "empty", "long", "galaxy", "lines", "path"],
)
def test_any_image_name_can_be_recorded(log: Database, name: str) -> None:
    row = recorded(log, scored(name))
    assert row.image_name == storable_text(name)
    assert log.prediction(row.id) == row


def test_only_unstorable_characters_are_replaced() -> None:
    assert storable_text("a\0b\ud800c🌌\ufffd") == "a\ufffdb\ufffdc🌌\ufffd"


def test_without_database_url_the_embedded_database_is_started_and_migrated(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with database.database_url(settings) as url:
        log = Database(url, connections=1, timeout_s=5)
        row = recorded(log, SCORED)
        log.close()
    with database.database_url(settings) as url:
        log = Database(url, connections=1, timeout_s=5)
        assert log.prediction(row.id) == row
        log.close()
    assert not server_process.ServerAddress.of(settings.postgres_dir).listens()


def test_database_url_is_used_unchanged(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    with database.database_url(Settings()) as url:
        assert url == database_url


def test_the_guide_deletes_old_images_and_keeps_labelled_and_recent_ones(log: Database, database_url: str) -> None:
    guide = (ROOT / "docs" / "how-to" / "operations.md").read_text(encoding="utf-8")
    [statements] = [text for text in guide.split("```") if "CREATE TEMPORARY TABLE old" in text]
    for image in ("old", "old", "labelled", "again", "recent"):
        recorded(log, replace(scored(image), image_sha256=image))
    query(database_url, """UPDATE predictions SET "timestamp" = '2001-01-01' WHERE id < 5""")
    recorded(log, replace(scored("again"), image_sha256="again"))
    log.add_label(3, "ordinary", who=None, note=None)
    log.tags.add([1, 4], "blue core", who=None)
    query(database_url, statements.removeprefix("sql"))
    assert query(database_url, "SELECT id FROM predictions ORDER BY id") == [(3,), (4,), (5,), (6,)]
    assert query(database_url, "SELECT prediction_id FROM labels") == [(3,)]
    assert query(database_url, "SELECT image FROM image_tags") == [("again",)]
