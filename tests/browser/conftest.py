"""Fixtures of the page tests: a browser, tabs that must not log errors, and a demo service."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from programs import Service, free_port, query

from astrodetect.sky.healpix import cell_index
from browser import chromium, demo_service
from browser.tabs import Tabs

KEY = "correct horse"  # of the private service
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


@pytest.fixture(scope="package")
def aladin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for ASTRODETECT_ALADIN; tests write into it."""
    path = tmp_path_factory.mktemp("aladin") / "aladin.js"
    path.touch()
    return path


@pytest.fixture(scope="package")
def private_service(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory, aladin: Path, hips_port: int
) -> Iterator[Service]:
    """A service without models that is read with KEY, has two predictions and shows the sky around one."""
    folder, database_url = tmp_path_factory.mktemp("private"), new_database()
    (folder / "models").mkdir()
    environment = {
        "DATABASE_URL": database_url,
        "ASTRODETECT_DATA_DIR": str(folder),
        "ASTRODETECT_MODELS_DIR": str(folder / "models"),
        "ASTRODETECT_API_KEY": KEY,
        "ASTRODETECT_PRIVATE": "true",
        "ASTRODETECT_ALADIN": str(aladin),
        "ASTRODETECT_ALADIN_HIPS": f"http://127.0.0.1:{hips_port}/hips",
    }
    query(database_url, "INSERT INTO predictions (image_name, score, result) VALUES ('a', 0.5, 'x'), ('b', 0.7, 'x')")
    query(database_url, "UPDATE predictions SET ra = 202.5, dec = -47.25, healpix = %s", cell_index(202.5, -47.25))
    with Service(log=folder / "log", environment=environment) as service:
        service.wait_until(lambda: "startup complete" in service.output)
        yield service


@pytest.fixture(scope="package")
def hips_port() -> int:
    """Where the tiles of the private service's sky are; nobody need listen there."""
    return free_port()
