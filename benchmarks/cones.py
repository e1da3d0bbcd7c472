"""`python -m benchmarks.cones`: latency of cone searches over a million predictions with positions.

Half of the rows are all over the sky, half in a survey of a thousand square degrees. Pages of 50 through database.py,
as GET /predictions reads them, and all rows of a cone, as /scs does; beside them the same cone without the index.
"""

import argparse
import io
import json
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import setup_db
from astrodetect.db.connections import Connection, connect
from astrodetect.db.embedded import lifetime
from astrodetect.records import ANOMALY, NO_ANOMALY, Cone, PredictionFilters
from astrodetect.service.routes.cone_search import MAX_ROWS
from astrodetect.sky.healpix import cells_of
from benchmarks import hardware
from benchmarks.similar import execute, timed
from database import Database

ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 200, 40
PAGE = 50
RADII = {"1″": 1 / 3600, "10″": 10 / 3600, "1′": 1 / 60, "0.1°": 0.1, "1°": 1.0, "10°": 10.0}  # degrees
SURVEY_RA, SURVEY_DEC = (150.0, 190.0), (0.0, 26.0)  # degrees
ROWS_PER_COPY = 50_000
OTHER_INDEXES = ("predictions_block_name", "predictions_block_result", "predictions_block_score")  # slow to fill
COPY = """COPY predictions (image_name, score, result, threshold, model, model_version, label, ra, dec, object_id,
    healpix) FROM STDIN"""
WITHOUT_INDEX = """SELECT * FROM predictions WHERE sky_separation(ra, dec, {ra}, {dec}) <= {radius}
    ORDER BY id DESC LIMIT {limit}"""


@dataclass(frozen=True, slots=True)
class ConeLatency:
    """The latency of cones of one radius."""

    radius: str
    what: str
    rows: float  # in the mean
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cones", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="astrodetect-cones-") as folder:
        rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if arguments.quick else (ROWS, ROUNDS)
        measured = measure(Path(folder), rows, rounds)
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "cones": [asdict(case) for case in measured]}))
        return
    print("| radius | what | rows | p50, ms | p99, ms |\n|" + " --- |" * 5)
    for case in measured:
        print(f"| {case.radius} | {case.what} | {case.rows:,.1f} | {case.p50_ms:.1f} | {case.p99_ms:.1f} |")


def measure(folder: Path, rows: int, rounds: int) -> list[ConeLatency]:
    """Measure cones around objects of the log."""
    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        log = Database(url, connections=1, timeout_s=120)
        with closing(log), closing(connect(url, timeout_s=120)) as connection:
            ra, dec = fill(connection, rows)
            centres = np.random.default_rng(1).choice(rows, rounds, replace=False)
            cones = [Cone(ra[row], dec[row], 0.0) for row in centres]
            return [
                case
                for name, radius in RADII.items()
                for case in measure_radius(log, connection, name, [replace(cone, radius=radius) for cone in cones])
            ]


def fill(connection: Connection, rows: int) -> tuple[list[float], list[float]]:
    """Fill `predictions`; returns the positions."""
    random = np.random.default_rng(0)
    ra, dec = random.uniform(0, 360, rows), np.degrees(np.arcsin(random.uniform(-1, 1, rows)))
    half = rows // 2
    ra[half:], dec[half:] = random.uniform(*SURVEY_RA, rows - half), random.uniform(*SURVEY_DEC, rows - half)
    places = list(zip(ra.tolist(), dec.tolist(), cells_of(ra, dec).tolist(), random.random(rows).tolist(), strict=True))
    for index in OTHER_INDEXES:
        execute(connection, f"DROP INDEX {index}")
    for begin in range(0, rows, ROWS_PER_COPY):
        lines = [
            f"galaxy_{n}.jpg\t{score}\t{ANOMALY if score > 0.5 else NO_ANOMALY}\t0.5\tresnet50_model\t5f0c3a9be214"
            f"\tE\t{ra_deg!r}\t{dec_deg!r}\t{n}\t{cell}\n"
            for n, (ra_deg, dec_deg, cell, score) in enumerate(places[begin : begin + ROWS_PER_COPY], start=begin)
        ]
        with connection.cursor() as cursor:
            cursor.copy_expert(COPY, io.StringIO("".join(lines)))
    execute(connection, "VACUUM ANALYZE predictions")
    return ra.tolist(), dec.tolist()


def measure_radius(log: Database, connection: Connection, radius: str, cones: list[Cone]) -> list[ConeLatency]:
    """Pages of the newest rows, all rows, and the same pages without the index, of which a tenth are measured."""

    def case(what: str, limit: int) -> ConeLatency:
        times, counts = [], []
        for cone in cones:
            filters = PredictionFilters(cone=cone)
            counts.append(0)

            def read(filters: PredictionFilters = filters) -> None:
                counts[-1] = len(log.predictions(filters, limit=limit).predictions)

            times.append(timed(read) * 1000)
        return ConeLatency(radius, what, float(np.mean(counts)), *np.percentile(times, [50, 99]).tolist())

    few = cones[: max(3, len(cones) // 40)]
    naive_ms = [
        timed(lambda cone=cone: execute(connection, WITHOUT_INDEX.format(**asdict(cone), limit=PAGE))) * 1000  # type: ignore[misc]
        for cone in few
    ]
    naive = ConeLatency(radius, f"page of {PAGE}, no index", PAGE, *np.percentile(naive_ms, [50, 99]).tolist())
    return [case(f"page of {PAGE}", PAGE), case("all", MAX_ROWS), naive]


if __name__ == "__main__":
    main()
