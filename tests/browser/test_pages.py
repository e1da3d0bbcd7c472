"""Every page: layout, accessibility, weight, and no requests to other hosts."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Response, Route, expect
from programs import Service

from astrodetect.service.web import rendering
from browser import demo_service
from browser.page_checks import (
    accessibility_violations,
    broken_images,
    elements_beyond_the_content,
    focused_element,
    horizontal_overflow_px,
)
from browser.tabs import SCREENS, Tabs

GRID = "/review/grid?count=12"
MAPS = "/map", "/map/sky"
SECTIONS = ("/", "/history", "/history/1", "/review", GRID, *MAPS, "/models-page", "/models-page/train", "/live")
PAGES = (*SECTIONS, "/review/names", "/audit", "/key", "/history/999999")
pytestmark = pytest.mark.usefixtures("free_images")
MIN_BYTES, MAX_BYTES = 10_000, 150_000
MAX_SCRIPT_LINES = 1_200
VENDORED = {"htmx.min.js"}
MAX_TAB_STEPS = 400
CONTROLS = """[...document.querySelectorAll(`a[href], button, input, select, textarea, summary, [tabindex="0"]`)]
  .filter(control => control.checkVisibility({visibilityProperty: true}) && !control.disabled
    && control.tabIndex >= 0 && !(control.type === 'radio' && !control.checked)).length"""


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_the_screen_and_is_accessible(
    tabs: Tabs, service: Service, path: str, width: int, scheme: str
) -> None:
    ignore = "status of 404" if path == PAGES[-1] else None
    page = tabs.open(service.url + path, width, ignore=ignore, color_scheme=scheme)
    expect(page.locator("#map-status progress")).to_have_count(0)  # reloads the page once the map is computed
    assert horizontal_overflow_px(page) == 0
    assert accessibility_violations(page) == []
    assert elements_beyond_the_content(page) == []
    assert broken_images(page) == []
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("path", SECTIONS)
def test_every_control_is_reachable_by_keyboard_with_a_visible_focus(tabs: Tabs, service: Service, path: str) -> None:
    page = tabs.open(service.url + path)
    controls = page.evaluate(CONTROLS)  # more load on scrolling
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main"
    assert focused_element(page)[1:] == (True, True)
    reached = tab_through(page)
    assert [html for html, visible, outlined in reached if not (visible and outlined)] == []
    assert len(reached) >= controls


def test_the_skip_link_moves_the_focus_to_the_main_content(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")


def test_the_notice_of_the_domain_keeps_the_focus_when_predictions_arrive(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history")
    page.get_by_role("link", name="Train a model").focus()
    expect(page.get_by_text("1 new prediction")).to_be_hidden()
    with page.expect_response("**/domain") as notice:
        service.detect(demo_service.demo_image(1), "ordinary.png").raise_for_status()
    notice.value.finished()
    expect(page.get_by_text("1 new prediction")).to_be_visible()
    expect(page.get_by_role("link", name="Train a model")).to_be_focused()


def test_the_announcement_region_is_exposed_to_screen_readers_from_the_start(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/models-page")
    announcement = page.get_by_role("status").and_(page.locator("#announcement"))  # what is not displayed has no role
    expect(announcement).to_have_count(1)
    expect(announcement).to_be_empty()


def test_what_is_entered_before_the_scripts_are_there_counts(tabs: Tabs, service: Service) -> None:
    page = tabs.open("about:blank")
    late: list[Route] = []

    def open_early(path: str) -> None:
        late.clear()
        page.route("**/page.js", lambda route: late.append(route))  # noqa: PLW0108 - Playwright marks its handlers
        page.goto(service.url + path, wait_until="commit")

    def load_scripts() -> None:
        page.wait_for_function("document.readyState === 'interactive'")
        late[0].continue_()

    open_early("/")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "", "buffer": demo_service.demo_image(1)})
    load_scripts()
    expect(page.locator("#cards .result")).to_have_count(1)
    open_early("/history")
    page.get_by_label("Name contains").fill("sky 10")
    load_scripts()
    expect(page.locator("#rows ol .name")).to_have_text(["sky 10.png"])
    open_early("/history/2")
    page.locator("input.heat-opacity").fill("20")
    load_scripts()
    expect(page.locator(":root")).to_have_attribute("style", re.compile("--heat-opacity: ?0.2;"))


def test_actions_are_announced_after_going_back(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history", ignore="ERR_CONNECTION_REFUSED")
    page.get_by_label("Result").select_option("No Anomaly")
    expect(page).to_have_url(re.compile("result="))
    page.go_back()
    expect(page.get_by_label("Result")).to_have_value("")
    page.get_by_role("button", name="Send to TOPCAT").click()
    expect(page.locator("#announcement")).to_contain_text("hub")


@pytest.mark.parametrize("path", SECTIONS)
def test_a_page_without_its_images_is_light(tabs: Tabs, service: Service, path: str) -> None:
    page = tabs.open("about:blank")
    bodies: list[Response] = []
    page.on("response", lambda response: bodies.append(response) if not is_image(response) else None)
    page.goto(service.url + path)
    page.wait_for_load_state("load")
    assert MIN_BYTES < sum(len(response.body()) for response in bodies) < MAX_BYTES


def is_image(response: Response) -> bool:
    return response.request.resource_type in ("image", "eventsource")


def test_our_scripts_stay_short() -> None:
    scripts = [
        content for name, content in rendering.STATIC_FILES.items() if name.endswith(".js") and name not in VENDORED
    ]
    assert 0 < sum(len(script.splitlines()) for script in scripts) < MAX_SCRIPT_LINES


def test_the_navigation_links_every_section_and_marks_the_current_one(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/key")
    for name in ("History", "Review", "Map", "Models", "Live", "Try"):
        page.get_by_role("navigation", name="Sections").get_by_role("link", name=name).click()
        current = page.locator("nav [aria-current=page]")
        assert current.inner_text() == name
        assert urlsplit(page.url).path == current.get_attribute("href")


def tab_through(page: Page) -> list[tuple[str, bool, bool]]:
    """Every element that the Tab key focuses, until the focus leaves the page."""
    stops = []
    for _ in range(MAX_TAB_STEPS):
        stops.append(focused_element(page))
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body || document.activeElement.matches('a.skip-link')"):
            return stops
    raise AssertionError(f"the focus never leaves the page: {stops[-3:]}")
