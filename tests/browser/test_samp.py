"""Pages send tables and positions to a listening program, through a SAMP hub with the Web Profile."""

import io
import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import httpx2
import pytest
from playwright.sync_api import Page, Route, expect
from programs import Service

from browser.conftest import KEY
from browser.tabs import Tabs

TABLE, POSITION = "table.load.votable", "coord.pointAt.sky"
SEND, SHOW = "Send to TOPCAT, Aladin", "Show in Aladin, TOPCAT"
WAIT_S = 60
NO_HUB = "ERR_CONNECTION_REFUSED"


class Hub:
    """A hub whose user allows, or refuses, that a page registers; and a program there, which keeps what it receives."""

    def __init__(self, port: int, lock_file: Path) -> None:
        from pyvo.samp import SAMPHubServer, SAMPIntegratedClient

        self.allows = True
        self.origins: list[str] = []
        self.queue_request: Any = None  # the hub sets both
        self.queue_result: Any = None
        self.received: queue.Queue[tuple[str, dict[str, str]]] = queue.Queue()
        self.hub = SAMPHubServer(web_port=port, web_profile_dialog=self, lockfile=str(lock_file), addr="127.0.0.1")
        self.hub.start()
        self._asked = threading.Thread(target=self._answer, daemon=True)
        self._asked.start()
        self.program = SAMPIntegratedClient(name="listener <1>", addr="127.0.0.1")
        self.program.connect()

    def listen(self) -> None:
        """The program understands tables and positions from now on."""
        for type_ in (TABLE, POSITION):
            self.program.bind_receive_notification(type_, self._receive)

    def stop(self) -> None:
        self.program.disconnect()
        self.queue_request.put(None)
        self._asked.join(WAIT_S)
        self.hub.stop()

    def _answer(self) -> None:
        while request := self.queue_request.get():
            self.origins.append(request[2])
            self.queue_result.put(self.allows)

    def _receive(self, _key: str, _sender: str, type_: str, parameters: dict[str, str], _extra: object) -> None:
        self.received.put((type_, parameters))


@pytest.fixture
def hub(hub_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from pyvo.samp import conf

    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:file://{tmp_path}/samp")
    with conf.set_temp("use_internet", False):
        hub = Hub(hub_port, tmp_path / "samp")
        yield hub
        hub.stop()


def send(page: Page, button: str, message: str) -> None:
    """Press the button; the page says this."""
    page.get_by_role("button", name=button).click()
    expect(page.locator("#announcement")).to_have_text(message)


def read_rows(url: str) -> list[dict[str, Any]]:
    """The rows of the VOTable there, fetched without a session, as a program does."""
    from astropy.table import Table

    with urlopen(url) as response:
        table = Table.read(io.BytesIO(response.read()), format="votable")
    return [dict(zip(table.colnames, row, strict=True)) for row in table]


def test_history_and_predictions_are_sent_to_the_programs_that_listen(tabs: Tabs, service: Service, hub: Hub) -> None:
    page = tabs.open(f"{service.url}/history?name=sky+1")
    send(page, SEND, "No program at the SAMP hub reads tables: start TOPCAT or Aladin.")
    hub.listen()
    send(page, SEND, "Sent to listener <1>.")
    type_, table = hub.received.get(timeout=WAIT_S)
    assert (type_, table["name"]) == (TABLE, "astrodetect, name contains “sky 1”")
    assert sorted(row["image_name"] for row in read_rows(table["url"])) == [f"sky {n}.png" for n in range(10, 20)]

    page.goto(f"{service.url}/history/1")
    send(page, SHOW, "Sent to listener <1>.")
    row = httpx2.get(f"{service.url}/predictions/1").json()
    type_, position = hub.received.get(timeout=WAIT_S)
    assert type_ == POSITION
    assert {name: float(degrees) for name, degrees in position.items()} == pytest.approx(
        {name: row[name] for name in ("ra", "dec")}, abs=1e-7
    )
    assert hub.origins == [service.url] * 3
    assert page.get_by_role("button", name=SHOW).is_enabled()
    assert len(hub.program.get_registered_clients()) == 1, "the hub alone: the page has left"


def test_without_a_hub_or_its_users_consent_the_page_says_so(
    tabs: Tabs, service: Service, request: pytest.FixtureRequest
) -> None:
    page = tabs.open(f"{service.url}/history/1", ignore=NO_HUB)
    send(page, SHOW, "Not sent: no SAMP hub runs on this machine: start TOPCAT or Aladin")
    hub: Hub = request.getfixturevalue("hub")
    hub.allows = False
    page.get_by_role("button", name=SHOW).click()
    expect(page.locator("#announcement")).to_have_text("Not sent: Request of registration rejected by the user.")


def test_a_button_waits_for_its_script(tabs: Tabs, service: Service) -> None:
    page, held = tabs.open(f"{service.url}/live"), queue.Queue[Route]()
    page.route("**/samp.js", held.put)
    page.goto(f"{service.url}/history?name=sky+1", wait_until="commit")
    button = page.get_by_role("button", name=SEND)
    expect(button).to_be_disabled()
    held.get_nowait().continue_()
    expect(button).to_be_enabled()
    page.get_by_label("Name contains").fill("sky 2")  # the rows and the button are replaced
    expect(page).to_have_url(re.compile("sky.2"))
    expect(button).to_be_enabled()


def test_a_private_table_is_sent_as_a_link_that_needs_no_key(private_service: Service, tabs: Tabs, hub: Hub) -> None:
    hub.listen()
    page = tabs.open(f"{private_service.url}/history?name=b")
    page.locator("input[name=key]").fill(KEY)
    page.keyboard.press("Enter")
    send(page, SEND, "Sent to listener <1>.")
    url = hub.received.get(timeout=WAIT_S)[1]["url"]
    assert [row["image_name"] for row in read_rows(url)] == ["b"]
    assert httpx2.get(url.replace("name=b", "name=a")).status_code == 401
    assert urlsplit(url).path == "/predictions.vot"
