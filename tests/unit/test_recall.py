"""`recall`: planted rarities have the stated brightness, and are ranked among the images as if they were theirs."""

import json
from pathlib import Path

import numpy as np
import pytest
from blob_galaxies import SIDE, blob_galaxies, write_blob_galaxies
from programs import run_here
from scipy import ndimage

from astrodetect import __main__
from astrodetect.datasets.simulation import planting

IMAGES, PLANTED = 120, 12


def recall(folder: Path, *arguments: object) -> tuple[int, str, str]:
    done = run_here(
        __main__.main, "recall", *arguments, folder=folder, environment={"ASTRODETECT_DATA_DIR": str(folder / "data")}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recall")
    write_blob_galaxies(folder / "mine", IMAGES)
    return folder


@pytest.mark.parametrize("kind", planting.KINDS)
def test_what_is_planted_has_the_stated_brightness_and_a_reproducible_shape(kind: str) -> None:
    host = blob_galaxies(1)[0]
    faint, bright = (
        planting.plant(host, kind, brightness, np.random.default_rng(5)).astype(float).mean(axis=2) - host.mean(axis=2)
        for brightness in (0.25, 0.5)
    )
    middle = slice(SIDE // 2 - 3, SIDE // 2 + 3)
    peak = ndimage.gaussian_filter(host.mean(axis=2), 1)[middle, middle].max() - 12
    assert np.percentile(faint, planting.PEAK_PERCENTILE) == pytest.approx(0.25 * peak, rel=0.1)
    assert np.percentile(bright, planting.PEAK_PERCENTILE) == pytest.approx(0.5 * peak, rel=0.1)
    again = planting.plant(host, kind, 0.5, np.random.default_rng(5)).astype(float).mean(axis=2) - host.mean(axis=2)
    assert np.array_equal(again, bright)


def test_bright_rarities_are_found_and_faint_ones_are_as_by_chance(place: Path) -> None:
    before = {path.name for path in (place / "mine").iterdir()}
    status, printed, error = recall(
        place,
        place / "mine",
        "--first",
        12,
        "--planted",
        PLANTED,
        "--kinds",
        "trail,merger",
        "--brightness",
        "0.01,0.8",
    )
    assert status == 0, error
    results = json.loads((place / "recall" / "recall.json").read_text())
    assert (results["images"], results["first"], results["by_chance"]) == (IMAGES, 12, 0.1)
    groups = {(group["kind"], group["brightness"]): group for group in results["groups"]}
    assert set(groups) == {(kind, brightness) for kind in ("trail", "merger") for brightness in (0.01, 0.8)}
    for kind in ("trail", "merger"):
        assert groups[kind, 0.8]["found"] >= 0.9 * PLANTED
        assert groups[kind, 0.01]["recall"] <= 0.4
    for group in groups.values():
        assert group["found"] == sum(rank <= 12 for rank in group["ranks"])
        assert group["low"] <= group["recall"] == group["found"] / PLANTED <= group["high"]
        assert all(1 <= rank <= IMAGES + IMAGES / 24 for rank in group["ranks"])
    assert groups["merger", 0.8]["view"] == "asymmetry"
    page = (place / "recall" / "recall.html").read_text(encoding="utf-8")
    assert "Satellite trails" in page
    assert str(place) not in page
    assert printed.splitlines()[0].startswith("found in the first 12 of 120 images (by chance 10 %)")
    assert {path.name for path in (place / "mine").iterdir()} == before


def test_few_images_and_wrong_options_are_one_line_errors(place: Path, tmp_path: Path) -> None:
    few = write_blob_galaxies(tmp_path / "few", 20)
    for arguments, message in (
        ((few,), "20 images are too few to plant rarities into: give 50 or more"),
        ((place / "mine", "--kinds", "comet"), "a list of ring, arc, merger, trail, not comet"),
        ((place / "mine", "--brightness", "0.1,20"), "between 0.01 and 10, not 20"),
    ):
        status, _, error = recall(tmp_path, *arguments)
        assert status in {1, 2}
        assert message in error.splitlines()[-1]
    assert not (tmp_path / "recall").exists()
