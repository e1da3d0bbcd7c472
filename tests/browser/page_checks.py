"""What is asked of every page, whatever it shows: it fits, and nobody is kept out of it."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from browser.tabs import Tabs

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
BAD = {"serious", "critical"}
OUTLINED = """() => {
  const seen = document.activeElement, style = getComputedStyle(seen), box = seen.getBoundingClientRect();
  const shown = box.width > 0 && box.height > 0;
  return [seen.outerHTML.slice(0, 120), shown, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0];
}"""


def barriers(page: Page) -> list[str]:
    """What axe-core finds serious or critical, with the elements it found it in."""
    page.evaluate(AXE)  # past the content security policy, as a person's own tools are
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(results => results.violations)")
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes']]}"
        for rule in found
        if rule["impact"] in BAD
    ]


def sideways_px(page: Page) -> int:
    """By how much the page is wider than its screen."""
    return max(0, int(page.evaluate("document.documentElement.scrollWidth - innerWidth")))


def broken_images(page: Page) -> list[str]:
    """The pictures that came to nothing."""
    script = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    return list(page.evaluate(script))


def alone(tabs: Tabs, file: Path, width: int, scheme: str) -> Page:
    """A page that is one file: it fits the screen, is whole, and asked nobody for anything."""
    page = tabs.open(file, width, color_scheme=scheme)
    assert page.evaluate("innerWidth") == width
    assert sideways_px(page) == 0
    assert broken_images(page) == []
    assert [url for url in tabs.asked if not url.startswith("data:")] == [file.resolve().as_uri()]
    return page


def focused(page: Page) -> tuple[str, bool, bool]:
    """What has the focus, whether it can be seen, and whether the focus on it can."""
    html, shown, outlined = page.evaluate(OUTLINED)
    return html, shown, outlined
