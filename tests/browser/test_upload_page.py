"""Images in, cards out: dropped, pasted, chosen, or one at a time without a script."""

import base64
from collections.abc import Sequence

import httpx2
import pytest
from playwright.sync_api import FilePayload, JSHandle, Locator, Page, Route, expect
from programs import Service

from browser.demo_service import HOSTILE, LONG, picture
from browser.tabs import LAPTOP, PHONE, Tabs

REFUSED = "/try"  # an answer that is no success is an error on the console too
TRANSFER = """files => files.reduce((transfer, [name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), char => char.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type}));
  return transfer;
}, new DataTransfer())"""
WATCH = "window.longest = 0; new PerformanceObserver(list => list.getEntries().forEach("
WATCH += "task => { window.longest = Math.max(window.longest, task.duration) })).observe({type: 'longtask'})"
FEW, MANY, EACH_WITHIN_MS = 20, 200, 2_000
BAD = {3: b"these are words", 7: b""}


def files(count: int, first: int) -> list[FilePayload]:
    """PNGs, two of which are none."""
    return [
        {"name": f"drop {number:03}.jpg", "mimeType": "image/jpeg", "buffer": BAD.get(number, picture(first + number))}
        for number in range(count)
    ]


def transfer(page: Page, given: Sequence[FilePayload]) -> JSHandle:
    """Files as a hand or a clipboard holds them."""
    coded = [[file["name"], file["mimeType"], base64.b64encode(file["buffer"]).decode()] for file in given]
    return page.evaluate_handle(TRANSFER, coded)


def drop(page: Page, given: Sequence[FilePayload]) -> None:
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer(page, given)})


def cards(page: Page) -> Locator:
    return page.locator("#cards > li")


def answered(page: Page) -> Locator:
    return page.locator("#cards > li:has(.verdict)")


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_one_image_is_judged_without_scripts(tabs: Tabs, service: Service, width: int) -> None:
    page = tabs.open(service.url, width, java_script_enabled=False)
    page.locator("#file").set_input_files(files(1, 3000 + width))
    page.get_by_role("button", name="Look at it").click()
    assert answered(page).count() == 1
    assert "drop 000.jpg" in cards(page).inner_text()
    page.locator("#cards .name a").click()
    assert page.locator("h1").inner_text() == "drop 000.jpg"


def test_without_scripts_a_file_that_is_no_image_is_told_beside_the_form(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, java_script_enabled=False, forgiven=REFUSED)
    page.locator("#file").set_input_files(files(4, 0)[3:])
    page.get_by_role("button", name="Look at it").click()
    expect(page.locator("#wrong")).to_contain_text("Not an image")
    assert page.locator("#file").is_visible()


def test_dropped_files_have_their_cards_in_order_and_bad_ones_say_why(
    tabs: Tabs, service: Service, *, full: bool
) -> None:
    count = MANY if full else FEW
    page = tabs.open(service.url, forgiven=REFUSED)
    held = transfer(page, files(count, 4000))
    page.evaluate(WATCH)
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": held})
    expect(page.locator("#sum")).to_contain_text(f"{count} of {count}", timeout=count * EACH_WITHIN_MS)
    shown = cards(page).locator(".name").all_text_contents()  # those out of sight are not laid out
    assert shown == [f"drop {number:03}.jpg" for number in range(count)]
    assert answered(page).count() == count - len(BAD)
    expect(cards(page).nth(3)).to_contain_text("Not an image")
    expect(cards(page).nth(7)).to_contain_text("empty")
    print(f"{count} images; the page was busy for {page.evaluate('longest'):.0f} ms at a time at most")  # noqa: T201


def test_what_is_shown_and_in_which_order_is_chosen(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, forgiven=REFUSED)
    drop(page, files(8, 4000))
    expect(page.locator("#sum")).to_contain_text("8 of 8")
    page.locator("#show").select_option("failed")
    expect(page.locator("#cards > li:visible")).to_have_count(len(BAD))
    page.locator("#show").select_option("anomaly")
    expect(page.locator("#cards > li:visible")).to_have_count(page.locator("#cards > li.odd").count())
    page.locator("#show").select_option("")
    page.locator("#order").select_option("novelty")
    told = page.locator("#cards .told[data-novelty]").evaluate_all("all => all.map(one => Number(one.dataset.novelty))")
    assert told == sorted(told, reverse=True)


def test_what_is_pasted_is_judged(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url)
    paste = "clipboardData => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}))"
    page.evaluate(paste, transfer(page, files(1, 5000)))
    expect(answered(page)).to_have_count(1)


def test_many_are_chosen_and_labelled_where_they_are(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url)
    page.locator("#file").set_input_files(files(3, 5100))
    expect(answered(page)).to_have_count(3)
    cards(page).nth(1).get_by_role("button", name="Interesting").click()
    expect(cards(page).nth(1).locator(".chip.interesting").first).to_be_visible()
    href = cards(page).nth(1).locator(".name a").get_attribute("href") or ""
    labels = httpx2.get(f"{service.url}/labels.csv").text.splitlines()
    sha256 = httpx2.get(f"{service.url}/predictions/{href.rpartition('/')[2]}").json()["image_sha256"]
    assert sha256 in labels[-1]


def test_a_broken_line_is_told_and_tried_again_without_a_second_row(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, forgiven=REFUSED)
    broken: list[Route] = []

    def lose(route: Route) -> None:
        broken.append(route)
        route.fetch()  # it arrives, and its answer does not
        route.abort()

    page.route("**/try", lose, times=1)
    before = newest(service)
    drop(page, files(1, 5200))
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_visible()
    assert (len(broken), newest(service)) == (1, before + 1)
    again.click()
    expect(answered(page)).to_have_count(1)
    assert newest(service) == before + 1


def newest(service: Service) -> int:
    return int(httpx2.get(f"{service.url}/predictions?limit=1").json()["predictions"][0]["id"])


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_hostile_names_are_shown_and_do_nothing(tabs: Tabs, service: Service, width: int) -> None:
    page = tabs.open(service.url, width, forgiven=REFUSED)
    given = [FilePayload(name=name, mimeType="image/png", buffer=picture(5300)) for name in (*HOSTILE, LONG)]
    drop(page, given)
    expect(page.locator("#sum")).to_contain_text("4 of 4")
    expect(cards(page)).to_have_count(4)
    expect(cards(page).nth(0)).to_contain_text("<script>alert(1)</script>.png")
    expect(cards(page).nth(1)).to_contain_text("⟨U+202E⟩")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("main script").count() == 0
