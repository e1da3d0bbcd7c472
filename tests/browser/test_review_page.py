"""The Review page in a browser: labels, undo, skipping and shortcuts from the keyboard."""

import csv
import time

import httpx2
import pytest
from playwright.sync_api import Page, expect
from programs import Service

from browser.tabs import Tabs

pytestmark = pytest.mark.usefixtures("free_images")


def candidate(page: Page) -> str:
    """The address of the image: many may have the same name."""
    return page.locator("#candidate a").get_attribute("href") or ""


def labels(service: Service) -> list[dict[str, str]]:
    return list(csv.DictReader(httpx2.get(f"{service.url}/labels.csv").text.splitlines()))


def test_images_are_labelled_skipped_and_restored_from_the_keyboard(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.keyboard.press("i")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    assert labels(service)[-1]["label"] == "interesting"
    second = candidate(page)
    page.keyboard.press("u")
    expect(page.locator("#candidate a")).to_have_attribute("href", first)
    assert len(labels(service)) == before
    page.keyboard.press("s")
    expect(page.locator("#candidate a")).to_have_attribute("href", second)
    assert len(labels(service)) == before
    page.locator("#restore-skipped").click()
    expect(page.locator("#restore-skipped")).to_have_count(0)
    tagged = candidate(page)
    page.keyboard.press("t")
    page.keyboard.type("tail")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove tag tail")).to_have_count(1)
    expect(page.locator("#undo")).to_be_enabled()
    page.keyboard.press("Escape")  # out of the field for another tag
    page.keyboard.press("u")
    expect(page.get_by_role("button", name="Remove tag tail")).to_have_count(0)
    assert candidate(page) == tagged


def test_a_key_pressed_as_the_next_image_appears_loads_no_new_page(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.evaluate(
        """() => {
          window.isSamePage = true;
          const press = () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "o", bubbles: true }));
          document.body.addEventListener("htmx:afterSwap", () => setTimeout(press), { once: true });
          press();
        }"""
    )
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    deadline = time.monotonic() + 30
    while len(labels(service)) < before + 2 and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert len(labels(service)) == before + 2
    assert page.evaluate("window.isSamePage")


def test_a_note_is_stored_with_the_label_and_typing_it_triggers_no_shortcut(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.keyboard.press("n")
    page.keyboard.type("a ring, is it not?")
    assert (len(labels(service)), candidate(page)) == (before, first)
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    assert (labels(service)[-1]["label"], labels(service)[-1]["note"]) == ("ordinary", "a ring, is it not?")


def test_back_leads_to_the_labels_and_the_image_of_now(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    first = candidate(page)
    page.keyboard.press("i")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    following = candidate(page)
    page.goto(f"{service.url}{first}")
    page.locator("#note").fill("a ring")
    page.get_by_role("button", name="Remove label: interesting").click()
    expect(page.locator(".label-list")).to_have_count(0)
    expect(page.locator("#note")).to_have_value("a ring")  # it is of the next label
    page.get_by_role("button", name="Artefact").click()
    expect(page.locator(".label-list")).to_contain_text("artefact")
    page.goto(f"{service.url}/live")
    page.go_back()
    expect(page.locator(".label-list")).to_contain_text("artefact")
    page.go_back()
    expect(page.locator("#candidate a")).to_have_attribute("href", following)
    expect(page.locator("#undo")).to_be_enabled()


def test_two_new_browsers_get_different_images(tabs: Tabs, service: Service) -> None:
    page = tabs.open("about:blank")
    with page.expect_response("**/review/turn") as response:
        page.goto(f"{service.url}/review")
    assert response.value.status == 204
    assert candidate(tabs.open(f"{service.url}/review")) != candidate(page)


def test_shortcuts_can_be_disabled_persistently(tabs: Tabs, service: Service) -> None:
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
    expect(page.locator(".key-help")).to_be_hidden()
    page.locator("#shortcuts").click()
    page.get_by_role("link", name="Review", exact=True).click()
    expect(hint).to_be_visible()
    page.keyboard.press("s")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)


def test_the_label_counts_grow_with_each_label(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    first = candidate(page)
    page.locator("#artefact").click()
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    count_chip = page.locator(".discoveries .chip.artefact")
    expect(count_chip).to_have_count(1)
    count = int(count_chip.inner_text().split()[0])
    second = candidate(page)
    page.keyboard.press("a")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", second)
    expect(count_chip).to_have_text(f"{count + 1} artefact")


def test_review_works_without_scripts(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review", java_script_enabled=False)
    before, first = len(labels(service)), candidate(page)
    assert page.locator("#shortcuts").is_hidden()
    page.locator("#interesting").click()
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    assert len(labels(service)) == before + 1
    page.locator("#undo").click()
    expect(page.locator("#candidate a")).to_have_attribute("href", first)
    assert len(labels(service)) == before


def test_a_name_of_ones_own_is_typed_once_and_then_a_key_and_a_link(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/review")
    before, first = len(labels(service)), candidate(page)
    page.keyboard.press("l")
    page.keyboard.type("Ring io")
    page.keyboard.press("Enter")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", first)
    assert [row["label"] for row in labels(service)[before:]] == ["ring io"]
    expect(page.locator("#review")).to_be_focused()  # Tab goes on from there, and shortcuts act
    second = candidate(page)
    page.keyboard.press("1")
    expect(page.locator("#candidate a")).not_to_have_attribute("href", second)
    assert [row["label"] for row in labels(service)[before:]] == ["ring io", "ring io"]
    page.get_by_role("link", name="ring io").click()
    expect(page.get_by_text("More of the kind labelled ring io")).to_be_visible()
    for _ in range(2):
        page.locator("#undo").click()
        expect(page.locator("#announcement")).to_contain_text("Label ring io removed")
