"""`python -m benchmarks.crossmatch`: a million predictions with positions against a catalogue of a million objects.

Half of each are all over the sky, half in a survey of a thousand square degrees; a tenth of the predictions show an
object of the catalogue. Times of the import, of the comparison, of a repeated one, and of pages by `known`; with the
memory of this process and the plan of a page.
"""

import argparse
import csv
import json
import resource
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import setup_db
from astrodetect.db import statements
from astrodetect.db.catalogues import CatalogueTables
from astrodetect.db.connections import connect
from astrodetect.db.embedded import lifetime
from astrodetect.records import PredictionFilters
from astrodetect.sky.crossmatch import DEFAULT_RADIUS_ARCSEC
from astrodetect.sky.known_objects import KnownColumns, read_known_objects
from benchmarks import cones, hardware
from benchmarks.similar import execute
from database import SQL, Database

ROWS, QUICK_ROWS = 1_000_000, 100_000
SHARE_KNOWN = 0.1
OFFSET_DEG = 0.3 / 3600  # of a prediction from its object, in declination
PAGES = 20
ARRIVALS = 20_000


@dataclass(frozen=True, slots=True)
class StepCost:
    """A step, its time, and the largest memory of this process so far."""

    what: str
    seconds: float
    memory_mb: float


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossmatch", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows of each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="astrodetect-crossmatch-") as folder:
        measured, notes = measure(Path(folder), QUICK_ROWS if arguments.quick else ROWS)
    if arguments.json:
        print(
            json.dumps({"machine": hardware.describe(), "steps": [asdict(step) for step in measured], "notes": notes})
        )
        return
    print("| step | time, s | memory, MB |\n|" + " --- |" * 3)
    for step in measured:
        print(f"| {step.what} | {step.seconds:.3f} | {step.memory_mb:.0f} |")
    print("\n" + "\n".join(notes))


def measure(folder: Path, rows: int) -> tuple[list[StepCost], list[str]]:
    """Measure each step once, and the mean of PAGES pages."""
    measured: list[StepCost] = []

    def timed(what: str, work: Callable[[], object], repeats: int = 1) -> None:
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        seconds = (time.perf_counter() - started) / repeats
        memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        measured.append(StepCost(what, seconds, memory_mb))

    with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as url:
        setup_db.create_database(url)
        setup_db.migrate(url)
        with closing(connect(url, timeout_s=120)) as connection:
            ra, dec = cones.fill(connection, rows)
            execute(
                connection, "CREATE INDEX predictions_block_score ON predictions ((id >> 13), score)"
            )  # dropped there
            execute(connection, "ANALYZE predictions")
        file = folder / "known.csv"
        write_catalogue(file, np.array(ra), np.array(dec))
        del ra, dec
        tables = CatalogueTables(url, SQL)
        timed("nothing yet", lambda: None)
        objects = []
        timed("read the CSV", lambda: objects.append(read_known_objects(str(file), KnownColumns())))
        timed("store it", lambda: tables.replace("known", "imported", str(file), objects[0]))
        timed("store it again, in its place", lambda: tables.replace("known", "imported", str(file), objects.pop()))
        notes: list[str] = []
        for what in ("compare", "compare again"):
            timed(
                what, lambda: notes.extend(tables.match_predictions(DEFAULT_RADIUS_ARCSEC).describe("predictions", 2))
            )
        log = Database(url, connections=1, timeout_s=120)
        with closing(log), closing(connect(url, timeout_s=120)) as connection:
            execute(connection, "VACUUM ANALYZE catalogue_matches")
            for known in (True, False):
                filters = PredictionFilters(known=known)
                named = f"known={known}".lower()
                timed(f"newest 50, {named}", partial(log.predictions, filters, limit=50), PAGES)
                timed(f"highest 50, {named}", partial(log.ranked.read, filters, "score", limit=50), PAGES)
            execute(connection, "DELETE FROM catalogue_matches WHERE known AND prediction_id > 1000")
            execute(connection, "VACUUM ANALYZE catalogue_matches")
            rare = PredictionFilters(known=True)
            timed("newest 50, of 100 known ones among the oldest", lambda: log.predictions(rare, limit=50), PAGES)
            timed("highest 50 of these", lambda: log.ranked.read(rare, "score", limit=50), PAGES)
            plan = log._execute(
                f"EXPLAIN (COSTS OFF) {statements.matching_statement(SQL, 'newest', rare)}",
                statements.filter_parameters(rare, 50, None),
            )
            execute(connection, "TRUNCATE catalogue_matches")
            timed(f"match {ARRIVALS:,} of them as new ones", lambda: match_arrivals(log))
    return measured, [*notes[:2], "", *(row["QUERY PLAN"] for row in plan)]


def match_arrivals(log: Database) -> None:
    """What the service does with new predictions."""
    matched = 0
    while matched < ARRIVALS:
        matched = log.arrivals.match(matched, ARRIVALS)


def write_catalogue(path: Path, ra: np.ndarray, dec: np.ndarray) -> None:
    """As many objects as predictions: SHARE_KNOWN of them at those, the others as they are spread."""
    rows = len(ra)
    random = np.random.default_rng(5)
    known_ra, known_dec = random.uniform(0, 360, rows), np.degrees(np.arcsin(random.uniform(-1, 1, rows)))
    half, same = rows // 2, int(SHARE_KNOWN * rows)
    known_ra[half:] = random.uniform(*cones.SURVEY_RA, rows - half)
    known_dec[half:] = random.uniform(*cones.SURVEY_DEC, rows - half)
    shown = random.choice(rows, same, replace=False)
    known_ra[:same], known_dec[:same] = ra[shown], np.clip(dec[shown] + OFFSET_DEG, -90, 90)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["main_id", "otype", "ra", "dec", "nbref", "redshift"])
        values = zip(known_ra.tolist(), known_dec.tolist(), random.integers(0, 99, rows).tolist(), strict=True)
        table.writerows([f"object {n}", "Galaxy", *place, 0.1] for n, place in enumerate(values))


if __name__ == "__main__":
    main()
