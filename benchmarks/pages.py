"""`PYTHONPATH=tests python -m benchmarks.pages`: how soon each page is painted over a million predictions.

A PostgreSQL of its own is filled as `benchmarks.history` fills it, the newest images with vectors, and the service runs
over it with the models that are in place. A real browser opens each page with nothing in its cache, and once more after
another page; beside it the same pages over a small log, in turns, in the same run.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urljoin

import numpy as np
from browser import chromium
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

import setup_db
from astrodetect.db.connections import connect
from astrodetect.db.embedded import server
from astrodetect.model_store.manifest import list_manifests
from astrodetect.settings import settings
from benchmarks import hardware
from benchmarks.history import fill
from benchmarks.processes import BenchmarkError, ServiceProcess, exit_on_signals, print_progress
from benchmarks.similar import execute

ROWS, QUICK_ROWS, FEW_ROWS = 1_000_000, 100_000, 1_000
ROUNDS, QUICK_ROUNDS = 11, 5
WITH_VECTORS = 20_000  # of the newest: as many as the map and the review take
READY = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PAGES = (
    "/",
    "/history",
    "/history?result=Anomaly+Detected",
    "/history/{id}",
    "/review",
    "/map",
    "/models-page",
    "/live",
)
ANOTHER = "/key"  # the page between two visits
PAINTED = """new Promise(done => new PerformanceObserver(list => {
    for (const paint of list.getEntriesByName('first-contentful-paint')) done(paint.startTime);
}).observe({type: 'paint', buffered: true}))"""
ANSWERED = "performance.getEntriesByType('navigation')[0].responseStart"
VECTORS = """
    INSERT INTO features (prediction_id, space, image_sha256, vector)
    SELECT id, %s, image_sha256, (
        SELECT array_agg(random() + 0 * (part + prediction.id)) FROM generate_series(1, 64) AS part)::real[]::halfvec
    FROM predictions AS prediction ORDER BY id DESC LIMIT %s"""
TOLD = """
    UPDATE predictions SET space = %s, novelty = random()
    WHERE id IN (SELECT id FROM predictions ORDER BY id DESC LIMIT %s)"""


@dataclass(frozen=True, slots=True)
class Page:
    """How soon a page was painted first, and its answer began; milliseconds."""

    path: str
    first: float  # after the start of the service, before the others
    painted_p50: float
    painted_worst: float
    again_p50: float  # by a browser that has been there
    answered_p50: float
    few_painted_p50: float  # over the small log


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if arguments.quick else (ROWS, ROUNDS)
    with exit_on_signals(), ExitStack() as stack:
        browser = stack.enter_context(chromium.open_browser())
        if browser is None:
            raise SystemExit(chromium.SKIPPED)
        many, few = (stack.enter_context(served(count)) for count in (rows, FEW_ROWS))
        pages = [
            measured(browser, path, many + path.format(id=rows - 7), few + path.format(id=FEW_ROWS - 7), rounds=rounds)
            for path in PAGES
        ]
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "rows": rows, "pages": [asdict(page) for page in pages]}))
        return
    columns = ("page", f"painted over {rows:,} rows, ms", f"worst of {rounds}", "the first", "again", "answered")
    print("|", " | ".join((*columns, f"over {FEW_ROWS:,}")), "|")
    print("|" + " --- |" * 7)
    for page in pages:
        print(
            f"| {page.path} | {page.painted_p50:.0f} | {page.painted_worst:.0f} | {page.first:.0f} | "
            f"{page.again_p50:.0f} | {page.answered_p50:.0f} | {page.few_painted_p50:.0f} |"
        )


@contextmanager
def served(rows: int) -> Iterator[str]:
    """The address of a service over a log of so many rows."""
    with (
        TemporaryDirectory(prefix="astrodetect-pages-") as place,
        server.embedded_server(Path(place) / "postgres", server.EMBEDDED_DATABASE) as url,
    ):
        setup_db.create_database(url)
        setup_db.migrate(url)
        print_progress(f"filling a log with {rows:,} rows")
        with closing(connect(url, timeout_s=60)) as connection, connection.cursor() as cursor:
            fill(connection, rows)
            space = next((one.space for one in list_manifests(settings().models_dir) if one.space), None)
            cursor.execute(TOLD, [space, WITH_VECTORS])
            cursor.execute(VECTORS, [space, WITH_VECTORS])
            execute(connection, "VACUUM ANALYZE")
        environment = {"DATABASE_URL": url, "ASTRODETECT_DATA_DIR": place}
        with ServiceProcess("main:app", environment, Path(place) / "log") as service:
            service.until_answered(READY)
            yield service.url


def measured(browser: Browser, path: str, many: str, few: str, *, rounds: int) -> Page:
    """One page over both logs in turns."""
    figures = [(*opened(browser, many), opened(browser, few)[0]) for _ in range(rounds + 1)]
    painted, again, answered, painted_few = np.array(figures[1:]).T
    return Page(
        path,
        figures[0][0],
        float(np.median(painted)),
        float(painted.max()),
        float(np.median(again)),
        float(np.median(answered)),
        float(np.median(painted_few)),
    )


def opened(browser: Browser, address: str) -> tuple[float, float, float]:
    """When the page was painted in a context that knew nothing yet, when after another page, and when it answered."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        answered = visited(page, address)
        painted = page.evaluate(PAINTED)
        visited(page, urljoin(address, ANOTHER))
        visited(page, address)
        return painted, page.evaluate(PAINTED), answered
    finally:
        context.close()


def visited(page: Tab, address: str) -> float:
    """When its answer began."""
    answer = page.goto(address, wait_until="load")
    if answer is None or not answer.ok:
        raise BenchmarkError(f"{address} answered {answer.status if answer else 'nothing'}")
    return float(page.evaluate(ANSWERED))


if __name__ == "__main__":
    main()
