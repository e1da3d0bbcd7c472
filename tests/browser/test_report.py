"""The evaluation report in a browser."""

from pathlib import Path

import pytest
from evaluation_inputs import make_evaluation_inputs

from astrodetect.evaluation.summary import summarise_evaluation
from astrodetect.reports import evaluation_report
from browser.page_checks import open_standalone
from browser.tabs import SCREENS, Tabs


@pytest.fixture(scope="module", params=[("SB", "E"), tuple(f"a class of galaxies {n}" for n in range(10))])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on two classes, and one on ten with long names."""
    folder = tmp_path_factory.mktemp("report")
    found = make_evaluation_inputs(
        folder / "images", request.param, count=120, remarks=["3 images are in train and in test"]
    )
    return evaluation_report.write_evaluation_report(found, summarise_evaluation(found), folder / "galaxies.html")


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    found = make_evaluation_inputs(tmp_path / "images")
    return evaluation_report.write_evaluation_report(found, summarise_evaluation(found), tmp_path / "galaxies.html")


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_report_fits_the_screen_and_makes_no_requests(tabs: Tabs, place: Path, width: int, scheme: str) -> None:
    open_standalone(tabs, place, width, scheme)


def test_confusion_cell_opens_and_closes_from_the_keyboard(tabs: Tabs, place: Path) -> None:
    page = tabs.open(place)
    shown = "[...document.querySelectorAll('.cell')].filter(cell => cell.offsetHeight).map(cell => cell.id)"
    assert page.evaluate(shown) == []
    page.evaluate("document.getElementById('at-0-0').focus()")
    page.keyboard.press("Enter")
    assert page.evaluate(shown) == ["cell-0-0"]
    assert page.evaluate("document.activeElement.id") == "cell-0-0"
    count = page.evaluate("document.querySelectorAll('#cell-0-0 img:not(.heat)').length")
    caption = page.evaluate("document.querySelector('#cell-0-0 p').textContent")
    assert caption.startswith(f"{count} of ")
    page.keyboard.press("Escape")
    assert page.evaluate(shown) == []
    assert page.evaluate("document.activeElement.id") == "at-0-0"


def test_threshold_slider_shows_the_counts_of_another_threshold(tabs: Tabs, two_classes: Path) -> None:
    page = tabs.open(two_classes)
    ids = ["true-positives", "false-positives", "false-negatives", "true-negatives"]
    counts = f"{ids}.map(id => Number(document.getElementById(id).textContent))"
    own = page.evaluate(counts)
    slide = "slider.value = {}; slider.dispatchEvent(new Event('input'))"
    page.evaluate(slide.format(0.2))
    found = make_evaluation_inputs(two_classes.parent / "images").detailed
    above = found.outputs.probabilities[:, 1] > 0.2
    hits, alarms = int((above & (found.truth == 1)).sum()), int((above & (found.truth == 0)).sum())
    assert page.evaluate(counts) == [hits, alarms, 20 - hits, 20 - alarms]
    assert page.evaluate("document.getElementById('recall').textContent") == f"{hits / 20:.3f}"
    page.evaluate("document.getElementById('model-threshold').click()")
    assert page.evaluate(counts) == own
    assert own != [hits, alarms, 20 - hits, 20 - alarms]


def test_heat_map_opacity_and_visibility_can_be_changed(tabs: Tabs, two_classes: Path) -> None:
    page = tabs.open(two_classes)
    look = "(s => [s.display, s.opacity])(getComputedStyle(document.querySelector('#images .heat')))"
    page.evaluate("strength.value = 80; strength.dispatchEvent(new Event('input'))")
    assert page.evaluate(look) in (["inline", "0.8"], ["block", "0.8"])
    page.evaluate("document.getElementById('heat').click()")
    assert page.evaluate(look)[0] == "none"
