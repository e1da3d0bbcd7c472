"""Tabs that hear what pages complain of, and whom they ask."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

LAPTOP, PHONE = 1440, 390  # pixels of width
NARROW = 600
TALL = 900
LOUD = {"error", "warning"}
HERE = {None, "", "127.0.0.1"}  # data and files have no host


class Tabs:
    """Opens pages; whatever they complained of is in `complaints` but for what a test forgives them."""

    def __init__(self, browser: Browser, contexts: ExitStack) -> None:
        self._browser, self._contexts = browser, contexts
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def open(self, place: Path | str, width: int = LAPTOP, *, forgiven: str | None = None, **options: Any) -> Page:
        """The page at a path or an address, in a context of its own with these options of Playwright's."""
        phone = width < NARROW
        context = self._contexts.enter_context(
            self._browser.new_context(
                viewport={"width": width, "height": TALL}, is_mobile=phone, has_touch=phone, **options
            )
        )
        self._watch(context, forgiven)
        page = context.new_page()
        page.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
        return page

    def _watch(self, context: BrowserContext, forgiven: str | None) -> None:
        def complain(said: str) -> None:
            if forgiven is None or forgiven not in said:
                self.complaints.append(said)

        def heard(message: ConsoleMessage) -> None:
            if message.type in LOUD:  # what the content security policy refuses is said there too
                complain(f"{message.type}: {message.text} ({message.location['url']})")

        def asks(request: Request) -> None:
            self.asked.append(request.url)
            if urlsplit(request.url).hostname not in HERE:
                complain(f"asks another host: {request.url}")

        context.on("console", heard)
        context.on("weberror", lambda error: complain(f"error: {error.error}"))
        context.on("request", asks)
