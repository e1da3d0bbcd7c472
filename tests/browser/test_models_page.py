"""The Models page in a browser: serving versions and rollback."""

import httpx2
import pytest
from playwright.sync_api import Locator, Page, expect
from programs import Service

from browser.demo_service import BINARY_MODEL, MULTICLASS_MODEL, demo_image
from browser.tabs import Tabs


def article(page: Page, name: str) -> Locator:
    return page.locator("article").filter(has=page.get_by_role("heading", name=name, exact=True))


def version(model: Locator) -> str:
    return model.locator(".facts code").first.inner_text()


def serving_version(service: Service) -> str:
    """The version of the second model that scores images."""
    response = httpx2.post(
        f"{service.url}/classify?model={MULTICLASS_MODEL}", files={"file": ("sky.png", demo_image(1))}, timeout=60
    )
    model_version: str = response.json()["model_version"]
    return model_version


def test_the_page_shows_the_serving_versions(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/models-page")
    models = {model["name"]: model for model in httpx2.get(f"{service.url}/models").json()}
    for name in (BINARY_MODEL, MULTICLASS_MODEL):
        assert version(article(page, name)) == models[name]["version"]
    expect(article(page, BINARY_MODEL)).to_contain_text("the default model, used when a request names none")


@pytest.mark.parametrize("scripts", [True, False])
def test_a_rollback_takes_effect_at_once(tabs: Tabs, service: Service, scripts: bool) -> None:
    page = tabs.open(f"{service.url}/models-page", java_script_enabled=scripts)
    now, before = (
        version(article(page, MULTICLASS_MODEL)),
        article(page, MULTICLASS_MODEL).locator(".versions code").first.inner_text(),
    )
    assert serving_version(service) == now != before
    article(page, MULTICLASS_MODEL).locator(".versions summary").first.click()
    article(page, MULTICLASS_MODEL).get_by_role("button", name=f"Roll back to {before}").click()
    expect(article(page, MULTICLASS_MODEL).locator(".facts code").first).to_have_text(before)
    assert serving_version(service) == before
    assert now in article(page, MULTICLASS_MODEL).locator(".versions").inner_text()


def test_a_change_of_version_appears_without_a_reload(tabs: Tabs, service: Service) -> None:
    page = tabs.open(f"{service.url}/models-page")
    before = article(page, MULTICLASS_MODEL).locator(".versions code").first.inner_text()
    httpx2.post(f"{service.url}/models/{MULTICLASS_MODEL}/rollback", json={}, timeout=60).raise_for_status()
    expect(article(page, MULTICLASS_MODEL).locator(".facts code").first).to_have_text(before)
