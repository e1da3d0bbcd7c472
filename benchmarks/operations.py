"""`python -m benchmarks.operations`: what operators plan with, over a million predictions.

Measured in a PostgreSQL of its own: bytes of each table; the time to back up the database and to restore it, both with
checksums of every table; and each migration of a table with the five columns of a predecessor.
"""

import argparse
import json
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import setup_db
from astrodetect.db import backup
from astrodetect.db.connections import Connection, connect
from astrodetect.db.embedded import lifetime
from benchmarks import hardware, history
from benchmarks.similar import execute, timed

ROWS, QUICK_ROWS = 1_000_000, 50_000
SHARE = 50  # every so many predictions are of images that have a vector, a description and a thumbnail
MEASURED_FLOATS = 360  # of a description, 1.4 KB
THUMBNAIL_BYTES = 9_000  # of 256 px, as JPEG
NEW_IMAGES = """
    DROP INDEX features_graph;  -- it is built at once below
    INSERT INTO features (prediction_id, space, image_sha256, vector, indexed)
        SELECT id, space, image_sha256, vector::halfvec, true FROM predictions, LATERAL (
            SELECT array_agg(random() + 0 * n + 0 * id)::real[] AS vector FROM generate_series(1, 64) AS n) AS made
        WHERE id %% %(share)s = 0;
    INSERT INTO descriptions (prediction_id, kind, image_sha256, features)
        SELECT id, 'shapes', image_sha256, bytes FROM predictions, LATERAL (
            SELECT string_agg(float4send((random() + 0 * n + 0 * id)::float4), '') AS bytes
            FROM generate_series(1, %(floats)s) AS n) AS made
        WHERE id %% %(share)s = 0;
    INSERT INTO pictures (image_sha256, jpeg, width, height)
        SELECT image_sha256, bytes, 256, 256 FROM predictions, LATERAL (
            SELECT string_agg(sha256((id || '-' || n)::bytea), '') AS bytes
            FROM generate_series(1, %(blocks)s) AS n) AS made
        WHERE id %% %(share)s = 0"""
OLDEST_ROWS = """
    INSERT INTO predictions (image_name, score, result, "timestamp")
        SELECT 'galaxy_' || n || '.jpg', random(), 'No Anomaly', now() - (%s - n) * interval '1 minute'
            FROM generate_series(1, %s) AS n"""
TABLES = ("predictions", "features", "descriptions", "pictures")
SIZE = "SELECT count(*), pg_table_size('{0}'), pg_indexes_size('{0}') FROM {0}"


@dataclass(frozen=True, slots=True)
class TableSize:
    """Bytes of a table for each of its rows."""

    table: str
    rows: int
    bytes_per_row: float
    index_bytes_per_row: float


@dataclass(frozen=True, slots=True)
class Report:
    """The results."""

    rows: int
    sizes: list[TableSize]
    dump_s: float
    dump_mb: float
    restore_s: float
    migrations_s: dict[str, float]


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = QUICK_ROWS if arguments.quick else ROWS
    with tempfile.TemporaryDirectory(prefix="astrodetect-operations-") as folder:
        report = measure(Path(folder), rows)
    if arguments.json:
        print(json.dumps({"machine": hardware.describe()} | asdict(report)))
        return
    for size in report.sizes:
        print(f"{size.table:<12} {size.bytes_per_row:6.0f} bytes a row, indexes {size.index_bytes_per_row:5.0f}")
    print(f"backup {report.dump_s:.1f} s, {report.dump_mb:.0f} MB; restore {report.restore_s:.1f} s")
    for name, seconds in report.migrations_s.items():
        print(f"{name:<24} {seconds:6.1f} s")


def measure(folder: Path, rows: int) -> Report:
    """Fill a log, back it up both ways, restore it, and migrate an old one."""
    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        with closing(connect(url, timeout_s=600)) as connection:
            history.fill(connection, rows)
            with connection.cursor() as cursor:
                blocks = THUMBNAIL_BYTES // 32
                cursor.execute(NEW_IMAGES, {"share": SHARE, "floats": MEASURED_FLOATS, "blocks": blocks})
            execute(connection, f"SET maintenance_work_mem = '1GB'; {setup_db.VECTORS.read_text(encoding='utf-8')}")
            execute(connection, "VACUUM ANALYZE")
            sizes = table_sizes(connection)
            dump = folder / "astrodetect.dump"
            began = time.monotonic()
            checksums, _ = backup.dump(url, dump)
            dump_s = time.monotonic() - began
            restored = with_database(url, "restored")
            restore_s = timed(lambda: backup.restore(restored, dump, checksums, replace=False))
            execute(connection, "DROP DATABASE restored WITH (FORCE)")
            dump_mb = dump.stat().st_size / 1e6
            migrations_s = migrate_old(connection, url, rows)
    return Report(rows, sizes, dump_s, dump_mb, restore_s, migrations_s)


def table_sizes(connection: Connection) -> list[TableSize]:
    """The sizes of the tables that grow with the log."""
    sizes = []
    for table in TABLES:
        [[rows, table_bytes, index_bytes]] = execute(connection, SIZE.format(table))
        sizes.append(TableSize(table, int(rows), table_bytes / rows, index_bytes / rows))
    return sizes


def migrate_old(connection: Connection, url: str, rows: int) -> dict[str, float]:
    """Seconds of each migration, on a log of so many rows that only the first one was applied to."""
    execute(connection, "CREATE DATABASE old TEMPLATE template0")
    old = with_database(url, "old")
    migrations = sorted(setup_db.MIGRATIONS.glob("[0-9]*.sql"))
    with closing(connect(old, timeout_s=600)) as log:
        execute(log, migrations[0].read_text(encoding="utf-8"))
        with log.cursor() as cursor:
            cursor.execute(OLDEST_ROWS, [rows, rows])
        execute(log, "VACUUM ANALYZE")
        seconds = {}
        for path in migrations[1:]:
            seconds[path.stem] = timed(partial(execute, log, path.read_text(encoding="utf-8")))
    return seconds


def with_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return url.replace(f"/{lifetime.EMBEDDED_DATABASE}?", f"/{name}?", 1)


if __name__ == "__main__":
    main()
