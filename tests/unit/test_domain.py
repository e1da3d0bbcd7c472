"""The domain of detectors: rare false alarms on held-out images, and a powerful test of many images together."""

from pathlib import Path

import numpy as np
import pytest

from astrodetect.anomalies import domain
from astrodetect.anomalies.domain import LatestImages
from astrodetect.anomalies.novelty import Novelty
from astrodetect.records import Floats

WIDTH = 60
SHIFT = 2.5  # standard deviations of each latent dimension, of images from elsewhere


def images(count: int, seed: int, shift: float = 0.0) -> Floats:
    """Feature rows of low rank with noise, whose latent variables have heavy tails."""
    random = np.random.default_rng(seed)
    ways = np.random.default_rng(99).normal(size=(12, WIDTH))
    rows = (random.standard_t(5, size=(count, 12)) + shift) @ ways + 0.1 * random.normal(size=(count, WIDTH))
    return np.asarray(rows, np.float32)


def calibrated(count: int) -> Novelty:
    return domain.calibrate_domain(Novelty.fit(images(count, seed=0)))


@pytest.fixture(scope="module")
def novelty() -> Novelty:
    return calibrated(1_000)


def outside(novelty: Novelty, rows: Floats) -> float:
    """The share of the images that are out of domain."""
    in_domain = novelty.score(rows).in_domain
    assert in_domain is not None
    return 1 - float(in_domain.mean())


def test_at_most_one_percent_of_images_like_the_training_set_are_out_of_domain(novelty: Novelty) -> None:
    assert 0.001 < outside(novelty, images(5_000, seed=1)) <= 0.01


def test_few_training_images_give_few_false_alarms_and_too_few_give_no_limit() -> None:
    assert outside(calibrated(domain.MIN_DOMAIN_IMAGES), images(5_000, seed=1)) <= 0.02
    assert calibrated(domain.MIN_DOMAIN_IMAGES - 1).score(images(3, seed=1)).in_domain is None


def test_images_from_elsewhere_are_out_of_domain(novelty: Novelty) -> None:
    assert outside(novelty, images(500, seed=2, shift=2 * SHIFT)) > 0.9


def test_batches_from_elsewhere_are_noticed_and_batches_like_the_training_set_are_not(novelty: Novelty) -> None:
    def share(shift: float) -> float:
        batches = [novelty.score(images(domain.LATEST_IMAGES, seed, shift)).novelty for seed in range(100, 300)]
        return float(np.mean([LatestImages.of(batch).mostly_out_of_domain for batch in batches]))

    assert share(0) == 0
    assert share(SHIFT) > 0.9


def test_few_images_prove_nothing() -> None:
    assert not LatestImages.of([1.0] * (domain.MIN_LATEST_IMAGES - 1)).mostly_out_of_domain
    assert LatestImages.of([1.0] * domain.MIN_LATEST_IMAGES).mostly_out_of_domain
    assert not LatestImages.of([1.0] * 25 + [0.5] * 25).mostly_out_of_domain


def test_the_limit_is_stored_and_detectors_of_earlier_versions_have_none(novelty: Novelty, tmp_path: Path) -> None:
    rows = images(100, seed=3, shift=SHIFT)
    for name, detectors in (("new", novelty), ("old", Novelty.fit(images(50, seed=0)))):
        detectors.save(tmp_path / name)
        loaded = Novelty.load((tmp_path / name).read_bytes())
        assert loaded.limit == detectors.limit
        np.testing.assert_array_equal(loaded.score(rows).in_domain, detectors.score(rows).in_domain)
    assert loaded.score(rows).in_domain is None
