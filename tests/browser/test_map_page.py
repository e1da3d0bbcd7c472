"""The Map page in a browser: selecting points by mouse, keyboard and touch."""

import datetime as dt
import re
from dataclasses import replace

import httpx2
import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect
from programs import Service, query

from astrodetect.service.projection_store import projection_from_bytes, projection_to_bytes
from astrodetect.service.web.projection_map import MAX_POINTS, MOST_UNUSUAL
from browser.conftest import EXPECT_TIMEOUT_MS
from browser.tabs import LAPTOP, PHONE, Tabs

MAP_TIMEOUT_MS = 120_000
POLL_INTERVAL_MS = 1000
UNAVAILABLE = {"error": {"code": "database_unavailable", "message": "PostgreSQL does not answer"}}
IMAGE_URL = re.compile(r"/history/\d+$")
FIRST_POINT = """async () => {
  const bytes = await (await fetch('/map/points')).arrayBuffer(), edge = 24;
  const box = document.getElementById('map-canvas').getBoundingClientRect();
  const [x, y] = new Uint16Array(bytes, 8 * bytes.byteLength / 15, 2);
  return [box.x + edge + (box.width - 2 * edge) * x / 65535, box.y + edge + (box.height - 2 * edge) * y / 65535];
}"""

SHOWS_COLOURS = """([least, id]) => {
  const canvas = document.getElementById(id), { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return new Set(new Uint32Array(copy.getImageData(0, 0, width, height).data.buffer)).size > least;
}"""


def open_map(tabs: Tabs, service: Service, width: int = LAPTOP, ignore: str | None = None) -> Page:
    page = tabs.open(f"{service.url}/map", width, ignore=ignore)
    expect(page.locator("#map-canvas[data-points]")).to_be_visible(timeout=MAP_TIMEOUT_MS)
    expect(page.locator("#map-status progress")).to_have_count(0, timeout=MAP_TIMEOUT_MS)
    page.locator("#map-canvas").scroll_into_view_if_needed()
    return page


def test_hovering_previews_an_image_and_a_click_opens_its_page(tabs: Tabs, service: Service) -> None:
    page = open_map(tabs, service)
    position = page.evaluate(FIRST_POINT)
    page.mouse.move(*position)
    link = page.locator("#tooltip-content a")
    expect(link).to_be_visible()
    href = link.get_attribute("href") or ""
    page.mouse.down()
    page.mouse.up()
    expect(page).to_have_url(f"{service.url}{href}")
    assert IMAGE_URL.search(page.url)


def test_a_map_of_few_points_shows_their_images(tabs: Tabs, service: Service) -> None:
    page = open_map(tabs, service)
    canvas = page.locator("#map-canvas")
    pictures = httpx2.get(f"{service.url}/map/pictures").json()
    expect(canvas).to_have_attribute("data-pictures", str(len(pictures)))
    assert len(pictures) == int(canvas.get_attribute("data-points") or 0)
    page.wait_for_function(SHOWS_COLOURS, arg=[2000, "map-canvas"], timeout=EXPECT_TIMEOUT_MS)
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_function(SHOWS_COLOURS, arg=[1000, "map-canvas"], timeout=EXPECT_TIMEOUT_MS)


def test_a_map_of_many_images_shows_cells_and_zoomed_in_its_points(tabs: Tabs, service: Service, log_url: str) -> None:
    open_map(tabs, service)
    [(space, *few)] = query(log_url, "SELECT space, drawn, content FROM maps WHERE NOT preliminary")
    stored, total = projection_from_bytes(bytes(few[1])), MAX_POINTS + 5_000
    assert stored
    random = np.random.default_rng(1)
    xy = random.uniform(size=(total, 2)).astype(np.float32)
    xy[(abs(xy - 0.5) < 0.03).all(axis=1)] = 0  # the least unusual one is alone in the middle, and has a prediction
    xy[-1] = 0.5
    many = replace(
        stored,
        ids=np.arange(stored.newest + total - 1, stored.newest - 1, -1),
        class_of=random.integers(0, 2, total, np.int32),
        novelty=np.linspace(1, 0, total, dtype=np.float32),
        xy=xy,
        drawn=dt.datetime.now(dt.UTC),
    )
    update = "UPDATE maps SET drawn = %s, content = %s WHERE space = %s AND NOT preliminary"
    query(log_url, update, many.drawn, projection_to_bytes(many), space)
    try:
        page = open_map(tabs, service)
        expect(page.locator("#map-canvas")).to_have_attribute("data-points", str(MOST_UNUSUAL))
        page.wait_for_function(SHOWS_COLOURS, arg=[3, "map-density"], timeout=EXPECT_TIMEOUT_MS)
        for _ in range(2):
            page.get_by_role("button", name="Zoom in").click()
        empty = f"arg => !({SHOWS_COLOURS})(arg)"
        page.wait_for_function(empty, arg=[1, "map-density"], timeout=EXPECT_TIMEOUT_MS)  # all are points
        page.locator("#map-canvas").hover()
        expect(page.locator("#tooltip-content")).to_contain_text(f"image {total:,} of {total:,}")
    finally:
        query(log_url, update, *few, space)


def test_images_are_selected_and_opened_from_the_keyboard(tabs: Tabs, service: Service) -> None:
    page = open_map(tabs, service)
    page.locator("#map-canvas").focus()
    page.keyboard.press("n")
    tooltip = page.locator("#tooltip-content")
    expect(tooltip).to_contain_text("image 1 of ")
    page.keyboard.press("n")
    expect(tooltip).to_contain_text("image 2 of ")
    page.keyboard.press("p")
    expect(tooltip).to_contain_text("image 1 of ")
    page.keyboard.press("Escape")
    expect(page.locator("#tooltip")).to_be_hidden()
    page.keyboard.press("n")
    expect(tooltip).to_contain_text("image 1 of ")
    page.keyboard.press("Enter")
    expect(page).to_have_url(IMAGE_URL)


def test_on_a_phone_the_first_touch_previews_and_the_second_opens(tabs: Tabs, service: Service) -> None:
    page = open_map(tabs, service, PHONE)
    position = page.evaluate(FIRST_POINT)
    page.touchscreen.tap(*position)
    expect(page.locator("#tooltip-content a")).to_be_visible()
    assert page.url == f"{service.url}/map"
    page.touchscreen.tap(*position)
    expect(page).to_have_url(IMAGE_URL)


def test_progress_polling_survives_an_error_and_ends_when_the_map_is_done(tabs: Tabs, service: Service) -> None:
    page = open_map(tabs, service, ignore="503")
    requests: list[Route] = []

    def fail_first(route: Route) -> None:
        requests.append(route)
        route.fulfill(status=503, json=UNAVAILABLE) if len(requests) == 1 else route.continue_()

    page.route("**/map/progress*", fail_first)
    page.get_by_role("button", name="Recompute").click()
    expect(page.locator("#announcement")).to_have_text(UNAVAILABLE["error"]["message"])
    expect(page.locator("#map-status progress")).to_have_count(0, timeout=MAP_TIMEOUT_MS)
    count = len(requests)
    assert count > 1
    page.wait_for_timeout(2 * POLL_INTERVAL_MS)
    assert len(requests) == count


@pytest.mark.parametrize("key", ["+", "ArrowRight"])
def test_the_map_is_zoomed_and_panned_from_the_keyboard(tabs: Tabs, service: Service, key: str) -> None:
    page = open_map(tabs, service)
    page.locator("#map-canvas").focus()
    page.keyboard.press("+")
    before = page.locator("#map-canvas").screenshot()
    page.keyboard.press(key)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("#map-canvas").screenshot() != before
