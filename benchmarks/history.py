"""`python -m benchmarks.history`: latency of the history page's queries over a million predictions, for every filter.

A PostgreSQL of its own is filled and queried through database.py, as the pages do. The rows are distributed as in a
log that grew over two years: an early model and an early survey only in the oldest rows, novelty only in the older
half, some rows late because they waited in the outbox. The naive baseline has an index per column, one WHERE for all
filters, ILIKE, and OFFSET pagination. Both take turns in the same run.
"""

import argparse
import datetime as dt
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np

import setup_db
from astrodetect.db.connections import Connection, connect
from astrodetect.db.embedded import lifetime
from astrodetect.records import ANOMALY, NO_ANOMALY, PredictionFilters, RankedBy
from benchmarks import hardware
from benchmarks.similar import execute, timed
from database import Database

ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 15, 5
PAGE = 50
HALF = 0.5  # of all rows have the result that the deep pages filter by
DEPTHS = (0.1, 0.5, 0.9)  # position of deep pages, as a share of the log
NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
APART = dt.timedelta(seconds=63)  # between rows: a million take two years
LATE = dt.timedelta(days=2)  # maximum delay of rows from the outbox
FILL = """
    INSERT INTO predictions (id, image_name, score, result, "timestamp", request_id, image_sha256, threshold, model,
        model_version, label, probabilities, novelty, space, in_domain)
    SELECT n,
        CASE WHEN n <= %(rows)s / 5 THEN 'plates/plate_' || n || '.fits'
            WHEN n %% 100 = 0 THEN 'follow-up/obj' || md5(n::text) || '.png'
            ELSE 'survey7/galaxy_' || lpad(n::text, 8, '0') || '.jpg' END,
        score, CASE WHEN n %% 4 = 3 THEN kind WHEN score > 0.5 THEN 'Anomaly Detected' ELSE 'No Anomaly' END,
        %(now)s - (%(rows)s - n) * %(apart)s - CASE WHEN random() < 0.002 THEN random() * %(late)s ELSE %(none)s END,
        gen_random_uuid(), encode(sha256(n::text::bytea), 'hex'), 0.5,
        CASE WHEN n <= %(rows)s / 100 THEN 'first_try' WHEN n %% 4 = 3 THEN 'galaxies' ELSE 'resnet50_model' END,
        '5f0c3a9be214',
        CASE WHEN n <= 500 THEN 'ghost' WHEN n %% 4 = 3 THEN kind WHEN score > 0.5 THEN 'E' ELSE 'SB' END,
        jsonb_build_object('E', score, 'SB', 1 - score),
        CASE WHEN n <= %(rows)s / 2 THEN random() * CASE WHEN n <= %(rows)s / 100 THEN 1 ELSE 0.99 END END,
        '9be2145f0c3a', CASE WHEN n <= %(rows)s / 2 THEN n > %(rows)s / 50 END
    FROM (
        SELECT n, (ARRAY['merger', 'spiral', 'lens'])[1 + n %% 3] AS kind,
            CASE WHEN n <= %(rows)s / 10 AND random() < 0.2 THEN 0.9999
                ELSE 0.999 / (1 + exp(-8 * (random() - 0.7))) END AS score
        FROM generate_series(%(first)s, %(last)s) AS n) AS made
    ORDER BY n"""
NAIVE_INDEXES = ("image_name", "score", "result", '"timestamp"', "model", "label", "novelty", "in_domain")
NAIVE = {  # filters of the naive baseline
    "result": "result = %(result)s",
    "min_score": "score >= %(min_score)s",
    "max_score": "score <= %(max_score)s",
    "name": "image_name ILIKE '%%' || %(name)s || '%%'",
    "since": '"timestamp" >= %(since)s',
    "until": '"timestamp" < %(until)s',
    "model": "model = %(model)s",
    "label": "label = %(label)s",
    "min_novelty": "novelty >= %(min_novelty)s",
    "in_domain": "in_domain = %(in_domain)s",
}

RANKED = (
    ("all rows", PredictionFilters()),
    ("a result", PredictionFilters(result=ANOMALY)),
    ("a part of a name", PredictionFilters(name="follow-up")),
    ("a name that no row has", PredictionFilters(name="nebula")),
    ("out of domain: of the oldest fiftieth", PredictionFilters(in_domain=False)),
)


@dataclass(frozen=True, slots=True)
class QueryLatency:
    """Latency of a page, ours and naive, in milliseconds."""

    what: str
    rows: int
    p50_ms: float
    p99_ms: float
    naive_p50_ms: float
    naive_p99_ms: float


@dataclass(frozen=True, slots=True)
class RankedPage:
    """Latency of a page of the highest values, in milliseconds."""

    what: str
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """The results."""

    rows: int
    fill_s: float
    table_mb: float
    index_mb: float
    queries: list[QueryLatency]
    ranked: list[RankedPage]


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="astrodetect-history-") as folder:
        report = measure(Path(folder), *((QUICK_ROWS, QUICK_ROUNDS) if arguments.quick else (ROWS, ROUNDS)))
    if arguments.json:
        print(json.dumps({"machine": hardware.describe()} | asdict(report)))
        return
    print(f"{report.rows:,} rows in {report.fill_s:.0f} s: {report.table_mb:.0f} MB, indexes {report.index_mb:.0f} MB")
    print("| page of 50 | rows | p50, ms | p99, ms | naive p50, ms | naive p99, ms | better |\n|" + " --- |" * 7)
    for case in report.queries:
        print(
            f"| {case.what} | {case.rows} | {case.p50_ms:.1f} | {case.p99_ms:.1f} | {case.naive_p50_ms:.1f} | "
            f"{case.naive_p99_ms:.1f} | {case.naive_p50_ms / case.p50_ms:.1f}× |"
        )
    print("| 50 highest | p50, ms | p99, ms |\n|" + " --- |" * 3)
    for page in report.ranked:
        print(f"| {page.what} | {page.p50_ms:.1f} | {page.p99_ms:.1f} |")


def measure(folder: Path, rows: int, rounds: int) -> Report:
    """Measure every page, ours and naive in turns."""
    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        log = Database(url, connections=1, timeout_s=60)
        with closing(log), closing(connect(url, timeout_s=60)) as connection:
            fill_s = timed(lambda: fill(connection, rows))
            execute(connection, "CREATE TABLE naive AS SELECT * FROM predictions ORDER BY id")
            execute(connection, "ALTER TABLE naive ADD PRIMARY KEY (id)")
            for column in NAIVE_INDEXES:
                execute(connection, f"CREATE INDEX ON naive ({column})")
            execute(connection, "VACUUM ANALYZE naive")
            sizes = execute(
                connection,
                "SELECT pg_relation_size('predictions') / 1e6, pg_indexes_size('predictions') / 1e6",
            )[0]
            queries = [
                in_turns(log, connection, what, filters, 0, rounds=rounds) for what, filters in cases(rows).items()
            ] + [
                in_turns(
                    log,
                    connection,
                    f"{depth:.0%} of the log before it{what}",
                    filters,
                    int(rows * depth * share),
                    rounds=rounds,
                )
                for depth in DEPTHS
                for what, filters, share in (
                    ("", PredictionFilters(), 1.0),
                    (", result", PredictionFilters(result=NO_ANOMALY), HALF),
                )
            ]
            ranked = [
                measure_ranked(log, by, what, filters, rounds) for by in get_args(RankedBy) for what, filters in RANKED
            ]
    return Report(rows, fill_s, float(sizes[0]), float(sizes[1]), queries, ranked)


def measure_ranked(log: Database, by: RankedBy, what: str, filters: PredictionFilters, rounds: int) -> RankedPage:
    """Measure the first page and the tenth, in turns."""
    tenth = None
    for _ in range(9):
        tenth = log.ranked.read(filters, by, limit=PAGE, before=tenth).next_before
    times = [
        timed(lambda edge=edge: log.ranked.read(filters, by, limit=PAGE, before=edge))  # type: ignore[misc]
        for _ in range(rounds)
        for edge in (None, tenth)
    ]
    p50, p99 = np.percentile(np.array(times) * 1000, [50, 99])
    return RankedPage(f"{by}, {what}", float(p50), float(p99))


def fill(connection: Connection, rows: int) -> None:
    """Fill `predictions` with so many rows, as the service would have."""
    add_rows(connection, 1, rows, rows)
    execute(connection, f"ALTER TABLE predictions ALTER id RESTART WITH {rows + 1}")
    execute(connection, "VACUUM ANALYZE predictions")


def add_rows(connection: Connection, first: int, last: int, rows: int) -> None:
    """Add the rows `first` to `last` of a log of so many rows."""
    values = {"first": first, "last": last, "rows": rows, "now": NOW, "apart": APART, "late": LATE}
    with connection.cursor() as cursor:
        cursor.execute(FILL, values | {"none": dt.timedelta()})


def cases(rows: int) -> dict[str, PredictionFilters]:
    """Filters of every selectivity, and such that match only the oldest rows."""
    span = rows * APART
    begin = NOW - span
    return {
        "no filter": PredictionFilters(),
        "score ≥ 0: all": PredictionFilters(min_score=0),
        "score ≥ 0.17: half": PredictionFilters(min_score=0.17),
        "score ≥ 0.92: 1 %": PredictionFilters(min_score=0.92),
        "score ≥ 0.9995: of the oldest tenth": PredictionFilters(min_score=0.9995),
        "score 0.5 to 0.50001: few": PredictionFilters(min_score=0.5, max_score=0.50001),
        "score ≥ 0.99995: none": PredictionFilters(min_score=0.99995),
        "result": PredictionFilters(result=ANOMALY),
        "result that no row has": PredictionFilters(result="Nebula"),
        "result, score 0.8 to 0.81": PredictionFilters(result=ANOMALY, min_score=0.8, max_score=0.81),
        "result against its score: none": PredictionFilters(result=NO_ANOMALY, min_score=0.6),
        "model": PredictionFilters(model="galaxies"),
        "model of the oldest hundredth": PredictionFilters(model="first_try"),
        "label": PredictionFilters(label="lens"),
        "label of the oldest 500": PredictionFilters(label="ghost"),
        "label against its model: none": PredictionFilters(
            model="resnet50_model", label="lens", since=begin + span / 50
        ),
        "model against its result: none": PredictionFilters(model="galaxies", result=ANOMALY),
        "novelty ≥ 0: the older half": PredictionFilters(min_novelty=0),
        "novelty ≥ 0.5": PredictionFilters(min_novelty=0.5),
        "novelty ≥ 0.992: few, oldest": PredictionFilters(min_novelty=0.992),
        "in domain: the older half": PredictionFilters(in_domain=True),
        "out of domain: of the oldest fiftieth": PredictionFilters(in_domain=False),
        "since a day ago": PredictionFilters(since=NOW - dt.timedelta(days=1)),
        "since tomorrow: none": PredictionFilters(since=NOW + dt.timedelta(days=1)),
        "until half of the time": PredictionFilters(until=NOW - span / 2),
        "until the first hour": PredictionFilters(until=begin + dt.timedelta(hours=1)),
        "a day in the middle": PredictionFilters(since=NOW - span / 2, until=NOW - span / 2 + dt.timedelta(days=1)),
        "name: galaxy": PredictionFilters(name="galaxy"),
        "name: obj, 1 %": PredictionFilters(name="OBJ"),
        "name: plate, the oldest fifth": PredictionFilters(name="plate"),
        "name: one number": PredictionFilters(name=f"{rows // 3:08}"),
        "name: zzz, none": PredictionFilters(name="zzz"),
        "name: 12, two letters": PredictionFilters(name="12"),
        "name, result and score": PredictionFilters(name="galaxy", result=ANOMALY, min_score=0.9),
    }


def in_turns(
    log: Database, connection: Connection, what: str, filters: PredictionFilters, skip: int, *, rounds: int
) -> QueryLatency:
    """Measure one page after `skip` rows: ours by keyset, naive by OFFSET."""
    active = {name: value for name, value in asdict(filters).items() if value is not None}
    before = None
    if skip:
        rows = naive(connection, active, skip - 1, 1)
        before = int(rows[0][0])
    ours_ms, naive_ms = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        page = log.predictions(filters, limit=PAGE, before=before)
        ours_ms.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        rows = naive(connection, active, skip, PAGE)
        naive_ms.append((time.perf_counter() - began) * 1000)
        if [row.id for row in page.predictions] != [int(row[0]) for row in rows]:
            raise AssertionError(f"{what}: the results differ")
    percentiles = [float(value) for times in (ours_ms, naive_ms) for value in np.percentile(times, [50, 99])]
    return QueryLatency(what, len(page.predictions), *percentiles)


def naive(connection: Connection, active: dict[str, Any], offset: int, limit: int) -> list[tuple[Any, ...]]:
    """A page of the naive baseline."""
    where = " AND ".join(NAIVE[name] for name in active) or "true"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT * FROM naive WHERE {where} ORDER BY id DESC LIMIT {limit} OFFSET {offset}",  # noqa: S608
            active,
        )
        return cursor.fetchall()


if __name__ == "__main__":
    main()
