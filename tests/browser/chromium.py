"""Finds or installs the browser for the page tests, and launches it.

`run.py test` calls `python tests/browser/chromium.py`, which prints one line: the browser found or installed, or why
the page tests are skipped. Playwright's driver is a Node.js binary that needs libatomic, which a minimal Debian lacks.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from playwright.sync_api import Browser, Error, Playwright, sync_playwright

CHANNELS = ("chrome", "msedge")  # Playwright knows their paths on each platform
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MACOS_PATHS = ("/Applications/Chromium.app/Contents/MacOS/Chromium",)
DISABLED_FEATURES = (
    # Two pages of the address bar, which have half of the processor time of a tab.
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    # What Playwright disables, since Chromium obeys the last option alone.
    *("AimEnabled", "AvoidCorsURLLoaderRestartOnRedirect", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "HttpsFirstBalancedModeAutoEnable", "HttpsUpgrades", "LensOverlay"),
    *("MediaRouter", "NetworkTimeServiceQuerying", "OptimizationHints", "PaintHolding", "PreconnectToSearch"),
    *("TcpPortRandomizationWin", "ThirdPartyStoragePartitioning"),
)
LAUNCH_TIMEOUT_S = 30
INSTALL_TIMEOUT_S = 300
CONNECT_TIMEOUT_S = 5
DRIVER_VERSION = (sys.executable, "-m", "playwright", "--version")
DOWNLOAD = (sys.executable, "-m", "playwright", "install", "chromium")
DOWNLOAD_LIBRARIES = (sys.executable, "-m", "playwright", "install-deps", "chromium")
APT_UPDATE = ("apt-get", "update", "-qq")
APT_INSTALL = (
    *("apt-get", "install", "-y", "-qq", "--no-install-recommends"),
    *("chromium", "fonts-dejavu-core", "libatomic1"),
)
SKIPPED = "the page tests are skipped, no browser starts: install Chromium, Chrome or Edge, and on Debian libatomic1"


@contextmanager
def open_browser(*arguments: str) -> Iterator[Browser | None]:
    """Launch the first browser that starts, with these arguments; None if none does."""
    if not _driver_starts():
        yield None
        return
    with sync_playwright() as playwright:
        browser = _launch(playwright, arguments)
        try:
            yield browser
        finally:
            if browser:
                browser.close()


def ensure_installed() -> str:
    """Find a browser or install one; return a line that says which."""
    if found := _version():
        return f"Chromium {found} found"
    for commands in install_methods():
        if all(map(run_quietly, commands)) and (installed := _version()):
            return f"Chromium {installed} installed: {shlex.join(commands[-1])}"
    return SKIPPED


def install_methods() -> list[list[Sequence[str]]]:
    """Command sequences that may install a browser; only root gets those that install system packages."""
    is_root = os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get") is not None
    methods: list[list[Sequence[str]]] = [[DOWNLOAD]]
    return [*methods, [DOWNLOAD, DOWNLOAD_LIBRARIES], [APT_UPDATE, APT_INSTALL]] if is_root else methods


@cache  # methods share their first commands
def run_quietly(command: Sequence[str]) -> bool:
    """Run a command without output and within a time limit; return whether it succeeded."""
    settings = {
        "DEBIAN_FRONTEND": "noninteractive",
        "PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": str(CONNECT_TIMEOUT_S * 1000),
    }
    try:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | settings, timeout=INSTALL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _driver_starts() -> bool:
    return subprocess.run(DRIVER_VERSION, check=False, capture_output=True).returncode == 0


def _version() -> str | None:
    with open_browser() as browser:
        return browser.version if browser else None


def _launch(playwright: Playwright, arguments: Sequence[str]) -> Browser | None:
    options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    options += [f"--disable-features={','.join(DISABLED_FEATURES)}", *arguments]
    for location in _locations():
        try:
            return playwright.chromium.launch(args=options, timeout=LAUNCH_TIMEOUT_S * 1000, **location)
        except Error:
            continue
    return None


def _locations() -> Iterator[dict[str, Any]]:
    """Launch arguments, one for each place where a browser may be: Playwright's own first."""
    yield {}
    yield from ({"channel": channel} for channel in CHANNELS)
    yield from ({"executable_path": path} for name in (*NAMES, *MACOS_PATHS) if (path := shutil.which(name)))


if __name__ == "__main__":
    sys.stdout.write(f"  {ensure_installed()}\n")
