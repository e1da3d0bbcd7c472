"""`PYTHONPATH=tests python -m benchmarks.map`: a map of a million images: tiles, memory, and frames while it is panned.

A map of clusters is stored in a PostgreSQL of its own, and served. Chromium opens the page, and pans it at several zoom
levels; frames are counted by requestAnimationFrame, and the processor time of the page's drawing by its own clock.
"""

import argparse
import datetime as dt
import json
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np
import psutil
from browser import chromium, demo_service
from playwright.sync_api import Page as Tab

import setup_db
from astrodetect.anomalies import projection
from astrodetect.db.embedded import lifetime
from astrodetect.model_store.manifest import list_manifests
from astrodetect.service.projection_store import StoredProjection, projection_to_bytes
from benchmarks import hardware
from benchmarks.processes import ServiceProcess, exit_on_signals
from database import Database

IMAGES, QUICK_IMAGES = 1_000_000, 100_000
CLUSTERS, ROUNDS, FRAMES = 200, 5, 60
READY = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
LEVELS = (0, 1, 3, 5, 7)
RECEIVED = """performance.getEntriesByType('resource').filter(entry => entry.name.includes('/map/'))
    .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
PAN = """async frames => {
    const canvas = document.getElementById('map-canvas'), times = [];
    const send = (type, x) => canvas.dispatchEvent(new PointerEvent(type,
        {pointerId: 1, pointerType: 'mouse', clientX: 300 + x, clientY: 300, bubbles: true}));
    canvas.setPointerCapture = () => {};
    send('pointerdown', 0);
    let last = performance.now();
    for (let i = 0; i < frames; i += 1) {
        send('pointermove', (i % 30 < 15 ? i % 15 : 15 - i % 15) * 12);
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        times.push(now - last);
        last = now;
    }
    send('pointerup', 0);
    return times;
}"""


def main() -> None:
    """Measure; print a table and the figures beside it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.map", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_IMAGES:,} images")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="also write pictures of the page")
    arguments = parser.parse_args()
    count = QUICK_IMAGES if arguments.quick else IMAGES
    with exit_on_signals(), ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory(prefix="astrodetect-map-")))
        url = stack.enter_context(lifetime.embedded_server(place / "postgres", lifetime.EMBEDDED_DATABASE))
        setup_db.create_database(url)
        setup_db.migrate(url)
        environment = demo_service.environment(url, place)
        space = next(manifest.space for manifest in list_manifests(place / "models") if manifest.space)
        stored = clustered_map(count)
        content = projection_to_bytes(stored)
        with closing(Database(url, connections=1, timeout_s=60)) as log:
            log.maps.save(space, content, stored.drawn, preliminary=False)
        service = stack.enter_context(ServiceProcess("main:app", environment, place / "log"))
        service.wait_for_response(READY)
        print("| level | KB of a tile | cells or points | processor time, ms |\n|" + " --- |" * 4)
        memory = [_memory_mb(service)]
        for level in LEVELS:
            print_tile(service, level, stored)
        memory.append(_memory_mb(service))
        figures: dict[str, Any] = {"images": count, "stored_mb": len(content) / 1e6, "service_mb": memory}
        if browser := stack.enter_context(chromium.open_browser()):
            page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
            figures["page"] = measure_page(page, f"{service.url}/map", arguments.screenshots)
        print(json.dumps({"machine": hardware.describe()} | figures))


def clustered_map(count: int) -> StoredProjection:
    """A map of clusters of several sizes, as t-SNE gives."""
    random = np.random.default_rng(0)
    centres = random.uniform(0.05, 0.95, (CLUSTERS, 2))
    cluster = random.integers(0, CLUSTERS, count)
    xy = centres[cluster] + random.normal(0, 0.02, (count, 2)) * random.uniform(0.3, 2, (CLUSTERS, 1))[cluster]
    novelty = np.sort(random.uniform(size=count).astype(np.float32))[::-1]
    ids = random.permutation(count).astype(np.int64) + 1
    codes = (cluster % 5).astype(np.int32)
    names = ["spiral", "elliptical", "merger", "edge-on", "lens"]
    positions = xy.clip(0, 1).astype(np.float32)
    return StoredProjection(ids, names, codes, novelty, positions, projection.TSNE_METHOD, dt.datetime.now(dt.UTC))


def print_tile(service: ServiceProcess, level: int, stored: StoredProjection) -> None:
    """The tile of the level with the median image, after a first request for it."""
    process = psutil.Process(service.process.pid)
    x, y = (int(value * (1 << level)) for value in np.median(stored.xy, axis=0))
    used = []
    for _ in range(ROUNDS + 1):
        body = httpx2.get(f"{service.url}/map/tiles/{level}/{x}/{y}?by=class", timeout=60).content
        used.append(sum(process.cpu_times()[:2]))
    cells, points = np.frombuffer(body, "<u4", 2)
    what = f"{cells:,} cells" if cells else f"{points:,} points"
    print(f"| {level} | {len(body) / 1e3:.0f} | {what} | {1e3 * (used[-1] - used[0]) / ROUNDS:.0f} |", flush=True)


def measure_page(page: Tab, url: str, screenshots: Path | None) -> dict[str, Any]:
    """Bytes of the whole map, and milliseconds between frames while panning at several scales."""
    page.goto(url)
    page.wait_for_selector("#map-canvas[data-points]")
    page.wait_for_timeout(3000)
    figures: dict[str, Any] = {"whole_map_kb": page.evaluate(RECEIVED) / 1e3, "frames": {}}
    for scale in (1, 4, 16, 64):
        if scale > 1:
            page.mouse.move(720, 500)
            page.evaluate(
                "factor => document.getElementById('map-canvas').dispatchEvent(new WheelEvent('wheel',"
                " {deltaY: -Math.log(factor) / 0.002, clientX: 720, clientY: 450, bubbles: true, cancelable: true}))",
                4,
            )
        page.wait_for_timeout(3000)
        times = page.evaluate(PAN, FRAMES)
        figures["frames"][scale] = {"p50_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95))}
        if screenshots:
            screenshots.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=screenshots / f"map-{scale}.png")
    return figures


def _memory_mb(service: ServiceProcess) -> float:
    return psutil.Process(service.process.pid).memory_info().rss / 1e6


if __name__ == "__main__":
    main()
