"""New predictions appear by themselves, whoever asked for them."""

from playwright.sync_api import expect
from programs import Service

from browser.demo_service import HOSTILE, picture
from browser.tabs import Tabs

NOT_YET_KEPT = "/pictures/"  # a picture may come a moment after its row: the page asks again


def test_what_curl_sends_appears_by_itself_whatever_its_name(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", forgiven=NOT_YET_KEPT)
    expect(page.locator("#state")).to_contain_text("Watching")
    before = page.locator("#wall > li").count()
    sent = service.detect(picture(2001), HOSTILE[0]).json()
    card = page.locator(f"#p{sent['id']}")
    expect(card).to_contain_text(HOSTILE[0])
    expect(page.locator("#images")).to_have_text("1")
    assert page.locator("#wall > li").count() == before + 1
    assert page.locator("#wall > li").first.get_attribute("id") == f"p{sent['id']}"
    assert card.get_by_role("link").get_attribute("href") == f"/history/{sent['id']}"


def test_paused_it_keeps_what_comes_for_later(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", forgiven=NOT_YET_KEPT)
    expect(page.locator("#state")).to_contain_text("Watching")
    page.keyboard.press("p")
    expect(page.locator("#state")).to_contain_text("Paused")
    other = tabs.open(f"{service.url}/live", forgiven=NOT_YET_KEPT)
    expect(other.locator("#state")).to_contain_text("Watching")
    sent = service.detect(picture(2002)).json()
    expect(other.locator(f"#p{sent['id']}")).to_have_count(1)
    assert page.locator(f"#p{sent['id']}").count() == 0
    page.keyboard.press("p")
    expect(page.locator(f"#p{sent['id']}")).to_have_count(1)


def test_without_scripts_it_shows_the_newest_and_says_how_to_see_more(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/live", java_script_enabled=False)
    assert page.locator("#wall > li").count() > 1
    assert "load it again" in page.locator("#state").inner_text()
