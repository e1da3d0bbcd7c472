"""The anomaly report in a browser."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from astrodetect import images
from astrodetect.anomalies.conformal import FALSE_DISCOVERY_RATE, Discoveries
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.projection import project
from astrodetect.anomalies.results import AnomalyResults, Explanation
from astrodetect.records import ImageContract, SkyObject
from astrodetect.reports import anomaly_report as pages
from astrodetect.reports.anomaly_report import RunDescription
from astrodetect.reports.html import ThumbnailReader
from astrodetect.sky.archives import format_position
from browser.page_checks import open_standalone
from browser.tabs import SCREENS, Tabs

COUNT, CARDS = 60, 12
CLASSES = ("E", "a class of galaxies with a long name", "<b>SB</b>")
SHOWN = "[...document.querySelectorAll('.results > li')].filter(card => card.offsetHeight)"


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> AnomalyResults:
    """Real images and detectors, on feature vectors of which some are outliers."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = [folder / f"{number:03} & Sons.jpg" for number in range(COUNT)]
    for path in paths:
        images.write_jpeg(path, random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    rows = random.normal(size=(COUNT, 6)).astype(np.float32)
    rows[:4] *= 9
    looked = Novelty.fit(rows, feature_kind="network").score_training_images()
    return AnomalyResults(
        paths=paths,
        labels=[CLASSES[number % 3] for number in range(COUNT)],
        sha256=[f"{number:064}" for number in range(COUNT)],
        novelty=looked,
        discoveries=Discoveries.find(looked.strength, FALSE_DISCOVERY_RATE, COUNT),
        projection=project(looked.vectors, list(range(COUNT))),
        review_labels={},
        interest=None,
        skipped=[(folder / "bad.jpg", "the file is empty")],
        sky_positions={path: SkyObject(10 + number / 20, 41.0) for number, path in enumerate(paths)},
    )


@pytest.fixture(scope="module")
def place(findings: AnomalyResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    heat = np.eye(8, dtype=np.float32)
    reasons = [
        Explanation(image, findings.paths[:3], heat if number else None)
        for number, image in enumerate(findings.order[:CARDS].tolist())
    ]
    place = tmp_path_factory.mktemp("page") / "anomalies.html"
    pages.write_anomaly_report(
        place,
        findings,
        reasons,
        RunDescription("my sky", "described", "judged", ThumbnailReader(ImageContract(size=32), 10**6)),
    )
    return place


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_anomaly_report_fits_the_screen_and_makes_no_requests(tabs: Tabs, place: Path, width: int, scheme: str) -> None:
    page = open_standalone(tabs, place, width, scheme)
    wide = "[...document.querySelectorAll('.results > li')].filter(card => card.scrollWidth > card.clientWidth).length"
    assert page.evaluate(wide) == 0


def test_gallery_filters_show_matching_cards(tabs: Tabs, place: Path, findings: AnomalyResults) -> None:
    page = tabs.open(place)
    choose = "(s => {{ s.value = {!r}; s.dispatchEvent(new Event('change')) }})(document.querySelector('[data-by={}]'))"
    assert page.evaluate(f"{SHOWN}.length") == CARDS
    first = findings.order[:CARDS]
    page.evaluate(choose.format(CLASSES[2], "label"))
    fit = [image for image in first if findings.labels[image] == CLASSES[2]]
    assert 0 < page.evaluate(f"{SHOWN}.length") == len(fit) < CARDS
    page.evaluate(choose.format("", "label"))
    page.evaluate(choose.format("consensus", "flags"))
    agreed = int(findings.novelty.consensus[first].sum())
    assert 0 < page.evaluate(f"{SHOWN}.length") == agreed < CARDS
    assert page.evaluate("document.getElementById('shown-count').textContent") == f"{agreed} of {CARDS} shown"


def test_cards_have_their_position_and_marks_of_the_sky_lead_to_cards(
    tabs: Tabs, place: Path, findings: AnomalyResults
) -> None:
    page = tabs.open(place)
    first = findings.sky_object(int(findings.order[0]))
    position = page.locator("#card-1 .position")
    expect(position).to_contain_text(format_position(first.ra or 0, first.dec or 0))
    expect(position.get_by_role("link")).to_have_count(6)
    assert page.locator("#sky .sky-map circle title").count() == CARDS
    page.locator('#sky a[href="#card-2"]').dispatch_event("click")
    expect(page.locator("#card-2")).to_be_focused()


def test_map_keyboard_navigation_steps_by_rank_and_opens_cards(
    tabs: Tabs, place: Path, findings: AnomalyResults
) -> None:
    page = tabs.open(place)
    page.evaluate("document.getElementById('projection').focus()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    second = findings.paths[findings.order[1]].name
    caption = "document.querySelector('#preview p').textContent"
    assert page.evaluate(caption).startswith("2: ")
    assert page.evaluate(caption).endswith(second)
    assert page.evaluate("document.getElementById('preview').offsetHeight") > 0
    page.keyboard.press("Escape")
    assert page.evaluate("document.getElementById('preview').offsetHeight") == 0
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "card-1"


def test_map_pointer_shows_a_preview_except_of_hidden_classes(
    tabs: Tabs, place: Path, findings: AnomalyResults
) -> None:
    page = tabs.open(place)
    point = """(() => {
      const ring = document.querySelector('.ring'), box = ring.getBoundingClientRect();
      ring.ownerSVGElement.dispatchEvent(new PointerEvent('pointermove',
        {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true}));
      return document.getElementById('preview').hidden ? '' : document.querySelector('#preview p').textContent;
    })()"""
    first = findings.order[0]
    assert page.evaluate(point).endswith(findings.paths[first].name)
    page.evaluate("document.querySelectorAll('.legend input').forEach(box => box.click())")
    assert page.evaluate(point) == ""


def test_occlusion_map_opacity_and_visibility_can_be_changed(tabs: Tabs, place: Path) -> None:
    page = tabs.open(place)
    look = "(s => [s.display, s.opacity])(getComputedStyle(document.querySelector('.results .heat')))"
    page.evaluate("strength.value = 80; strength.dispatchEvent(new Event('input'))")
    assert page.evaluate(look)[1] == "0.8"
    page.evaluate("document.getElementById('heat').click()")
    assert page.evaluate(look)[0] == "none"


def test_linked_card_is_shown_even_if_filtered_out(tabs: Tabs, place: Path) -> None:
    page = tabs.open(place)
    page.evaluate(
        "document.querySelector('[data-by=flags]').value = 'consensus';"
        "document.querySelector('[data-by=flags]').dispatchEvent(new Event('change'))"
    )
    last = f"document.getElementById('card-{CARDS}').offsetHeight"
    assert page.evaluate(last) == 0
    page.evaluate(f"location.hash = 'card-{CARDS}'; new Promise(done => setTimeout(done, 100))")
    assert page.evaluate(last) > 0
