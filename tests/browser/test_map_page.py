"""From a point on the map to the image behind it: by hand, from the keyboard, with a finger."""

import re

import pytest
from playwright.sync_api import Page, Route, expect
from programs import Service

from browser.tabs import LAPTOP, PHONE, Tabs

DRAWN_WITHIN_MS = 120_000
POLLED_EVERY_MS = 1000
AWAY = {"error": {"code": "database_unavailable", "message": "PostgreSQL does not answer"}}
AN_IMAGE = re.compile(r"/history/\d+$")
FIRST_POINT = """async () => {
  const bytes = await (await fetch('/map/points')).arrayBuffer(), edge = 16, box = atlas.getBoundingClientRect();
  const [x, y] = new Uint16Array(bytes, 8 * bytes.byteLength / 15, 2);
  return [box.x + edge + (box.width - 2 * edge) * x / 65535, box.y + edge + (box.height - 2 * edge) * y / 65535];
}"""


def drawn(tabs: Tabs, service: Service, width: int = LAPTOP, forgiven: str | None = None) -> Page:
    page = tabs.open(f"{service.url}/map", width, forgiven=forgiven)
    expect(page.locator("#atlas[data-points]")).to_be_visible(timeout=DRAWN_WITHIN_MS)
    expect(page.locator("#drawn progress")).to_have_count(0, timeout=DRAWN_WITHIN_MS)
    page.locator("#atlas").scroll_into_view_if_needed()
    return page


def test_pointing_shows_an_image_and_a_click_opens_its_page(tabs: Tabs, service: Service) -> None:
    page = drawn(tabs, service)
    place = page.evaluate(FIRST_POINT)
    page.mouse.move(*place)
    shown = page.locator("#what a")
    expect(shown).to_be_visible()
    href = shown.get_attribute("href") or ""
    page.mouse.down()
    page.mouse.up()
    expect(page).to_have_url(f"{service.url}{href}")
    assert AN_IMAGE.search(page.url)


def test_the_map_is_walked_and_left_from_the_keyboard(tabs: Tabs, service: Service) -> None:
    page = drawn(tabs, service)
    page.locator("#atlas").focus()
    page.keyboard.press("n")
    told = page.locator("#what")
    expect(told).to_contain_text("image 1 of ")
    page.keyboard.press("n")
    expect(told).to_contain_text("image 2 of ")
    page.keyboard.press("p")
    expect(told).to_contain_text("image 1 of ")
    page.keyboard.press("Escape")
    expect(page.locator("#pin")).to_be_hidden()
    page.keyboard.press("n")
    expect(told).to_contain_text("image 1 of ")
    page.keyboard.press("Enter")
    expect(page).to_have_url(AN_IMAGE)


def test_on_a_phone_a_first_touch_shows_and_a_second_one_opens(tabs: Tabs, service: Service) -> None:
    page = drawn(tabs, service, PHONE)
    place = page.evaluate(FIRST_POINT)
    page.touchscreen.tap(*place)
    expect(page.locator("#what a")).to_be_visible()
    assert page.url == f"{service.url}/map"
    page.touchscreen.tap(*place)
    expect(page).to_have_url(AN_IMAGE)


def test_how_far_it_is_is_asked_on_after_an_answer_that_failed_and_no_more_when_it_is_done(
    tabs: Tabs, service: Service
) -> None:
    page = drawn(tabs, service, forgiven="503")
    asked: list[Route] = []

    def fail_first(route: Route) -> None:
        asked.append(route)
        route.fulfill(status=503, json=AWAY) if len(asked) == 1 else route.continue_()

    page.route("**/map/progress*", fail_first)
    page.get_by_role("button", name="Draw it again").click()
    expect(page.locator("#said")).to_have_text(AWAY["error"]["message"])
    expect(page.locator("#drawn progress")).to_have_count(0, timeout=DRAWN_WITHIN_MS)
    enough = len(asked)
    assert enough > 1
    page.wait_for_timeout(2 * POLLED_EVERY_MS)
    assert len(asked) == enough


@pytest.mark.parametrize("key", ["+", "ArrowRight"])
def test_it_is_zoomed_and_moved_from_the_keyboard(tabs: Tabs, service: Service, key: str) -> None:
    page = drawn(tabs, service)
    page.locator("#atlas").focus()
    page.keyboard.press("+")
    before = page.locator("#atlas").screenshot()
    page.keyboard.press(key)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("#atlas").screenshot() != before
