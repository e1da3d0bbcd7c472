"""Opens browser tabs and records their console errors and requests."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

LAPTOP, PHONE = 1440, 390  # pixels of width
SCREENS = [  # with --full the other two as well: layout depends on the width, contrast on the colour scheme
    (LAPTOP, "light"),
    (PHONE, "dark"),
    *(pytest.param(width, scheme, marks=pytest.mark.long) for width, scheme in ((LAPTOP, "dark"), (PHONE, "light"))),
]
MAX_PHONE_WIDTH = 600
HEIGHT = 900
RECORDED_LEVELS = {"error", "warning"}
LOCAL_HOSTS = {None, "", "127.0.0.1"}  # data and file URLs have no host
SAMP_HUB = "http://localhost:21012/"  # on the machine of the browser, by the standard


class Tabs:
    """Opens pages; `errors` holds their console messages and requests to other hosts, except those a test ignores."""

    def __init__(self, browser: Browser, contexts: ExitStack) -> None:
        self._browser, self._contexts = browser, contexts
        self.errors: list[str] = []
        self.requests: list[str] = []  # URLs

    def open(self, target: Path | str, width: int = LAPTOP, *, ignore: str | None = None, **options: Any) -> Page:
        """Open a file or URL in a new context with Playwright's options; errors containing `ignore` are allowed."""
        phone = width < MAX_PHONE_WIDTH
        context = self._contexts.enter_context(
            self._browser.new_context(
                viewport={"width": width, "height": HEIGHT}, is_mobile=phone, has_touch=phone, **options
            )
        )
        self._record(context, ignore)
        page = context.new_page()
        page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
        return page

    def _record(self, context: BrowserContext, ignore: str | None) -> None:
        def add_error(message: str) -> None:
            if ignore is None or ignore not in message:
                self.errors.append(message)

        def on_console(message: ConsoleMessage) -> None:
            if message.type in RECORDED_LEVELS:  # violations of the content security policy included
                add_error(f"{message.type}: {message.text} ({message.location['url']})")

        def on_request(request: Request) -> None:
            self.requests.append(request.url)
            if urlsplit(request.url).hostname not in LOCAL_HOSTS and request.url != SAMP_HUB:
                add_error(f"request to another host: {request.url}")

        context.on("console", on_console)
        context.on("weberror", lambda error: add_error(f"error: {error.error}"))
        context.on("request", on_request)
