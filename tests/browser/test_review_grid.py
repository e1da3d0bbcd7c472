"""The grid of the Review page in a browser: focus, ranges, keys of labels, undo, the next page, and screen readers."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from programs import Service, query

from browser.page_checks import accessibility_violations, focused_element
from browser.tabs import PHONE, Tabs

COUNT = 12
pytestmark = pytest.mark.usefixtures("free_images", "no_labels")


@pytest.fixture
def no_labels(log_url: str) -> Any:
    """Removes all labels, their names and tags before and after a test."""
    query(log_url, "TRUNCATE labels, label_names, image_tags")
    yield
    query(log_url, "TRUNCATE labels, label_names, image_tags")


def open_grid(
    tabs: Tabs, service: Service, *, answer_label: Callable[[Route], None] | None = None, **options: Any
) -> Page:
    page = tabs.open("about:blank", **options)
    if answer_label:  # before the page is there: a request soon after may still go to the service
        page.route("**/review/grid/label", answer_label)
    with page.expect_response("**/review/grid/turn"):
        page.goto(f"{service.url}/review/grid?by=novelty&count={COUNT}")
    tile(page, 0).focus()
    return page


def tile(page: Page, index: int) -> Locator:
    return page.locator("#tiles [role=option]").nth(index)


def ids(page: Page) -> list[str]:
    return list(page.locator("#tiles > li").evaluate_all("tiles => tiles.map(tile => tile.dataset.id)"))


def labels(log_url: str) -> list[tuple[str, str]]:
    rows = query(log_url, "SELECT prediction_id, label FROM labels ORDER BY id")
    return [(str(id_), label) for id_, label in rows]


def test_images_are_labelled_one_by_one_and_in_ranges_by_keyboard(tabs: Tabs, service: Service, log_url: str) -> None:
    page = open_grid(tabs, service)
    first = ids(page)
    page.keyboard.press("i")  # the first, which has the focus
    expect(tile(page, 0)).to_have_attribute("data-label", "interesting")
    expect(tile(page, 1)).to_be_focused()
    assert focused_element(page)[1:] == (True, True)
    page.keyboard.press("ArrowDown")
    expect(tile(page, 1)).not_to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_role("option", selected=True)).to_have_count(3)
    page.keyboard.press("a")
    expect(page.get_by_role("option", selected=True)).to_have_count(0)
    expect(tile(page, 4)).to_be_focused()  # the next without a label
    expect(page.locator("#announcement")).to_have_text("3 images labelled artefact")
    assert labels(log_url) == [(first[0], "interesting"), *((id_, "artefact") for id_ in first[1:4])]
    name = f"{tile(page, 1).get_attribute('data-name')}, labelled artefact"
    expect(tile(page, 1)).to_have_accessible_name(name)
    page.keyboard.press("u")
    expect(tile(page, 1)).to_be_focused()
    expect(page.locator("#tiles [data-label]")).to_have_count(1)
    assert labels(log_url) == [(first[0], "interesting")]


def test_the_rest_is_ordinary_turns_the_page_and_is_undone_as_a_whole(
    tabs: Tabs, service: Service, log_url: str
) -> None:
    page = open_grid(tabs, service)
    first = ids(page)
    tile(page, 2).click()
    tile(page, 4).click(modifiers=["Shift"])
    page.keyboard.press("l")
    page.keyboard.type("Ring io")
    page.keyboard.press("Enter")
    expect(tile(page, 0)).not_to_have_attribute("data-label", "ring io")
    expect(tile(page, 3)).to_have_attribute("data-label", "ring io")
    with page.expect_response("**/review/grid?**"):
        page.keyboard.press("r")
    expect(page.locator(f'#tiles > li[data-id="{first[0]}"]')).to_have_count(0)
    expect(tile(page, 0)).to_be_focused()
    assert labels(log_url)[3:] == [(id_, "ordinary") for id_ in first if id_ not in first[2:5]]
    expect(page.get_by_role("button", name="ring io 1")).to_be_visible()
    page.keyboard.press("u")
    expect(page.locator(f'#tiles > li[data-id="{first[0]}"]')).to_have_count(1)  # shown again, first
    assert ids(page)[:9] == [id_ for id_ in first if id_ not in first[2:5]]
    assert labels(log_url) == [(id_, "ring io") for id_ in first[2:5]]


def test_a_name_gets_a_key_and_images_are_tagged_and_labelled_by_keyboard(
    tabs: Tabs, service: Service, log_url: str
) -> None:
    page = tabs.open(f"{service.url}/review/names")
    page.get_by_role("textbox", name="Name").focus()
    page.keyboard.type("Satellite trail")
    page.keyboard.press("Tab")
    page.keyboard.type("art")  # of the roles
    page.keyboard.press("Tab")
    page.keyboard.type("x")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="satellite trail").get_by_label("Counts as")).to_have_value("artefact")

    page = open_grid(tabs, service)
    first = ids(page)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("t")
    page.keyboard.type("oops")
    page.keyboard.press("Enter")
    expect(tile(page, 1).locator(".chip")).to_have_text("oops")
    page.keyboard.press("u")
    expect(page.locator("#tiles .chip")).to_have_count(0)
    page.keyboard.press("t")
    page.keyboard.type("Blue  core")
    page.keyboard.press("Enter")
    expect(page.locator("#announcement")).to_have_text("2 images tagged blue core")
    expect(tile(page, 1)).to_be_focused()
    expect(tile(page, 0).locator(".chip")).to_have_text("blue core")
    page.keyboard.press("x")  # they are still chosen
    expect(tile(page, 0)).to_have_accessible_name(
        f"{tile(page, 0).get_attribute('data-name')}, labelled satellite trail, tagged blue core"
    )
    expect(tile(page, 0).locator(".chip.artefact")).to_have_text("satellite trail")
    expect(page.locator("#announcement")).to_have_text("2 images labelled satellite trail")
    assert labels(log_url) == [(id_, "satellite trail") for id_ in first[:2]]

    page = tabs.open(f"{service.url}/history/{first[0]}")
    page.keyboard.press("t")
    page.keyboard.type("tail")
    page.keyboard.press("Enter")
    remove = page.get_by_role("button", name="Remove tag")
    expect(remove).to_have_count(2)
    assert accessibility_violations(page) == []
    remove.first.press("Enter")
    expect(remove).to_have_count(1)
    expect(remove).to_have_text("tail ×")
    assert query(log_url, "SELECT tag, count(*) FROM image_tags GROUP BY tag ORDER BY tag") == [
        ("blue core", 1), ("tail", 1)
    ]  # fmt: skip


def test_the_rest_shows_no_label_on_images_that_another_tab_has_labelled(
    tabs: Tabs, service: Service, log_url: str
) -> None:
    page = open_grid(tabs, service)
    first = ids(page)
    query(log_url, "INSERT INTO labels (prediction_id, label) VALUES (%s, 'interesting')", first[3])
    page.keyboard.press(" ")
    page.keyboard.press("r")
    expect(page.locator("#announcement")).to_have_text(f"{COUNT - 2} images labelled ordinary")
    expect(page.locator(f'#tiles > li[data-id="{first[3]}"]')).to_have_count(0)
    expect(page.locator("#tiles [data-label=ordinary]")).to_have_count(0)
    assert (first[3], "interesting") in labels(log_url)
    assert (first[3], "ordinary") not in labels(log_url)


def test_a_label_that_is_not_stored_is_not_shown(tabs: Tabs, service: Service, log_url: str) -> None:
    answers: list[Callable[[Route], None]] = [Route.abort, lambda route: route.fulfill(status=503, body="busy")]

    def answer(route: Route) -> None:
        answers.pop(0)(route)

    page = open_grid(tabs, service, ignore="Failed to load resource", answer_label=answer)
    page.keyboard.press("o")
    expect(page.locator("#announcement")).to_have_text("The service does not answer.")
    page.keyboard.press("o")
    expect(page.locator("#announcement")).to_have_text("the service answered with status 503")
    expect(page.locator("#tiles [data-label]")).to_have_count(0)
    page.keyboard.press("Home")
    page.keyboard.press("s")
    expect(tile(page, 0)).to_have_attribute("data-skipped", "yes")
    assert labels(log_url) == []


def test_the_grid_is_accessible_with_a_selection_on_a_phone(tabs: Tabs, service: Service, log_url: str) -> None:
    page = open_grid(tabs, service, width=PHONE)
    tile(page, 1).tap()
    expect(tile(page, 1)).to_have_attribute("aria-selected", "true")
    page.locator("#interesting").tap()
    expect(tile(page, 1)).to_have_attribute("data-label", "interesting")
    expect(page.locator("#announcement")).to_have_text("1 image labelled interesting")
    assert len(labels(log_url)) == 1
    assert accessibility_violations(page) == []


def test_the_grid_works_without_scripts(tabs: Tabs, service: Service, log_url: str) -> None:
    page = tabs.open(f"{service.url}/review/grid?by=novelty&count={COUNT}", java_script_enabled=False)
    first = ids(page)
    page.get_by_role("checkbox").nth(3).check()
    page.get_by_role("checkbox").nth(5).check()
    page.locator("#artefact").click()
    assert labels(log_url) == [(first[3], "artefact"), (first[5], "artefact")]
    assert not {first[3], first[5]} & set(ids(page))
