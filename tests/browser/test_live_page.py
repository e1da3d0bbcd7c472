"""The Live page in a browser: new predictions appear as they are logged."""

from playwright.sync_api import expect
from programs import Service

from browser.conftest import KEY
from browser.demo_service import HOSTILE_NAMES, demo_image
from browser.tabs import Tabs

THUMBNAIL_PENDING = "/pictures/"  # a thumbnail may be stored a moment after its row: the page tries again


def test_a_new_prediction_appears_with_its_name_escaped(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", ignore=THUMBNAIL_PENDING)
    expect(page.locator("#state")).to_contain_text("Connected")
    page.evaluate("() => { let now = Date.now(); Date.now = () => now += 3.6e6; }")  # the clock is set
    before = page.locator("#live-cards > li").count()
    prediction = service.detect(demo_image(2001), HOSTILE_NAMES[0]).json()
    card = page.locator(f"#p{prediction['id']}")
    expect(card).to_contain_text(HOSTILE_NAMES[0])
    expect(page.locator("#images")).to_have_text("1")
    expect(page.locator("#minute")).to_have_text("1")
    assert page.locator("#live-cards > li").count() == before + 1
    assert page.locator("#live-cards > li").first.get_attribute("id") == f"p{prediction['id']}"
    assert card.get_by_role("link").get_attribute("href") == f"/history/{prediction['id']}"


def test_new_predictions_wait_while_the_page_is_paused(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", ignore=THUMBNAIL_PENDING)
    expect(page.locator("#state")).to_contain_text("Connected")
    page.keyboard.press("p")
    expect(page.locator("#state")).to_contain_text("Paused")
    other = tabs.open(f"{service.url}/live", ignore=THUMBNAIL_PENDING)
    expect(other.locator("#state")).to_contain_text("Connected")
    prediction = service.detect(demo_image(2002)).json()
    expect(other.locator(f"#p{prediction['id']}")).to_have_count(1)
    assert page.locator(f"#p{prediction['id']}").count() == 0
    page.keyboard.press("p")
    expect(page.locator(f"#p{prediction['id']}")).to_have_count(1)


def test_a_page_that_is_signed_out_in_another_tab_says_so(tabs: Tabs, private_service: Service) -> None:
    page = tabs.open(f"{private_service.url}/live", ignore="401")
    page.locator("input[name=key]").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("Connected")
    page.keyboard.press("p")
    page.context.clear_cookies()
    page.keyboard.press("p")
    expect(page.locator("#state")).to_contain_text("signed out")


def test_without_scripts_the_page_shows_the_newest_predictions(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", java_script_enabled=False)
    assert page.locator("#live-cards > li").count() > 1
    assert "reload to update" in page.locator("#state").inner_text()
