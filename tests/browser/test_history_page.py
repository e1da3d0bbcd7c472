"""The History page in a browser: filters, pages, downloads, and the pages of predictions."""

import csv
import json
import re
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Page, expect
from programs import Service, query

from astrodetect.service.web.rendering import escape_invisible
from browser.demo_service import HOSTILE_NAMES, LONG_NAME
from browser.page_checks import elements_beyond_the_content, horizontal_overflow_px
from browser.tabs import LAPTOP, PHONE, Tabs

TEENS = [f"sky {number}.png" for number in range(19, 9, -1)]  # the newest first
BIDIRECTIONAL = "\u202e\u2066\u2069"  # characters that change the direction of the text around them
OPACITY = "getComputedStyle(document.querySelector('.heat-map')).opacity"


def names(page: Page) -> list[str]:
    return page.locator("#rows ol .name").all_text_contents()  # inner texts of rows out of view are empty


# By how many pixels an element moves in the frames after it was scrolled to.
MOVED = """async element => {
    element.scrollIntoView();
    const top = element.getBoundingClientRect().top;
    for (let frame = 0; frame < 5; frame++) await new Promise(requestAnimationFrame);
    return element.getBoundingClientRect().top - top;
}"""


def links(page: Page) -> list[str]:
    addresses: list[str] = page.locator("#rows ol .name").evaluate_all(
        "links => links.map(a => a.getAttribute('href'))"
    )
    return addresses


def test_filters_are_in_the_url_and_in_the_browser_history(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history")
    unfiltered = names(page)
    page.get_by_label("Name contains").fill("sky 1")
    expect(page.locator("#rows ol .name")).to_have_text(TEENS)
    expect(page).to_have_url(re.compile("name=sky"))
    assert names(tabs.open(page.url)) == TEENS
    page.get_by_label("Result").select_option("Anomaly Detected")
    expect(page.locator("#rows ol .name")).to_have_text([name for name in TEENS if int(name[4:6]) % 3 == 0])
    page.go_back()
    expect(page.locator("#rows ol .name")).to_have_text(TEENS)
    page.go_back()
    expect(page.locator("#rows ol .name")).to_have_text(unfiltered)


def test_a_filter_without_matches_can_be_removed(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history?name=no+such+name")
    expect(page.locator("#rows")).to_contain_text("No matches")
    page.locator("#rows .chip").click()
    expect(page.locator("#rows ol .name").first).to_be_visible()
    expect(page).not_to_have_url(re.compile("name"))


def test_pages_link_to_older_and_newer_ones(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history")
    first = links(page)
    assert abs(page.locator("#older").evaluate(MOVED)) < 1
    page.locator("#older").click()
    expect(page.locator("#newer")).to_be_visible()
    expect(page).to_have_url(re.compile("before="))
    second = links(page)
    assert second
    assert not {*second} & {*first}
    page.locator("#newer").click()
    expect(page.locator("#rows ol .name").first).to_have_attribute("href", first[0])
    assert links(page) == first


@pytest.mark.parametrize("kind", ["CSV", "JSON"])
def test_filtered_predictions_can_be_downloaded(tabs: Tabs, service: Service, kind: str, tmp_path: Path) -> None:
    page = tabs.open(f"{service.url}/history?name=sky+1")
    with page.expect_download() as download:
        page.get_by_role("link", name=kind, exact=True).click()
    download.value.save_as(tmp_path / "log")
    text = (tmp_path / "log").read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(text.splitlines())) if kind == "CSV" else json.loads(text)
    predictions = rows["predictions"] if isinstance(rows, dict) else rows
    assert sorted(row["image_name"] for row in predictions) == sorted(TEENS)


def test_hostile_names_are_escaped(tabs: Tabs, service: Service) -> None:
    rows = httpx2.get(f"{service.url}/predictions?limit=1000").json()["predictions"]
    ids = {row["image_name"]: row["id"] for row in rows}
    for name in (*HOSTILE_NAMES, LONG_NAME):
        page = tabs.open(f"{service.url}/history/{ids[name]}", PHONE)
        assert page.locator(".scrollable").text_content() == escape_invisible(name)
        assert not set(BIDIRECTIONAL) & set(page.content())
        assert horizontal_overflow_px(page) == 0
        assert page.locator("main script").count() == 0


def test_a_label_is_added_and_removed_from_the_keyboard(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history/30")
    page.keyboard.press("n")
    page.keyboard.type("odd")
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    labels = page.locator("section.labels .label-list")
    expect(labels).to_contain_text("interesting")
    expect(labels).to_contain_text("odd")
    page.keyboard.press("u")
    expect(labels).to_have_count(0)


def test_the_opacity_of_the_heat_map_is_adjustable(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history/30")
    before = page.evaluate(OPACITY)
    page.locator("input.heat-opacity").focus()
    page.keyboard.press("Home")
    assert float(page.evaluate(OPACITY)) == 0 < float(before)


def test_filters_and_labels_work_without_scripts(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/history", java_script_enabled=False)
    page.get_by_label("Name contains").fill("sky 1")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("#rows ol .name")).to_have_text(TEENS)
    page.get_by_role("link", name=TEENS[0]).click()
    page.get_by_role("button", name="Ordinary").click()
    expect(page.locator("section.labels .label-list")).to_contain_text("ordinary")
    page.get_by_role("button", name="Remove label: ordinary").click()
    expect(page.locator("section.labels .label-list")).to_have_count(0)


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_a_long_tag_stays_within_its_row(tabs: Tabs, service: Service, log_url: str, width: int) -> None:
    tag = "in a cluster of many galaxies and stars"
    insert = "INSERT INTO image_tags (image, tag) SELECT image_sha256, %s FROM predictions WHERE id = 1"
    query(log_url, insert, tag)
    page = tabs.open(f"{service.url}/history?tag={tag}", width)
    query(log_url, "DELETE FROM image_tags WHERE tag = %s", tag)
    expect(page.locator("#rows .chip.tag", has_text=tag)).to_have_count(1)
    assert elements_beyond_the_content(page) == []
