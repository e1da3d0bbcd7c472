"""A real browser for the tests of pages: the one that is here, or one that is put here.

`python tests/browser/chromium.py` is what `run.py test` calls; it says in one line what it found or why nothing helped.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

CHANNELS = ("chrome", "msedge")  # where they are on each platform, Playwright knows
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
ELSEWHERE = ("/Applications/Chromium.app/Contents/MacOS/Chromium",)
START_WITHIN_S = 30
FETCH_WITHIN_S = 300
CONNECT_WITHIN_S = 5
FETCHED = (sys.executable, "-m", "playwright", "install", "chromium")
ITS_LIBRARIES = (sys.executable, "-m", "playwright", "install-deps", "chromium")
LISTS = ("apt-get", "update", "-qq")
DEBIANS = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core")
LEFT_OUT = "the tests of pages are left out, for there is no browser: install Chromium, Chrome or Edge"


def launch(playwright: Playwright) -> Browser | None:
    """The first browser that starts: Playwright's own, else one of the system's; None where none does."""
    options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []  # as root it refuses to have one
    for place in places():
        try:
            return playwright.chromium.launch(args=options, timeout=START_WITHIN_S * 1000, **place)
        except Error:
            continue
    return None


def places() -> Iterator[dict[str, Any]]:
    """Where one may be, as Playwright wants it told."""
    yield {}
    yield from ({"channel": channel} for channel in CHANNELS)
    yield from ({"executable_path": path} for name in (*NAMES, *ELSEWHERE) if (path := shutil.which(name)))


def ways() -> list[list[Sequence[str]]]:
    """How one may come here, each way some commands: what needs a system's packages only for who may install them."""
    may = os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None
    anyone: list[list[Sequence[str]]] = [[FETCHED]]
    return [*anyone, [FETCHED, ITS_LIBRARIES], [LISTS, DEBIANS]] if may else anyone


@cache  # what several ways begin with is done once
def done(command: Sequence[str]) -> bool:
    """Whether a command did what it is for; its words go nowhere, its time is bounded."""
    more = {"DEBIAN_FRONTEND": "noninteractive", "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": str(CONNECT_WITHIN_S * 1000)}
    try:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | more, timeout=FETCH_WITHIN_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def version() -> str | None:
    """Of the browser that is here."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        return browser.version if browser else None


def ensure_installed() -> str:
    """Finds a browser or brings one here; the line that says how it went."""
    if found := version():
        return f"Chromium {found} is here"
    for way in ways():
        if all(map(done, way)) and (brought := version()):
            return f"Chromium {brought} was brought here: {shlex.join(way[-1])}"
    return LEFT_OUT


if __name__ == "__main__":
    sys.stdout.write(f"  {ensure_installed()}\n")
