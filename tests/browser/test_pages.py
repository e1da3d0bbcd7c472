"""Every page, whatever it is for: it fits each screen, keeps nobody out, is light, and talks to no other host."""

from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Response, expect
from programs import Service

from astrodetect.service.web import static_files
from browser.page_checks import barriers, broken_images, focused, sideways_px
from browser.tabs import LAPTOP, PHONE, Tabs

PAGES = ("/", "/history", "/history/1", "/review", "/map", "/trained", "/live", "/key", "/history/999999")
SECTIONS = PAGES[:-2]
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
LEAST_BYTES, MOST_BYTES = 10_000, 150_000
MOST_LINES = 600
VENDORED = {"htmx.min.js"}
MOST_STEPS = 400  # from control to control through the longest page
CONTROLS = """[...document.querySelectorAll(`a[href], button, input, select, textarea, summary, [tabindex="0"]`)]
  .filter(control => control.checkVisibility({visibilityProperty: true}) && !control.disabled
    && control.tabIndex >= 0 && !(control.type === 'radio' && !control.checked)).length"""


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_the_screen_and_keeps_nobody_out(tabs: Tabs, service: Service, path: str, width: int) -> None:
    page = tabs.open(service.url + path, width, forgiven="status of 404" if path == PAGES[-1] else None)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.reload()
        assert (scheme, sideways_px(page)) == (scheme, 0)
        assert (scheme, barriers(page)) == (scheme, [])
    assert broken_images(page) == []
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("path", SECTIONS)
def test_a_page_is_used_from_the_keyboard_and_the_focus_is_seen(tabs: Tabs, service: Service, path: str) -> None:
    page = tabs.open(service.url + path)
    controls = page.evaluate(CONTROLS)  # others come as they are scrolled to
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    assert focused(page)[1:] == (True, True)
    reached = walk(page)
    assert [html for html, shown, outlined in reached if not (shown and outlined)] == []
    assert len(reached) >= controls


def test_the_skip_link_leads_past_the_sections(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")


def test_what_a_page_will_say_a_screen_reader_hears_from_the_first_time_on(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/trained")
    said = page.get_by_role("status").and_(page.locator("#said"))  # what is not displayed has no role
    expect(said).to_have_count(1)
    expect(said).to_be_empty()


@pytest.mark.parametrize("path", SECTIONS)
def test_a_page_weighs_little_without_its_images(tabs: Tabs, service: Service, path: str) -> None:
    page = tabs.open("about:blank")
    bodies: list[Response] = []
    page.on("response", lambda answer: bodies.append(answer) if not is_picture(answer) else None)
    page.goto(service.url + path)
    page.wait_for_load_state("load")
    assert LEAST_BYTES < sum(len(answer.body()) for answer in bodies) < MOST_BYTES


def is_picture(answer: Response) -> bool:
    return answer.request.resource_type in ("image", "eventsource")


def test_the_scripts_that_are_written_here_stay_few() -> None:
    ours = [said for name, said in static_files.FILES.items() if name.endswith(".js") and name not in VENDORED]
    assert 0 < sum(len(said.splitlines()) for said in ours) < MOST_LINES


def test_every_section_is_one_click_away_and_says_where_one_is(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/key")
    for name in ("History", "Review", "Map", "Models", "Live", "Try"):
        page.get_by_role("navigation", name="Sections").get_by_role("link", name=name).click()
        here = page.locator("nav [aria-current=page]")
        assert here.inner_text() == name
        assert urlsplit(page.url).path == here.get_attribute("href")


def walk(page: Page) -> list[tuple[str, bool, bool]]:
    """Every stop of the Tab key until it leaves the page."""
    stops = []
    for _ in range(MOST_STEPS):
        stops.append(focused(page))
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body || document.activeElement.matches('a.skip')"):
            return stops
    raise AssertionError(f"the focus never leaves the page: {stops[-3:]}")
