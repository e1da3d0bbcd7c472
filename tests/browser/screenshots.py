"""Screenshots of every page of a running service, wide and narrow, light and dark:

PYTHONPATH=tests python -m browser.screenshots http://127.0.0.1:8000 FOLDER [PATH …]
"""

import sys
from pathlib import Path

from playwright.sync_api import Page

from browser import chromium

PATHS = (
    "/",
    "/history",
    "/history/1",
    "/review",
    "/review/grid",
    "/review/names",
    "/map",
    "/map/sky",
    "/models-page",
    "/models-page/train",
    "/audit",
    "/live",
    "/key",
    "/nowhere",
)
WIDTHS, HEIGHT = (1440, 390), 900
NARROW = 600
SETTLE_MS = 800  # for what loads after the page: maps, neighbours, thumbnails


def main(url: str, folder: Path, paths: tuple[str, ...]) -> None:
    """Write one file per page, width and colour scheme."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.open_browser() as browser:
        if browser is None:
            raise SystemExit(chromium.SKIPPED)
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                phone = width < NARROW
                page = browser.new_page(
                    viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, is_mobile=phone, has_touch=phone
                )
                for path in paths:
                    capture(page, url.rstrip("/") + path, folder / f"{file_name(path)}-{width}-{scheme}.png")
                page.close()


def capture(page: Page, url: str, target: Path) -> None:
    """Capture the whole page."""
    page.goto(url, wait_until="load")  # the Live page never becomes idle
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=target, full_page=True)
    sys.stdout.write(f"{target}\n")


def file_name(path: str) -> str:
    """The file name for a page."""
    return path.strip("/").replace("/", "-").replace("?", "-") or "try"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:]) or PATHS)
