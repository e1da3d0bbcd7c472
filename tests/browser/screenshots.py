"""Pictures of every page of a running service, wide and narrow, light and dark:

PYTHONPATH=tests python -m browser.screenshots http://127.0.0.1:8000 FOLDER [PATH …]
"""

import sys
from pathlib import Path

from playwright.sync_api import Page

from browser import chromium

PATHS = ("/", "/history", "/history/1", "/review", "/map", "/trained", "/live", "/key", "/nowhere")
WIDTHS, TALL = (1440, 390), 900
NARROW = 600
SETTLED_MS = 800  # what is drawn after the page has loaded: maps, neighbours, small images


def main(url: str, folder: Path, paths: tuple[str, ...]) -> None:
    """One file for each, named after its page."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.open_browser() as browser:
        if browser is None:
            raise SystemExit(chromium.SKIPPED)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                phone = width < NARROW
                page = browser.new_page(
                    viewport={"width": width, "height": TALL}, color_scheme=scheme, is_mobile=phone, has_touch=phone
                )
                for path in paths:
                    take(page, url.rstrip("/") + path, folder / f"{named(path)}-{width}-{scheme}.png")
                page.close()


def take(page: Page, address: str, place: Path) -> None:
    """The whole page, once it has settled."""
    page.goto(address, wait_until="load")  # a page of live news never falls silent
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=place, full_page=True)
    sys.stdout.write(f"{place}\n")


def named(path: str) -> str:
    """A file's name for a page."""
    return path.strip("/").replace("/", "-").replace("?", "-") or "try"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:]) or PATHS)
