"""`python -m benchmarks.similar`: latency and recall of "more like this", and the cost of vectors when rows are logged.

A PostgreSQL of its own is filled with clustered vectors of 40 dimensions and queried through database.py, as the
service does: with all vectors in the HNSW index, and with as many pending as the service leaves under load. Recall is
against exact search. Rows are logged with and without vectors, into an empty and into the full table, with as many per
commit as concurrent callers cause.
"""

import argparse
import io
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import setup_db
from astrodetect.db.connections import Connection, connect
from astrodetect.db.embedded import lifetime
from astrodetect.progress import ProgressBar
from astrodetect.records import DIMENSIONS, Floats, ScoredImage
from astrodetect.service.recorder import COMMIT_VECTORS, MAX_UNINDEXED
from benchmarks import hardware
from database import Database

SPACE = "5f0c3a9be214"
TRUE_DIMENSIONS = 40  # the others are zeros, as in the detectors' vectors
CLUSTERS = 1000
SPREAD = 0.5  # standard deviation within a cluster; that of the centres is 1
QUERIES = 200
NEAREST = 10
AT_A_TIME = 20_000  # rows of a COPY
BUILD_MEMORY = "2GB"  # maintenance_work_mem: the whole index fits
BUILD_WORKERS = 0  # parallel workers
RECORD_S = 3.0  # per measurement of logging
RECORDED = 50_000  # distinct images, at most
A_COMMIT = (8, 32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Throughput of logging."""

    stored: int
    a_commit: int
    without: float  # rows/s
    with_vectors: float


@dataclass(frozen=True, slots=True)
class SearchQuality:
    """Latency and recall of queries."""

    fresh: int  # vectors that are not in the index
    first_ms: float
    p50_ms: float
    p99_ms: float
    recall_at_10: float


@dataclass(frozen=True, slots=True)
class Report:
    """The results."""

    vectors: int
    fill_s: float
    build_s: float  # of the index, in one go
    index_mb: float  # of the index
    table_mb: float
    searches: list[SearchQuality]
    index_ms: float  # per vector that is indexed later
    rows: list[Rows]


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.similar", description=__doc__)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="astrodetect-similar-") as folder:
        report = measure(Path(folder), arguments.vectors)
    if arguments.json:
        print(json.dumps({"machine": hardware.describe()} | asdict(report)))
        return
    print(f"{report.vectors:,} vectors: filled in {report.fill_s:.0f} s, index built in {report.build_s:.0f} s")
    print(f"index {report.index_mb:.0f} MB, table with its other indexes {report.table_mb:.0f} MB")
    for case in report.searches:
        print(
            f"more like this, {case.fresh:>6,} fresh: p50 {case.p50_ms:.1f} ms, p99 {case.p99_ms:.1f} ms, "
            f"first {case.first_ms:.0f} ms; recall@{NEAREST} {case.recall_at_10:.4f} over {QUERIES} queries"
        )
    print(f"a vector is indexed in {report.index_ms:.2f} ms, {COMMIT_VECTORS} per commit")
    for rows in report.rows:
        print(
            f"{rows.stored:>9,} stored, {rows.a_commit:>2} rows a commit: {rows.without:6.0f} rows/s without vectors, "
            f"{rows.with_vectors:6.0f} with"
        )


def measure(folder: Path, count: int) -> Report:
    """Log into an empty database, fill it, query, and log again."""
    vectors = clustered(count + MAX_UNINDEXED)
    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        log = Database(url, connections=1, timeout_s=60)
        with closing(log), closing(connect(url, timeout_s=60)) as connection:
            rows = [recorded(log, 0, a_commit) for a_commit in A_COMMIT]
            execute(connection, "TRUNCATE predictions, features, labels RESTART IDENTITY; DROP INDEX features_graph")
            fill_s = timed(lambda: fill(connection, vectors[:count], first=1, indexed=True))
            build_s = timed(lambda: build(connection))
            index_mb, table_mb = execute(
                connection,
                "SELECT pg_relation_size('features_graph') / 1e6, pg_total_relation_size('features') / 1e6"
                " - pg_relation_size('features_graph') / 1e6",
            )[0]
            searches = [measure_searches(log, vectors[:count])]
            fill(connection, vectors[count:], first=count + 1, indexed=False)
            searches.append(measure_searches(log, vectors))
            index_s = timed(lambda: index(log))
            searches.append(measure_searches(log, vectors))
            rows += [recorded(log, len(vectors), a_commit) for a_commit in A_COMMIT]
    return Report(
        count, fill_s, build_s, float(index_mb), float(table_mb), searches, index_s * 1000 / MAX_UNINDEXED, rows
    )


def clustered(count: int, seed: int = 0) -> Floats:
    """Random vectors in clusters, rounded to half precision; the clusters are the same for all seeds."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, TRUE_DIMENSIONS)).astype(np.float32)
    generator = np.random.default_rng([1, seed])
    vectors = generator.normal(scale=SPREAD, size=(count, TRUE_DIMENSIONS)).astype(np.float32)
    vectors += centres[generator.integers(0, CLUSTERS, count)]
    return vectors.astype(np.float16).astype(np.float32)


def fill(connection: Connection, vectors: Floats, *, first: int, indexed: bool) -> None:
    """COPY a prediction and a feature row for each vector; the service's own INSERTs would take hours."""
    zeros = ",0" * (DIMENSIONS - TRUE_DIMENSIONS)
    with connection.cursor() as cursor, ProgressBar("filling", len(vectors)) as bar:
        for begin in range(0, len(vectors), AT_A_TIME):
            rows = list(enumerate(vectors[begin : begin + AT_A_TIME].tolist(), first + begin))
            cursor.copy_expert(
                "COPY predictions (id, image_name, score, result, image_sha256, novelty, space, request_id) FROM STDIN",
                io.StringIO(
                    "".join(
                        f"{n}\t{n}.jpg\t0.1\tNo Anomaly\t{n:064x}\t0.5\t{SPACE}\t{uuid.UUID(int=n)}\n" for n, _ in rows
                    )
                ),
            )
            cursor.copy_expert(
                "COPY features (prediction_id, space, image_sha256, vector, indexed) FROM STDIN",
                io.StringIO(
                    "".join(
                        f"{n}\t{SPACE}\t{n:064x}\t[{','.join(map(str, vector))}{zeros}]\t{indexed}\n"
                        for n, vector in rows
                    )
                ),
            )
            bar.step(len(rows))
    execute(connection, f"ALTER TABLE predictions ALTER id RESTART WITH {first + len(vectors)}")


def build(connection: Connection) -> None:
    """Build the HNSW index of sql/vectors.sql."""
    execute(connection, f"SET maintenance_work_mem = '{BUILD_MEMORY}'")
    execute(connection, f"SET max_parallel_maintenance_workers = {BUILD_WORKERS}")
    execute(connection, setup_db.VECTORS.read_text(encoding="utf-8"))
    execute(connection, "VACUUM ANALYZE predictions, features")


def index(log: Database) -> None:
    """Index pending vectors, as the service does when idle."""
    while log.index_vectors(COMMIT_VECTORS):
        pass


def measure_searches(log: Database, vectors: Floats) -> SearchQuality:
    """Query the neighbours of a sample of the stored vectors."""
    squares = (vectors**2).sum(axis=1)
    took_ms, found = [], 0
    for place in np.random.default_rng(1).choice(len(vectors), QUERIES, replace=False):
        prediction = log.prediction(int(place) + 1)
        began = time.perf_counter()
        neighbours = log.similar(prediction, limit=NEAREST)
        took_ms.append((time.perf_counter() - began) * 1000)
        distances = squares - 2 * vectors @ vectors[place]
        distances[place] = np.inf
        true = set((np.argpartition(distances, NEAREST)[:NEAREST] + 1).tolist())
        found += len(true & {neighbour.prediction.id for neighbour in neighbours})
    p50, p99 = np.percentile(took_ms[1:], [50, 99])
    return SearchQuality(log.count_unindexed_vectors(), took_ms[0], float(p50), float(p99), found / (QUERIES * NEAREST))


def recorded(log: Database, stored: int, a_commit: int) -> Rows:
    """Rows/s with vectors and without."""
    rates = []
    for vectors in (None, clustered(RECORDED, seed=stored + a_commit)):
        done, began = 0, time.perf_counter()
        scored = scored_batches(a_commit, vectors)
        while (took := time.perf_counter() - began) < RECORD_S:
            log.record_many(next(scored))
            done += a_commit
        rates.append(done / took)
    return Rows(stored, a_commit, *rates)


def scored_batches(a_commit: int, vectors: Floats | None) -> Iterator[list[ScoredImage]]:
    """Batches of new images."""
    template = ScoredImage(
        "sky.jpg", "", 0.1, 0.5, "m", "1", label="SB", probabilities={"E": 0.1, "SB": 0.9}, novelty=0.5
    )
    vectors_or_none = itertools.repeat(None) if vectors is None else map(tuple, map(np.ndarray.tolist, vectors))
    while batch := list(itertools.islice(vectors_or_none, a_commit)):
        yield [
            replace(template, image_sha256=uuid.uuid4().hex * 2, request_id=uuid.uuid4(), vector=vector, space=SPACE)
            for vector in batch
        ]


def execute(connection: Connection, statement: str) -> list[tuple[float, ...]]:
    """Execute a statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
