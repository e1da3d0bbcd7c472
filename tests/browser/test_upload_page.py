"""The upload page in a browser: dropped, pasted and chosen files, and one at a time without a script."""

import base64
import time
from collections.abc import Sequence

import httpx2
import pytest
from playwright.sync_api import FilePayload, JSHandle, Locator, Page, Response, Route, expect
from programs import Service

from browser.demo_service import HOSTILE_NAMES, LONG_NAME, MULTICLASS_MODEL, demo_image
from browser.tabs import LAPTOP, PHONE, Tabs

REFUSED = "/try"  # browsers log failed responses as console errors
TRANSFER = """files => files.reduce((transfer, [name, type, text]) => {
  const bytes = Uint8Array.from(atob(text), char => char.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type}));
  return transfer;
}, new DataTransfer())"""
MEASURE_LONG_TASKS = "window.longest = 0; new PerformanceObserver(list => list.getEntries().forEach("
MEASURE_LONG_TASKS += (
    "task => { window.longest = Math.max(window.longest, task.duration) })).observe({type: 'longtask'})"
)
FEW, MANY, IMAGE_TIMEOUT_MS = 20, 200, 2_000
BAD = {3: b"these are words", 7: b""}


def files(count: int, first: int) -> list[FilePayload]:
    """PNG files, the fourth and eighth of which are invalid."""
    return [
        {
            "name": f"drop {number:03}.jpg",
            "mimeType": "image/jpeg",
            "buffer": BAD.get(number, demo_image(first + number)),
        }
        for number in range(count)
    ]


def transfer(page: Page, payloads: Sequence[FilePayload]) -> JSHandle:
    """Files as a DataTransfer."""
    coded = [[file["name"], file["mimeType"], base64.b64encode(file["buffer"]).decode()] for file in payloads]
    return page.evaluate_handle(TRANSFER, coded)


def drop(page: Page, payloads: Sequence[FilePayload]) -> None:
    page.locator(".drop-zone").dispatch_event("drop", {"dataTransfer": transfer(page, payloads)})


def cards(page: Page) -> Locator:
    return page.locator("#cards > li")


def scored_cards(page: Page) -> Locator:
    return page.locator("#cards > li:has(.result)")


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_one_image_is_scored_without_scripts(tabs: Tabs, service: Service, width: int) -> None:
    page = tabs.open(service.url, width, java_script_enabled=False)
    page.locator("#file").set_input_files(files(1, 3000 + width))
    page.get_by_role("button", name="Classify").click()
    expect(scored_cards(page)).to_have_count(1)
    expect(cards(page)).to_contain_text("drop 000.jpg")
    page.locator("#cards .name a").click()
    expect(page.locator("h1")).to_have_text("drop 000.jpg")


def test_without_scripts_an_invalid_file_is_reported_beside_the_form(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, java_script_enabled=False, ignore=REFUSED)
    page.locator("#file").set_input_files(files(4, 0)[3:])
    page.get_by_role("button", name="Classify").click()
    expect(page.locator("#error")).to_contain_text("Not a supported image")
    assert page.locator("#file").is_visible()


def test_dropped_files_get_cards_in_order_and_invalid_ones_an_error(
    tabs: Tabs, service: Service, *, full: bool
) -> None:
    count = MANY if full else FEW
    page = tabs.open(service.url, ignore=REFUSED)
    dropped = transfer(page, files(count, 4000))
    page.evaluate(MEASURE_LONG_TASKS)
    page.locator(".drop-zone").dispatch_event("drop", {"dataTransfer": dropped})
    expect(page.locator("#summary")).to_contain_text(f"{count} of {count}", timeout=count * IMAGE_TIMEOUT_MS)
    names = cards(page).locator(".name").all_text_contents()  # cards outside the viewport are not laid out
    assert names == [f"drop {number:03}.jpg" for number in range(count)]
    assert scored_cards(page).count() == count - len(BAD)
    expect(cards(page).nth(3)).to_contain_text("Not a supported image")
    expect(cards(page).nth(7)).to_contain_text("empty")
    print(f"{count} images; the page was busy for {page.evaluate('longest'):.0f} ms at a time at most")  # noqa: T201


def test_cards_can_be_filtered_and_sorted(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, ignore=REFUSED)
    drop(page, files(8, 4000))
    expect(page.locator("#summary")).to_contain_text("8 of 8")
    page.locator("#show").select_option("failed")
    expect(page.locator("#cards > li:visible")).to_have_count(len(BAD))
    page.locator("#show").select_option("anomaly")
    expect(page.locator("#cards > li:visible")).to_have_count(page.locator("#cards > li.anomalous").count())
    page.locator("#show").select_option("")
    page.locator("#order").select_option("novelty")
    details = page.locator("#cards .card-details[data-novelty]")
    novelty = details.evaluate_all("elements => elements.map(element => Number(element.dataset.novelty))")
    assert novelty == sorted(novelty, reverse=True)


def test_a_pasted_image_is_scored(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url)
    paste = "clipboardData => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true}))"
    page.evaluate(paste, transfer(page, files(1, 5000)))
    expect(scored_cards(page)).to_have_count(1)


def test_several_files_are_chosen_and_labelled_on_their_cards(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url)
    page.locator("#file").set_input_files(files(3, 5100))
    expect(scored_cards(page)).to_have_count(3)
    cards(page).nth(1).get_by_role("button", name="Interesting").click()
    expect(cards(page).nth(1).locator(".chip.interesting").first).to_be_visible()
    href = cards(page).nth(1).locator(".name a").get_attribute("href") or ""
    labels = httpx2.get(f"{service.url}/labels.csv").text.splitlines()
    sha256 = httpx2.get(f"{service.url}/predictions/{href.rpartition('/')[2]}").json()["image_sha256"]
    assert sha256 in labels[-1]


def test_heat_maps_are_computed_of_images_in_view_and_again_where_the_service_was_busy(
    tabs: Tabs, service: Service
) -> None:
    page = tabs.open(service.url, ignore="/heat-map")
    responses: list[tuple[str, int]] = []

    def add(response: Response) -> None:
        if "/heat-map" in response.url:
            responses.append((response.url, response.status))

    def refuse_first(route: Route) -> None:  # of each image: later ones may push one out of view before it tries again
        if route.request.url in {url for url, _ in responses}:
            route.continue_()
        else:
            route.fulfill(status=503)

    page.on("response", add)
    page.route("**/heat-map", refuse_first)
    page.get_by_label("Model").select_option(MULTICLASS_MODEL)
    page.locator("#file").set_input_files([file for number, file in enumerate(files(FEW, 6000)) if number not in BAD])
    expect(page.locator("#cards image.heat-map")).to_have_count(FEW - len(BAD))
    give_up = time.monotonic() + 30
    while not any((url, 200) in responses for url, status in responses if status == 503):  # the same one again
        assert time.monotonic() < give_up, responses
        page.wait_for_timeout(100)
    assert page.locator("#cards image.heat-map:not([href])").count()  # of images that are not in view
    page.locator("#cards > li").last.scroll_into_view_if_needed()
    expect(page.locator("#cards > li").last.locator("image.heat-map[href]")).to_be_attached()


def test_a_refused_upload_is_sent_again_where_the_clock_is_set_back(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, ignore=REFUSED)
    page.route("**/try", lambda route: route.fulfill(status=503, headers={"Retry-After": "0.1"}), times=1)
    page.evaluate("() => { let now = Date.now(); Date.now = () => now -= 3.6e6; }")
    drop(page, files(1, 5300))
    expect(scored_cards(page)).to_have_count(1)


def test_an_upload_retried_after_a_broken_connection_is_logged_once(tabs: Tabs, service: Service) -> None:
    page = tabs.open(service.url, ignore=REFUSED)
    lost: list[Route] = []

    def lose(route: Route) -> None:
        lost.append(route)
        route.fetch()  # the request arrives, its response does not
        route.abort()

    page.route("**/try", lose, times=1)
    before = newest_id(service)
    drop(page, files(1, 5200))
    retry = page.get_by_role("button", name="Try again")
    expect(retry).to_be_visible()
    assert (len(lost), newest_id(service)) == (1, before + 1)
    retry.click()
    expect(scored_cards(page)).to_have_count(1)
    assert newest_id(service) == before + 1


def newest_id(service: Service) -> int:
    return int(httpx2.get(f"{service.url}/predictions?limit=1").json()["predictions"][0]["id"])


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_hostile_names_are_escaped(tabs: Tabs, service: Service, width: int) -> None:
    page = tabs.open(service.url, width, ignore=REFUSED)
    payloads = [
        FilePayload(name=name, mimeType="image/png", buffer=demo_image(5300)) for name in (*HOSTILE_NAMES, LONG_NAME)
    ]
    drop(page, payloads)
    expect(page.locator("#summary")).to_contain_text("4 of 4")
    expect(cards(page)).to_have_count(4)
    expect(cards(page).nth(0)).to_contain_text("<script>alert(1)</script>.png")
    expect(cards(page).nth(1)).to_contain_text("⟨U+202E⟩")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("main script").count() == 0
