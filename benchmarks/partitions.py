"""`python -m benchmarks.partitions [--rows N]`: one table of predictions beside one partitioned by ranges of ids.

Ids follow time, so a partition is a span of time. Each layout gets a PostgreSQL of its own and the rows of
`benchmarks.history`. Measured: adding rows as the table grows, the service's commits, pages of the history, single
rows, and removing the oldest rows. A partitioned table cannot have a unique request id over all partitions: its
commits here go without that check, which the service needs.
"""

import argparse
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from psycopg2.extras import register_uuid

import setup_db
from astrodetect.db import statements
from astrodetect.db.connections import Connection, connect
from astrodetect.db.embedded import lifetime
from astrodetect.progress import ProgressBar
from astrodetect.records import ScoredImage
from benchmarks import hardware, history
from benchmarks.similar import execute, scored_batches, timed
from database import SQL, Database

ROWS = 20_000_000
PARTITION_ROWS = 2_097_152  # 256 of the blocks in which the history is read
STEP_ROWS = 1_000_000
COMMITS, COMMIT_ROWS = 300, 32
LOOK_UPS = 200
ROUNDS = 7
PAGES = (
    "no filter",
    "score ≥ 0.92: 1 %",
    "result",
    "result against its score: none",
    "model of the oldest hundredth",
    "novelty ≥ 0.992: few, oldest",
    "a day in the middle",
    "name: one number",
    "name: zzz, none",
)

Layout = Literal["one table", "partitions"]


@dataclass(frozen=True, slots=True)
class Report:
    """The measurements of one layout."""

    layout: Layout
    rows: int
    table_gb: float
    index_gb: float
    first_step_s: float  # adding the first STEP_ROWS
    last_step_s: float
    commits_per_s: float  # of COMMIT_ROWS rows, one after the other
    by_request_id_ms: float  # median
    by_id_ms: float
    pages_ms: dict[str, float]  # medians
    remove_s: float  # of the oldest PARTITION_ROWS
    vacuum_s: float  # after that


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partitions", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, help="where the databases go: 1.2 GB for a million rows")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    reports = []
    for layout in ("one table", "partitions"):
        with TemporaryDirectory(prefix="astrodetect-partitions-", dir=arguments.folder) as folder:
            reports.append(asdict(measure(Path(folder), layout, arguments.rows)))
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "layouts": reports}))
        return
    one, parts = reports
    pages = [{f"page: {name}, ms": value for name, value in report.pop("pages_ms").items()} for report in reports]
    print("| | one table | partitions |\n| --- | --- | --- |")
    for name in list(one)[2:]:
        print(f"| {name} | {one[name]:.3g} | {parts[name]:.3g} |")
    for name in pages[0]:
        print(f"| {name} | {pages[0][name]:.1f} | {pages[1][name]:.1f} |")


def measure(folder: Path, layout: Layout, rows: int) -> Report:
    """All measurements of one layout."""
    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        with (
            closing(connect(url, timeout_s=60)) as connection,
            closing(Database(url, connections=1, timeout_s=60)) as log,
        ):
            register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
            if layout == "partitions":
                partition(connection, rows)
            steps = list(add_steps(connection, layout, rows))
            execute(connection, f"ALTER TABLE predictions ALTER id RESTART WITH {rows + 1}")
            execute(connection, "VACUUM ANALYZE predictions")
            table_gb, index_gb = execute(
                connection,
                "SELECT sum(pg_relation_size(c.oid)) / 1e9, sum(pg_indexes_size(c.oid)) / 1e9 FROM pg_class c "
                "WHERE relname LIKE 'predictions%' AND relkind = 'r'",
            )[0]
            commits_s = timed(lambda: commit(connection, layout))
            cases = history.cases(rows)
            pages_ms = {name: median_ms(lambda: log.predictions(cases[name], limit=50), ROUNDS) for name in PAGES}  # noqa: B023
            rng = np.random.default_rng(0)
            ids = rng.integers(1, rows, LOOK_UPS).tolist()
            requests = [log.prediction(id_).request_id for id_ in ids]
            by_request_id_ms, by_id_ms = look_ups(log, requests, ids)
            remove_s = timed(lambda: remove_oldest(connection, layout))
            vacuum_s = timed(lambda: execute(connection, "VACUUM ANALYZE predictions"))
    return Report(
        layout,
        rows,
        float(table_gb),
        float(index_gb),
        steps[0],
        steps[-1],
        COMMITS / commits_s,
        by_request_id_ms,
        by_id_ms,
        pages_ms,
        remove_s,
        vacuum_s,
    )


def partition(connection: Connection, rows: int) -> None:
    """Replace the empty table by one with partitions and the same indexes; only its primary key is unique."""
    indexes = execute(
        connection,
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'predictions' AND indexname <> 'predictions_pkey'",
    )
    execute(connection, "ALTER TABLE predictions RENAME TO plain")
    execute(
        connection,
        "CREATE TABLE predictions (LIKE plain INCLUDING DEFAULTS INCLUDING IDENTITY, PRIMARY KEY (id)) "
        "PARTITION BY RANGE (id)",
    )
    execute(connection, "DROP TABLE plain CASCADE")
    for (definition,) in indexes:
        text = str(definition).replace("UNIQUE ", "").replace("public.plain", "predictions")
        execute(connection, text.replace("public.predictions ", "predictions ", 1))
    for number, first in enumerate(range(0, rows + COMMITS * COMMIT_ROWS, PARTITION_ROWS)):
        execute(
            connection,
            f"CREATE TABLE predictions_{number} PARTITION OF predictions "
            f"FOR VALUES FROM ({first}) TO ({first + PARTITION_ROWS})",
        )


def add_steps(connection: Connection, layout: Layout, rows: int) -> Iterator[float]:
    """Add all rows; the seconds of each STEP_ROWS."""
    with ProgressBar(f"filling: {layout}", rows) as bar:
        for first in range(1, rows + 1, STEP_ROWS):
            last = min(rows, first + STEP_ROWS - 1)
            yield timed(lambda: history.add_rows(connection, first, last, rows))  # noqa: B023 - called at once
            bar.step(last - first + 1)


def commit(connection: Connection, layout: Layout) -> None:
    """The commits of a busy service."""
    batches: Iterator[list[ScoredImage]] = scored_batches(COMMIT_ROWS, None)
    for _ in range(COMMITS):
        statement, values = statements.insert_statement(SQL, next(batches), with_vectors=False)
        if layout == "partitions":
            statement = statement.replace("ON CONFLICT (request_id) DO NOTHING", "")
        with connection.cursor() as cursor:
            cursor.execute(statement, values)


def look_ups(log: Database, requests: list[uuid.UUID | None], ids: list[int]) -> tuple[float, float]:
    """Median milliseconds of a look-up by request id and by id."""
    by_request = [median_ms(lambda: log.by_request_ids([request]), 1) for request in requests if request]  # noqa: B023
    by_id = [median_ms(lambda: log.prediction(id_), 1) for id_ in ids]  # noqa: B023
    return float(np.median(by_request)), float(np.median(by_id))


def remove_oldest(connection: Connection, layout: Layout) -> None:
    """Remove the oldest rows, as many as a partition has."""
    if layout == "partitions":
        execute(connection, "DROP TABLE predictions_0")
    else:
        execute(connection, f"DELETE FROM predictions WHERE id < {PARTITION_ROWS}")  # noqa: S608


def median_ms(work: object, rounds: int) -> float:
    """Median milliseconds of a call."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()  # type: ignore[operator]
        times.append((time.perf_counter() - began) * 1000)
    return float(np.median(times))


if __name__ == "__main__":
    main()
