"""A page of the history reads few rows, whatever the filters and the order of rows; 1,000,000 rows with --full."""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from astrodetect.db.connections import Connection, connect
from astrodetect.db.statements import NEAR, filter_parameters, matching_statement
from astrodetect.records import PredictionFilters, RankedBy
from benchmarks.history import NAIVE, cases, fill
from database import SQL, Database

BLOCK = 8192  # ids, as in sql/0006_history.sql
ROWS, ALL_ROWS = 4 * BLOCK, 1_000_000
LIMIT = 50


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> int:
    return ALL_ROWS if request.config.getoption("--full") else ROWS


@pytest.fixture
def filled(database_url: str, rows: int) -> Iterator[tuple[Database, Connection]]:
    connection = connect(database_url, timeout_s=60)
    fill(connection, rows)
    log = Database(database_url, connections=1, timeout_s=60)
    yield log, connection
    log.close()
    connection.close()


def scans(plan: dict[str, Any], tables: Collection[str]) -> Iterator[dict[str, Any]]:
    """The nodes of a query plan that read these tables."""
    if plan.get("Relation Name") in tables:
        yield plan
    for part in plan.get("Plans", []):
        yield from scans(part, tables)


def rows_read(
    connection: Connection, statement: str, values: dict[str, Any], tables: Collection[str] = ("predictions",)
) -> int:
    """How many rows of the tables PostgreSQL read."""
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, TIMING off, FORMAT json) " + SQL.get(statement, statement), values)
        [(plan_json,)] = cursor.fetchall()
    count = 0
    for scan in scans((json.loads(plan_json) if isinstance(plan_json, str) else plan_json)[0]["Plan"], tables):
        assert scan["Node Type"] in {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
        removed = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
        count += (scan["Actual Rows"] + removed) * scan["Actual Loops"]
    return int(count)


def ids(connection: Connection, filters: PredictionFilters) -> list[int]:
    """The ids of all matching rows, newest first, by a plain query."""
    where = " AND ".join(NAIVE[name] for name in NAIVE if getattr(filters, name) is not None) or "true"
    values = {name: getattr(filters, name) for name in NAIVE}
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM predictions WHERE {where} ORDER BY id DESC", values)
        return [id_ for (id_,) in cursor.fetchall()]


def test_every_filter_uses_indexes_in_both_directions_and_reads_few_rows(
    filled: tuple[Database, Connection], rows: int
) -> None:
    log, connection = filled
    most = NEAR + 2 * BLOCK + LIMIT * rows // BLOCK
    for what, filters in cases(rows).items():
        matching = ids(connection, filters)
        page = log.predictions(filters, limit=LIMIT)
        assert [row.id for row in page.predictions] == matching[:LIMIT], what
        assert (page.next_before is None, page.previous_after) == (len(matching) <= LIMIT, None), what
        middle = rows // 2
        older = log.predictions(filters, limit=LIMIT, before=middle)
        newer = log.predictions(filters, limit=LIMIT, after=middle)
        assert [row.id for row in older.predictions] == [id_ for id_ in matching if id_ < middle][:LIMIT], what
        assert [row.id for row in newer.predictions] == [id_ for id_ in matching if id_ > middle][-LIMIT:], what
        for statement, edge in (("newest", None), ("newer", 0)):
            values = filter_parameters(filters, LIMIT, edge)
            assert rows_read(connection, statement, values) <= NEAR + LIMIT + 1, what
            if filters != PredictionFilters():
                assert rows_read(connection, matching_statement(SQL, statement, filters), values) <= most, what


def test_the_most_novel_images_are_found_through_indexes_in_any_space(
    filled: tuple[Database, Connection], rows: int
) -> None:
    log, connection = filled
    young, few = "5f0c3a9be214", 20
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO predictions (id, image_name, score, result, image_sha256, novelty, space)"
            " SELECT %s + n, 'young', 0, '', encode(sha256(n::text::bytea), 'hex'), n / 1000.0, %s"
            " FROM generate_series(1, %s) n",
            [rows, young, few],
        )
        cursor.execute(
            "INSERT INTO labels (prediction_id, label) SELECT %s + n, 'ordinary' FROM generate_series(1, 5) n", [rows]
        )
    predictions = log.most_novel(young, limit=LIMIT)
    assert [row.id for row in predictions] == list(range(rows + few, rows + 5, -1))
    everywhere = log.most_novel(None, limit=LIMIT)
    assert [row.novelty for row in everywhere] == sorted((row.novelty or 0 for row in everywhere), reverse=True)
    assert len({row.image_key for row in everywhere}) == len(everywhere) == LIMIT
    for space, most in ((young, 10 * few), (None, 10 * (LIMIT + few))):
        assert rows_read(connection, "most_novel", {"space": space, "limit": LIMIT, "unknown": False}) <= most


def test_names_of_any_length_and_script_are_found_by_their_parts(database_url: str) -> None:
    connection = connect(database_url, timeout_s=5)
    with connection.cursor() as cursor:
        names = ["a", "", "ΓΑΛΑΞΊΑΣ 銀河系.JPG", "x" * 199 + "needle", "b" * 100_000 + "needle", "100%_\\"]
        cursor.execute(
            "INSERT INTO predictions (image_name, score, result)"
            " SELECT name, 0, 'No Anomaly' FROM unnest(%s) WITH ORDINALITY AS given (name, n) ORDER BY n",
            [names],
        )
        cursor.execute(  # beyond the rows that are filtered without an index
            "INSERT INTO predictions (image_name, score, result)"
            " SELECT 'sky', 0, 'No Anomaly' FROM generate_series(1, %s)",
            [2 * NEAR],
        )
    connection.close()
    log = Database(database_url, connections=1, timeout_s=5)
    for part in (
        "a",
        "γαλαξία",
        "銀河系",
        "銀河系.jpg",
        "xneedle",
        "NEEDLE",
        "bbb",
        "b" * 300,
        "%_\\",
        "x" * 300,
        "eedl",
    ):
        page = log.predictions(PredictionFilters(name=part), limit=10)
        assert [row.image_name for row in page.predictions] == [
            name for name in reversed(names) if part.lower() in name.lower()
        ], part
    log.close()


def test_sparse_and_extreme_ids_are_paged_through(database_url: str) -> None:
    connection = connect(database_url, timeout_s=5)
    ends = [-(2**62), -1, 0, 8191, 8192, 2**40, 2**63 - 1]
    with connection.cursor() as cursor:
        for id_ in ends:
            cursor.execute(
                "INSERT INTO predictions (id, image_name, score, result) VALUES (%s, 'sky', 0, 'No Anomaly')", [id_]
            )
    connection.close()
    log = Database(database_url, connections=1, timeout_s=5)
    filters = PredictionFilters(max_score=0.5)
    assert [row.id for row in log.predictions(filters, limit=10).predictions] == ends[::-1]
    found_ids: list[int] = []
    after: int | None = -(2**63)
    while after is not None:
        page = log.predictions(filters, limit=2, after=after)
        found_ids += [row.id for row in page.predictions[::-1]]
        after = page.previous_after
    assert found_ids == ends
    log.close()


def test_the_highest_scores_and_novelties_are_read_from_the_index_of_each_block(
    filled: tuple[Database, Connection], rows: int
) -> None:
    log, connection = filled
    rankings: tuple[RankedBy, ...] = ("score", "novelty")  # a distance needs a position
    for by in rankings:
        for filters in (PredictionFilters(), PredictionFilters(result="Anomaly Detected", max_score=0.99)):
            where = " AND ".join(f"({NAIVE[name]})" for name in NAIVE if getattr(filters, name) is not None) or "true"
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT id FROM predictions WHERE {where} AND {by} IS NOT NULL"
                    f" ORDER BY {by} DESC, id DESC LIMIT 120",
                    asdict(filters),
                )
                matching = [id_ for (id_,) in cursor.fetchall()]
            read, edge = list[int](), None
            while len(read) < len(matching):
                page = log.ranked.read(filters, by, limit=40, before=edge)
                read += [row.id for row in page.predictions]
                edge = page.next_before
            assert read == matching, (by, filters)
        few = 5 * LIMIT * (rows // BLOCK + 1) + BLOCK
        statement = SQL["highest"].format(key=by)
        assert rows_read(connection, statement, filter_parameters(PredictionFilters(), LIMIT, None)) < few
        assert rows_read(connection, statement, filter_parameters(PredictionFilters(), LIMIT, read[-1])) < few
    assert log.ranked.read(PredictionFilters(), "score", limit=40, before=rows + 9).predictions == []


def test_pages_of_rare_known_or_unknown_rows_read_few_rows(filled: tuple[Database, Connection], rows: int) -> None:
    log, connection = filled
    few, tables = 100, ("predictions", "catalogue_matches")
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO catalogue_matches (prediction_id, known) SELECT id, id <= %s FROM predictions", [few]
        )
        cursor.execute("VACUUM ANALYZE catalogue_matches")
        cursor.execute("SELECT id FROM predictions WHERE id <= %s ORDER BY score DESC, id DESC", [few])
        by_score = [id_ for (id_,) in cursor.fetchall()]
    for rare in (True, False):  # few that are known, then few that are not
        filters, others = PredictionFilters(known=rare), PredictionFilters(known=not rare)
        page = log.predictions(filters, limit=LIMIT)
        assert [row.id for row in page.predictions] == list(range(few, few - LIMIT, -1))
        last = log.predictions(filters, limit=LIMIT, before=page.next_before)
        assert ([row.id for row in last.predictions], last.next_before) == (list(range(few - LIMIT, 0, -1)), None)
        newer = log.predictions(filters, limit=LIMIT, after=20)
        assert [row.id for row in newer.predictions] == list(range(20 + LIMIT, 20, -1))
        assert [row.id for row in log.predictions(others, limit=2).predictions] == [rows, rows - 1]
        assert [row.id for row in log.ranked.read(filters, "score", limit=few).predictions] == by_score
        assert len(log.ranked.read(others, "score", limit=LIMIT).predictions) == LIMIT
        for direction, edge in (("newest", None), ("newer", 0)):
            statement, values = matching_statement(SQL, direction, filters), filter_parameters(filters, LIMIT, edge)
            assert rows_read(connection, statement, values, tables) < 5 * few
        statement, values = SQL["highest_of_few"].format(key="score"), filter_parameters(filters, LIMIT, None)
        assert rows_read(connection, statement, values, tables) < 5 * few
        with connection.cursor() as cursor:
            cursor.execute("UPDATE catalogue_matches SET known = NOT known")
            cursor.execute("VACUUM ANALYZE catalogue_matches")
