"""`PYTHONPATH=tests python -m benchmarks.pages`: first contentful paint of each page over a million predictions.

A PostgreSQL of its own is filled as in `benchmarks.history`, with vectors for the newest images, and served with the
installed models. A real browser opens each page with an empty cache, and again after another page; the same pages over
a small table take turns in the same run.
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
from astrodetect.db.embedded import lifetime
from astrodetect.model_store.manifest import list_manifests
from astrodetect.settings import settings
from benchmarks import hardware
from benchmarks.history import fill
from benchmarks.processes import BenchmarkError, ServiceProcess, exit_on_signals, print_progress
from benchmarks.similar import execute

ROWS, QUICK_ROWS, FEW_ROWS = 1_000_000, 100_000, 1_000
ROUNDS, QUICK_ROUNDS = 11, 5
WITH_VECTORS = 20_000  # of the newest rows: as many as map and review use
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
SCORES = """
    UPDATE predictions SET space = %s, novelty = random()
    WHERE id IN (SELECT id FROM predictions ORDER BY id DESC LIMIT %s)"""


@dataclass(frozen=True, slots=True)
class Page:
    """First contentful paint and start of the response of a page, in milliseconds."""

    path: str
    first: float  # the first visit after the service started
    painted_p50: float
    painted_worst: float
    again_p50: float  # with a warm cache
    answered_p50: float
    few_painted_p50: float  # over the small table


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows, {QUICK_ROUNDS} rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if arguments.quick else (ROWS, ROUNDS)
    with exit_on_signals(), ExitStack() as stack:
        browser = stack.enter_context(chromium.open_browser())
        if browser is None:
            raise SystemExit(chromium.SKIPPED)
        many, few = (stack.enter_context(serve_rows(count)) for count in (rows, FEW_ROWS))
        pages = [
            measure_page(
                browser, path, many + path.format(id=rows - 7), few + path.format(id=FEW_ROWS - 7), rounds=rounds
            )
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
def serve_rows(rows: int) -> Iterator[str]:
    """URL of a service over a table of so many rows."""
    space = next((manifest.space for manifest in list_manifests(settings().models_dir) if manifest.space), None)
    if space is None:
        raise SystemExit("there is no model with detectors to serve: python3 run.py trains one")
    with (
        TemporaryDirectory(prefix="astrodetect-pages-") as place,
        lifetime.embedded_server(Path(place) / "postgres", lifetime.EMBEDDED_DATABASE) as url,
    ):
        setup_db.create_database(url)
        setup_db.migrate(url)
        print_progress(f"filling a table with {rows:,} rows")
        with closing(connect(url, timeout_s=60)) as connection, connection.cursor() as cursor:
            fill(connection, rows)
            cursor.execute(SCORES, [space, WITH_VECTORS])
            cursor.execute(VECTORS, [space, WITH_VECTORS])
            execute(connection, "VACUUM ANALYZE")
        environment = {"DATABASE_URL": url, "ASTRODETECT_DATA_DIR": place}
        with ServiceProcess("main:app", environment, Path(place) / "log") as service:
            service.wait_for_response(READY)
            yield service.url


def measure_page(browser: Browser, path: str, many: str, few: str, *, rounds: int) -> Page:
    """Measure one page over both tables in turns."""
    figures = [(*open_page(browser, many), open_page(browser, few)[0]) for _ in range(rounds + 1)]
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


def open_page(browser: Browser, address: str) -> tuple[float, float, float]:
    """Milliseconds to first paint with an empty cache, with a warm cache, and to the start of the response."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        answered = visit(page, address)
        painted = page.evaluate(PAINTED)
        visit(page, urljoin(address, ANOTHER))
        visit(page, address)
        return painted, page.evaluate(PAINTED), answered
    finally:
        context.close()


def visit(page: Tab, address: str) -> float:
    """Milliseconds to the start of the response."""
    answer = page.goto(address, wait_until="load")
    if answer is None or not answer.ok:
        raise BenchmarkError(f"{address} answered {answer.status if answer else 'nothing'}")
    return float(page.evaluate(ANSWERED))


if __name__ == "__main__":
    main()
