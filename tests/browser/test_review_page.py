"""Looking through the unusual: labels from the keyboard, taken back, left for later, and told of."""

import csv

import httpx2
from playwright.sync_api import Page, expect
from programs import Service

from browser.tabs import Tabs


def candidate(page: Page) -> str:
    return page.locator("#candidate").inner_text()


def labels(service: Service) -> list[dict[str, str]]:
    return list(csv.DictReader(httpx2.get(f"{service.url}/labels.csv").text.splitlines()))


def test_images_are_labelled_skipped_and_taken_back_from_the_keyboard(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.keyboard.press("i")
    expect(page.locator("#candidate")).not_to_have_text(first)
    assert labels(service)[-1]["label"] == "interesting"
    second = candidate(page)
    page.keyboard.press("u")
    expect(page.locator("#candidate")).to_have_text(first)
    assert len(labels(service)) == before
    page.keyboard.press("s")
    expect(page.locator("#candidate")).to_have_text(second)
    assert len(labels(service)) == before
    page.locator("#again").click()
    expect(page.locator("#again")).to_have_count(0)


def test_a_note_goes_with_the_label_and_its_letters_are_no_keys(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.keyboard.press("n")
    page.keyboard.type("a ring, is it not?")
    assert (len(labels(service)), candidate(page)) == (before, first)
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator("#candidate")).not_to_have_text(first)
    assert (labels(service)[-1]["label"], labels(service)[-1]["note"]) == ("ordinary", "a ring, is it not?")


def test_two_browsers_that_come_for_the_first_time_are_given_different_images(tabs: Tabs, service: Service) -> None:
    page = tabs.open("about:blank")
    with page.expect_response("**/review/turn") as told:
        page.goto(f"{service.url}/review")
    assert told.value.status == 204
    assert candidate(tabs.open(f"{service.url}/review")) != candidate(page)


def test_keys_on_buttons_are_turned_off_for_good_and_on_again(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    hint, switch = page.locator("#skip kbd"), page.get_by_role("button", name="Single-key shortcuts: on", pressed=True)
    expect(hint).to_be_visible()
    switch.focus()
    page.keyboard.press("Enter")
    for _ in range(2):
        expect(page.get_by_role("button", name="Single-key shortcuts: off", pressed=False)).to_be_visible()
        expect(hint).to_be_hidden()
        page.keyboard.press("s")
        page.keyboard.press("i")
        page.reload()
    assert (len(labels(service)), candidate(page)) == (before, first)
    page.goto(f"{service.url}/map")
    expect(page.locator(".keys")).to_be_hidden()
    page.locator("#keys").click()
    page.goto(f"{service.url}/review")
    expect(hint).to_be_visible()
    page.keyboard.press("s")
    expect(page.locator("#candidate")).not_to_have_text(first)


def test_what_was_found_grows_with_each_label(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    first = candidate(page)
    page.locator("#artefact").click()
    expect(page.locator("#candidate")).not_to_have_text(first)
    told = page.locator(".found .chip.artefact")
    expect(told).to_have_count(1)
    count = int(told.inner_text().split()[0])
    second = candidate(page)
    page.keyboard.press("a")
    expect(page.locator("#candidate")).not_to_have_text(second)
    expect(told).to_have_text(f"{count + 1} artefact")


def test_it_works_without_scripts(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review", java_script_enabled=False)
    before, first = len(labels(service)), candidate(page)
    assert page.locator("#keys").is_hidden()
    page.locator("#interesting").click()
    expect(page.locator("#candidate")).not_to_have_text(first)
    assert len(labels(service)) == before + 1
    page.locator("#undo").click()
    expect(page.locator("#candidate")).to_have_text(first)
    assert len(labels(service)) == before
