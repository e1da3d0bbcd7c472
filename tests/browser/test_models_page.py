"""What answers, and how one goes back to what answered before."""

import httpx2
import pytest
from playwright.sync_api import Locator, Page, expect
from programs import Service

from browser.demo_service import MODEL, OTHER, picture
from browser.tabs import Tabs


def article(page: Page, name: str) -> Locator:
    return page.locator("article").filter(has=page.get_by_role("heading", name=name, exact=True))


def version(model: Locator) -> str:
    return model.locator(".facts code").first.inner_text()


def scoring(service: Service) -> str:
    """The version of the other model that answers."""
    answer = httpx2.post(f"{service.url}/classify?model={OTHER}", files={"file": ("sky.png", picture(1))}, timeout=60)
    found: str = answer.json()["model_version"]
    return found


def test_what_answers_is_told(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/trained")
    models = {model["name"]: model for model in httpx2.get(f"{service.url}/models").json()}
    for name in (MODEL, OTHER):
        assert version(article(page, name)) == models[name]["version"]
    expect(article(page, MODEL)).to_contain_text("answers where no model is named")


@pytest.mark.parametrize("scripts", [True, False])
def test_an_earlier_version_is_put_back_and_answers_at_once(tabs: Tabs, service: Service, scripts: bool) -> None:
    page = tabs.open(f"{service.url}/trained", java_script_enabled=scripts)
    now, before = version(article(page, OTHER)), article(page, OTHER).locator(".versions code").first.inner_text()
    assert scoring(service) == now != before
    article(page, OTHER).locator(".versions summary").first.click()
    article(page, OTHER).get_by_role("button", name=f"Roll back to {before}").click()
    expect(article(page, OTHER).locator(".facts code").first).to_have_text(before)
    assert scoring(service) == before
    assert now in article(page, OTHER).locator(".versions").inner_text()


def test_a_new_model_is_seen_without_a_reload(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/trained")
    before = article(page, OTHER).locator(".versions code").first.inner_text()
    httpx2.post(f"{service.url}/models/{OTHER}/rollback", json={}, timeout=60).raise_for_status()
    expect(article(page, OTHER).locator(".facts code").first).to_have_text(before)
