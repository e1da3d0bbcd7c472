"""Checks for any page: layout, accessibility, images, focus."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from browser.tabs import Tabs

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
IMPACTS = {"serious", "critical"}
WAIT_FOR_REQUESTS_AND_ANIMATIONS = """async () => {
  const busy = () => document.querySelector('.htmx-request')
    || document.getAnimations().some(animation => animation.playState === 'running');
  for (const end = Date.now() + 10_000; busy() && Date.now() < end;) await new Promise(requestAnimationFrame);
}"""
ELEMENTS_BEYOND = """() => {
  const main = document.querySelector('main'), padding = parseFloat(getComputedStyle(main).paddingRight);
  const right = main.getBoundingClientRect().right - padding + 1;
  return [...main.querySelectorAll('*')].filter(element => element.getBoundingClientRect().right > right
    && element.checkVisibility() && !element.closest('.wide, svg, .visually-hidden, .label-buttons, .map-frame'))
    .map(element => element.outerHTML.slice(0, 120));
}"""
FOCUSED_ELEMENT = """() => {
  const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
  const visible = box.width > 0 && box.height > 0;
  const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  return [element.outerHTML.slice(0, 120), visible, outlined];
}"""


def accessibility_violations(page: Page) -> list[str]:
    """The serious and critical violations that axe-core finds, with their elements."""
    page.evaluate(WAIT_FOR_REQUESTS_AND_ANIMATIONS)  # a half-transparent element has less contrast
    page.evaluate(AXE)  # bypasses the content security policy, as browser extensions do
    violations: list[dict[str, Any]] = page.evaluate("axe.run().then(results => results.violations)")
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'] for node in rule['nodes']]}"
        for rule in violations
        if rule["impact"] in IMPACTS
    ]


def horizontal_overflow_px(page: Page) -> int:
    """By how much the page is wider than the viewport."""
    return max(0, int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")))


def elements_beyond_the_content(page: Page) -> list[str]:
    """Elements that extend to the right of the main content, except within what scrolls."""
    return list(page.evaluate(ELEMENTS_BEYOND))


def broken_images(page: Page) -> list[str]:
    """The URLs of images that failed to load."""
    script = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src)"
    return list(page.evaluate(script))


def open_standalone(tabs: Tabs, file: Path, width: int, scheme: str) -> Page:
    """Open a self-contained HTML file: it fits the viewport, has no broken image, and requests nothing else."""
    page = tabs.open(file, width, color_scheme=scheme)
    assert page.evaluate("innerWidth") == width
    assert horizontal_overflow_px(page) == 0
    assert broken_images(page) == []
    assert [url for url in tabs.requests if not url.startswith("data:")] == [file.resolve().as_uri()]
    return page


def focused_element(page: Page) -> tuple[str, bool, bool]:
    """The HTML of the focused element, whether it is visible, and whether it has an outline."""
    html, visible, outlined = page.evaluate(FOCUSED_ELEMENT)
    return html, visible, outlined
