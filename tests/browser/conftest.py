"""Fixtures of the page tests: a browser, tabs that must not log errors, and a demo service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect
from programs import Service, free_port, query

from browser import chromium, demo_service
from browser.tabs import Tabs

EXPECT_TIMEOUT_MS = 30_000  # generous, for busy machines
expect.set_options(timeout=EXPECT_TIMEOUT_MS)


@pytest.fixture(scope="package")
def hub_port() -> int:
    """Where the browser looks for a SAMP hub instead of port 21012, which somebody's own may have."""
    return free_port()


@pytest.fixture(scope="package")
def browser(hub_port: int) -> Iterator[Browser]:
    """The browser of all page tests; closed before other tests run: Playwright occupies the event loop."""
    with chromium.open_browser(f"--host-resolver-rules=MAP localhost:21012 127.0.0.1:{hub_port}") as browser:
        if browser is None:
            pytest.skip(chromium.SKIPPED)
        yield browser


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    """Opens tabs; console errors and requests to other hosts fail the test."""
    with ExitStack() as contexts:
        tabs = Tabs(browser, contexts)
        yield tabs
    assert tabs.errors == []


@pytest.fixture(scope="package")
def log_url(new_database: Callable[[], str]) -> str:
    """The database of the demo service."""
    return new_database()


@pytest.fixture
def free_images(log_url: str) -> Iterator[None]:
    """Returns the images that the test had under review, which otherwise come back two minutes later."""
    yield
    query(log_url, "DELETE FROM leases WHERE name LIKE 'review %'")


@pytest.fixture(scope="package")
def service(log_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The demo service, shared by all tests, which may add predictions."""
    folder = tmp_path_factory.mktemp("service")
    with Service(log=folder / "log", environment=demo_service.environment(log_url, folder)) as service:
        service.wait_until(service.ready)
        demo_service.fill(service, log_url)
        yield service
