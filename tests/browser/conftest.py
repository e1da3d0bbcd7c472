"""A browser, tabs whose pages may complain of nothing, and a service with something in its log."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect
from programs import Service

from browser import chromium, demo_service
from browser.tabs import Tabs

APPEARS_WITHIN_MS = 30_000  # what a test waits for, on a machine that has other work
expect.set_options(timeout=APPEARS_WITHIN_MS)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser of all page tests; closed before other tests run: Playwright occupies the event loop."""
    with chromium.open_browser() as browser:
        if browser is None:
            pytest.skip(chromium.SKIPPED)
        yield browser


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    """Tabs; what a page complains of fails the test."""
    with ExitStack() as contexts:
        tabs = Tabs(browser, contexts)
        yield tabs
    assert tabs.complaints == []


@pytest.fixture(scope="package")
def log_url(new_database: Callable[[], str]) -> str:
    """The database of the service's log."""
    return new_database()


@pytest.fixture(scope="package")
def service(log_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all tests, which may add to its log."""
    place = tmp_path_factory.mktemp("service")
    with Service(log=place / "log", environment=demo_service.environment(log_url, place)) as service:
        service.wait_until(service.ready)
        demo_service.fill(service, log_url)
        yield service
