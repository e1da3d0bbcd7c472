"""The evaluation report as an astronomer opens it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluations import evidence

from astrodetect.evaluation import report
from astrodetect.evaluation.summary import summarise
from browser.chromium import Tab, tab

LAPTOP, PHONE = 1280, 390
ENTER, ESCAPE = ("Enter", 13), ("Escape", 27)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=[("SB", "E"), tuple(f"a class of galaxies {n}" for n in range(10))])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two classes, and one on ten with long names."""
    folder = tmp_path_factory.mktemp("report")
    found = evidence(folder / "images", request.param, count=120, remarks=["3 images are in train and in test"])
    return report.write(found, summarise(found), folder / "galaxies.html")


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    found = evidence(tmp_path / "images")
    return report.write(found, summarise(found), tmp_path / "galaxies.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_the_page_fits_the_screen_and_complains_of_nothing(browser: Tab, page: Path, width: int, scheme: str) -> None:
    browser.resize(width)
    browser.prefer(prefers_color_scheme=scheme)
    browser.complaints.clear()
    browser.open(page)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    broken = "[...document.images].filter(image => image.complete && !image.naturalWidth).length"
    assert browser.evaluate(broken) == 0


def test_the_page_asks_nobody_for_anything(browser: Tab, page: Path) -> None:
    browser.requests.clear()
    browser.open(page)
    others = [url for url in browser.requests if not url.startswith("data:")]
    assert others == [page.resolve().as_uri()]


def test_a_cell_of_the_confusion_matrix_opens_its_images_from_the_keyboard(browser: Tab, page: Path) -> None:
    browser.resize(LAPTOP)
    browser.open(page)
    shown = "[...document.querySelectorAll('.cell')].filter(cell => cell.offsetHeight).map(cell => cell.id)"
    assert browser.evaluate(shown) == []
    browser.evaluate("document.getElementById('at-0-0').focus()")
    browser.press(*ENTER)
    assert browser.evaluate(shown) == ["cell-0-0"]
    assert browser.evaluate("document.activeElement.id") == "cell-0-0"
    count = browser.evaluate("document.querySelectorAll('#cell-0-0 img:not(.heat)').length")
    said = browser.evaluate("document.querySelector('#cell-0-0 p').textContent")
    assert said.startswith(f"{count} of ")
    browser.press(*ESCAPE)
    assert browser.evaluate(shown) == []
    assert browser.evaluate("document.activeElement.id") == "at-0-0"


def test_the_slider_counts_what_another_threshold_would_have_said(browser: Tab, two_classes: Path) -> None:
    browser.resize(LAPTOP)
    browser.open(two_classes)
    counts = "['hits', 'alarms', 'misses', 'passed'].map(id => Number(document.getElementById(id).textContent))"
    own = browser.evaluate(counts)
    slide = "slider.value = {}; slider.dispatchEvent(new Event('input'))"
    browser.evaluate(slide.format(0.2))
    found = evidence(two_classes.parent / "images").shown
    above = found.outputs.probabilities[:, 1] > 0.2
    hits, alarms = int((above & (found.truth == 1)).sum()), int((above & (found.truth == 0)).sum())
    assert browser.evaluate(counts) == [hits, alarms, 20 - hits, 20 - alarms]
    assert browser.evaluate("document.getElementById('recall').textContent") == f"{hits / 20:.3f}"
    browser.evaluate("document.getElementById('own').click()")
    assert browser.evaluate(counts) == own
    assert own != [hits, alarms, 20 - hits, 20 - alarms]


def test_heat_maps_can_be_made_fainter_and_taken_away(browser: Tab, two_classes: Path) -> None:
    browser.open(two_classes)
    look = "(s => [s.display, s.opacity])(getComputedStyle(document.querySelector('#images .heat')))"
    browser.evaluate("strength.value = 80; strength.dispatchEvent(new Event('input'))")
    assert browser.evaluate(look) == ["inline", "0.8"] or browser.evaluate(look) == ["block", "0.8"]
    browser.evaluate("document.getElementById('heat').click()")
    assert browser.evaluate(look)[0] == "none"
