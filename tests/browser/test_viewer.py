"""The viewer of images: zoom, position and stretch, by mouse and keyboard, also of two images side by side."""

from contextlib import closing

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from programs import Service, query

from astrodetect import images
from astrodetect.fits_values import compress_values
from browser.page_checks import accessibility_violations, horizontal_overflow_px
from browser.tabs import PHONE, Tabs
from database import Database

INSERT = """
    INSERT INTO predictions (image_name, score, result, image_sha256) VALUES ('cube.fits', 0.2, 'No Anomaly', %s)
    RETURNING id"""

pytestmark = pytest.mark.usefixtures("free_images")


def box(page: Page, index: int = 0) -> list[float]:
    """The part of an image that is shown: left, top, width, height."""
    text = page.locator("svg.zoomable").nth(index).get_attribute("viewBox")
    assert text is not None
    return [float(value) for value in text.split()]


def test_an_image_is_zoomed_moved_and_stretched(tabs: Tabs, service: Service, log_url: str) -> None:
    page = tabs.open(f"{service.url}/history/12")
    image, scale = page.locator("svg.zoomable"), page.locator("#zoom-scale")
    expect(scale).to_have_text("1.0 ×")
    whole = box(page)
    page.keyboard.press("+")
    expect(scale).to_have_text("1.5 ×")
    assert box(page) == pytest.approx([whole[2] / 6, whole[3] / 6, whole[2] / 1.5, whole[3] / 1.5])
    image.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert box(page)[:2] == pytest.approx([0, whole[3] / 6])  # at the edge
    image.hover(position={"x": 20, "y": 20})
    page.mouse.wheel(0, -600)
    expect(scale).not_to_have_text("1.5 ×")
    before = box(page)
    page.mouse.down()
    page.mouse.move(400, 500, steps=4)
    page.mouse.up()
    assert box(page)[2] == pytest.approx(before[2])
    page.locator(".view-controls summary").first.click()
    page.get_by_label("Stretch (asinh)").fill("50")
    page.get_by_label("Invert").check()
    expect(page.locator("svg.zoomable .pixels")).to_have_attribute("filter", "url(#stretch)")
    values = page.locator("#stretch [type=table]").first.get_attribute("tableValues")
    assert values is not None
    table = [float(value) for value in values.split()]
    assert (table[0], table[-1]) == (1, 0)
    assert table == sorted(table, reverse=True)
    assert table[len(table) // 4] < 0.5  # faint levels are spread: a straight line would have 0.75
    page.keyboard.press("0")
    expect(page.locator("svg.zoomable .pixels")).not_to_have_attribute("filter", "url(#stretch)")
    assert box(page) == whole


def test_the_stretch_stays_from_one_image_under_review_to_the_next(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review?by=novelty")
    page.locator(".view-controls summary").first.click()
    page.get_by_label("Contrast").fill("40")
    page.keyboard.press("+")
    first = page.locator("#candidate a").get_attribute("href") or ""
    page.keyboard.press("s")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    expect(page.locator("svg.zoomable .pixels")).to_have_attribute("filter", "url(#stretch)")
    expect(page.locator("#zoom-scale")).to_have_text("1.0 ×")


@pytest.mark.parametrize("width", [1440, PHONE])
def test_a_band_of_a_fits_upload_is_shown_with_a_stretch_of_its_values(
    tabs: Tabs, service: Service, log_url: str, width: int
) -> None:
    sha256 = f"{width:064x}"
    planes = [np.random.default_rng(band).normal(size=(32, 32)) for band in range(3)]
    with closing(Database(log_url, connections=1, timeout_s=30)) as log:
        log.save_thumbnails([images.make_thumbnail(sha256, np.zeros((32, 32, 3), np.uint8))], [])
        log.fits_values.save(compress_values(sha256, planes, 32))
    [(id_,)] = query(log_url, INSERT, sha256)
    page = tabs.open(f"{service.url}/history/{id_}", width)
    pixels = page.locator("svg.zoomable .pixels")
    page.get_by_text("FITS values").click()
    page.get_by_label("Band").select_option("1")
    page.locator("#view-values [name=stretch]").select_option("log")
    address = f"/pictures/{sha256}/values?bands=1&stretch=log&low=0.5&high=99.5"
    expect(pixels).to_have_attribute("href", address)
    assert page.evaluate("address => fetch(address).then(response => response.status)", address) == 200
    assert (accessibility_violations(page), horizontal_overflow_px(page)) == ([], 0)
    page.get_by_label("Band").select_option("2,1,0")
    expect(pixels).to_have_attribute("href", address.replace("bands=1", "bands=2%2C1%2C0"))
    page.locator("#view-reset").click()
    expect(pixels).to_have_attribute("href", f"/pictures/{sha256}")


@pytest.mark.parametrize("width", [1440, PHONE])
def test_two_images_side_by_side_move_together(tabs: Tabs, service: Service, width: int, log_url: str) -> None:
    [(first,), (second,)] = query(log_url, "SELECT id FROM predictions ORDER BY id LIMIT 2")
    page = tabs.open(f"{service.url}/history/{first}/beside/{second}", width)
    page.locator("#zoom-in").click()
    expect(page.locator("#zoom-scale")).to_have_text("1.5 ×")
    assert box(page, 0) == box(page, 1)
    assert (accessibility_violations(page), horizontal_overflow_px(page)) == ([], 0)
