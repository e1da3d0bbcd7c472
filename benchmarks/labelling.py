"""`PYTHONPATH=tests python -m benchmarks.labelling`: 200 images labelled in a real browser, by keyboard alone.

One at a time, in a grid with a key for each image, and in a grid with keys for the interesting ones and one for the
rest. Every tenth image is interesting. The time is that of the machine: nobody looks at the images.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from browser import chromium, demo_service
from playwright.sync_api import Browser, Page
from programs import Service, query

import setup_db
from astrodetect.db.embedded import lifetime
from benchmarks import hardware
from benchmarks.processes import BenchmarkError, exit_on_signals, print_progress

IMAGES = 200
GRID = 40
EVERY = 10  # images of which one is interesting
SPARE = 20  # more images than are labelled, so that the last page is not an empty one
FOCUSED_NAME = "document.activeElement.dataset.name"
FOCUSED_OPEN_TILE = "#tiles > li:not([data-label]):focus"
COUNTS = """
    SELECT count(*), count(*) FILTER (WHERE (image_name LIKE 'odd %') <> (labels.label = 'interesting'))
    FROM labels JOIN predictions ON predictions.id = prediction_id"""


@dataclass(frozen=True, slots=True)
class Labelling:
    """What labelling took."""

    way: str
    images: int
    seconds_per_image: float
    keys_per_image: float


class Keyboard:
    """Presses keys and counts them."""

    def __init__(self, page: Page) -> None:
        self._page, self.presses = page, 0

    def press(self, key: str) -> None:
        """One key, with its modifier."""
        self._page.keyboard.press(key)
        self.presses += 1


def label_one_at_a_time(page: Page, keyboard: Keyboard) -> None:
    """A key for each image, which the next one follows."""
    for _ in range(IMAGES):
        link = page.locator("#candidate a")
        name, address = link.inner_text(), link.get_attribute("href")
        keyboard.press("i" if is_interesting(name) else "o")
        page.locator(f'#candidate a[href="{address}"]').wait_for(state="detached")


def label_each_in_grid(page: Page, keyboard: Keyboard) -> None:
    """A key for each image; the next page follows the last one."""
    for _ in range(IMAGES):
        page.locator(FOCUSED_OPEN_TILE).wait_for()
        keyboard.press("i" if is_interesting(page.evaluate(FOCUSED_NAME)) else "o")


def label_rest_in_grid(page: Page, keyboard: Keyboard) -> None:
    """Arrow keys to each interesting image, a key for it, and one for the rest of the page."""
    for _ in range(IMAGES // GRID):
        page.locator(FOCUSED_OPEN_TILE).wait_for()
        tiles = page.locator("#tiles > li")
        names = tiles.evaluate_all("tiles => tiles.map(tile => tile.dataset.name)")
        columns = page.evaluate(
            "getComputedStyle(document.getElementById('tiles')).gridTemplateColumns.split(' ').length"
        )
        position = 0
        for target in (index for index, name in enumerate(names) if is_interesting(name)):
            down, right = target // columns - position // columns, target % columns - position % columns
            for key, count in (("ArrowDown", down), ("ArrowRight" if right > 0 else "ArrowLeft", abs(right))):
                for _ in range(count):
                    keyboard.press(key)
            keyboard.press("i")
            position = target + 1  # the focus moves on
        first = tiles.first.get_attribute("data-id")
        keyboard.press("r")
        page.locator(f'#tiles > li[data-id="{first}"]').wait_for(state="detached")


WAYS: dict[str, tuple[str, Callable[[Page, Keyboard], None]]] = {
    "one at a time": ("/review?by=novelty", label_one_at_a_time),
    f"grid of {GRID}, a key for each": (f"/review/grid?by=novelty&count={GRID}", label_each_in_grid),
    f"grid of {GRID}, the rest is ordinary": (f"/review/grid?by=novelty&count={GRID}", label_rest_in_grid),
}


def is_interesting(name: str) -> bool:
    """Whether the reviewer finds the image with this name interesting."""
    return "odd" in name


def measure(browser: Browser, url: str, database_url: str, way: str) -> Labelling:
    """Label in one way; all labels are removed before."""
    path, label = WAYS[way]
    query(database_url, "DELETE FROM labels")
    query(database_url, "DELETE FROM leases")
    with closing(browser.new_context(viewport={"width": 1440, "height": 900})) as context:
        page = context.new_page()
        page.goto(url + path)
        page.locator("#candidate, #tiles > li").first.focus()
        keyboard, started = Keyboard(page), time.perf_counter()
        label(page, keyboard)
        seconds = time.perf_counter() - started
        page.wait_for_load_state("networkidle")
    if query(database_url, COUNTS) != [(IMAGES, 0)]:
        raise BenchmarkError(f"{way}: not every image has its label")
    return Labelling(way, IMAGES, seconds / IMAGES, keyboard.presses / IMAGES)


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling", description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with (
        exit_on_signals(),
        TemporaryDirectory(prefix="astrodetect-labelling-") as place,
        chromium.open_browser() as browser,
    ):
        if browser is None:
            raise SystemExit(chromium.SKIPPED)
        folder = Path(place)
        with lifetime.embedded_server(folder / "postgres", lifetime.EMBEDDED_DATABASE) as database_url:
            setup_db.create_database(database_url)
            setup_db.migrate(database_url)
            environment = demo_service.environment(database_url, folder)
            with Service(log=folder / "log", environment=environment) as service:
                service.wait_until(service.ready)
                print_progress(f"scoring {IMAGES + SPARE} images")
                for number in range(IMAGES + SPARE):
                    name = f"{'odd' if number % EVERY == 0 else 'plain'} {number}.png"
                    service.detect(demo_service.demo_image(number), name).raise_for_status()
                results = [measure(browser, service.url, database_url, way) for way in WAYS]
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "ways": [asdict(result) for result in results]}))
        return
    print("| way | images | s per image | keys per image |")
    print("| --- | --- | --- | --- |")
    for result in results:
        print(f"| {result.way} | {result.images} | {result.seconds_per_image:.3f} | {result.keys_per_image:.2f} |")


if __name__ == "__main__":
    main()
