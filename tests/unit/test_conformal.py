"""p-values of anomaly scores: valid for ordinary images, ordered for unusual ones; the false discovery rate."""

import numpy as np
import pytest
from numpy.typing import NDArray

from astrodetect.anomalies.conformal import MIN_CALIBRATION_IMAGES, Discoveries, StrengthCalibration
from astrodetect.anomalies.novelty import Novelty
from astrodetect.records import Floats

DRAWS = 40
RATE = 0.1


def scores(random: np.random.Generator, tail: str, count: int) -> Floats:
    """Scores with an exponential tail, a lighter or a heavier one."""
    drawn: NDArray[np.float64] = {
        "exponential": lambda: random.exponential(size=count),
        "light": lambda: random.normal(size=count),
        "heavy": lambda: random.standard_t(8, size=count),
    }[tail]()
    return drawn.astype(np.float32)


@pytest.mark.parametrize("tail", ["exponential", "light", "heavy"])
@pytest.mark.parametrize("count", [60, 400])
def test_ordinary_images_have_the_p_values_of_chance(tail: str, count: int) -> None:
    random = np.random.default_rng(1)
    p_values = []
    for _ in range(DRAWS):
        calibration = StrengthCalibration.fit(scores(random, tail, count))
        p_values.append(10.0 ** -calibration.transform(scores(random, tail, 2_000)))
    for probability in (0.5, 0.1, 0.01, 0.001):
        assert float(np.mean(np.array(p_values) <= probability)) < 1.15 * probability + 2e-4
    assert float(np.mean(np.array(p_values) <= 0.1)) > 0.07


@pytest.mark.parametrize("tail", ["exponential", "light", "heavy"])
def test_the_false_discovery_rate_holds_without_unusual_images_and_unusual_ones_are_found(tail: str) -> None:
    random = np.random.default_rng(2)
    with_flags, found = 0, 0
    for _ in range(DRAWS):
        ordinary = scores(random, tail, 400)
        with_flags += int(flagged(ordinary).any())
        mixed = np.concatenate([ordinary, np.full(8, ordinary.max() * 4, np.float32)])
        found += int(flagged(mixed)[400:].sum())
    assert with_flags <= RATE * DRAWS
    assert found > 0.8 * 8 * DRAWS


def flagged(among_themselves: Floats) -> NDArray[np.bool_]:
    strength = StrengthCalibration.fit(among_themselves).transform(among_themselves)
    return Discoveries.find(strength, RATE, len(among_themselves)).flagged


def test_unusual_images_hardly_change_the_p_values_of_others() -> None:
    ordinary = scores(np.random.default_rng(3), "exponential", 400)
    plain = StrengthCalibration.fit(ordinary)
    mixed = StrengthCalibration.fit(np.concatenate([ordinary, np.full(16, 1e6, np.float32)]))
    at = np.array([8, 20], np.float32)
    np.testing.assert_allclose(mixed.transform(at), plain.transform(at), rtol=0.3)


def test_strength_rises_without_bound_also_where_calibration_scores_are_equal_or_few() -> None:
    for held_out in (np.ones(60), np.arange(12), np.r_[np.zeros(58), 1, 1], np.random.default_rng(0).normal(size=900)):
        calibration = StrengthCalibration.fit(held_out.astype(np.float32))
        strength = calibration.transform((held_out.max() + np.geomspace(0.1, 1e7, 50)).astype(np.float32))
        assert np.isfinite(strength).all()
        assert (np.diff(strength) > 0).all()
        assert calibration.transform(np.array([held_out.min()], np.float32))[0] == pytest.approx(0, abs=1e-6)


def test_what_is_flagged_is_said_in_one_sentence() -> None:
    strength = np.r_[np.zeros(388), np.full(12, 5)].astype(np.float32)
    assert Discoveries.find(strength, 0.1, 400).text == (
        "12 of 400 images flagged as unusual, at most about 1 of them by chance (false discovery rate of 10 %)"
    )
    assert Discoveries.find(strength[:388], 0.05, 400).text == (
        "nothing here is unusual beyond chance: no image is flagged at a false discovery rate of 5 %"
    )
    few = Discoveries.find(strength, 0.1, MIN_CALIBRATION_IMAGES - 1)
    assert not few.flagged.any()
    assert few.text.startswith("no image is flagged: 49 images to compare with are too few")


def test_new_images_are_judged_by_scores_of_detectors_that_have_not_seen_their_images() -> None:
    random = np.random.default_rng(4)
    rows = np.concatenate([random.normal(size=(200, 12)), random.normal(size=(3, 12)) * 9]).astype(np.float32)
    novelty = Novelty.fit(rows)
    calibrated, training = novelty.calibrated(), novelty.score_training_images()
    assert {*np.argsort(-training.strength)[:3].tolist()} == {200, 201, 202}
    assert Discoveries.find(training.strength, RATE, 203).flagged[200:].all()
    others = random.normal(size=(500, 12)).astype(np.float32)
    by_left_out, by_held_out = novelty.score(others), calibrated.score(others)
    np.testing.assert_array_equal(by_left_out.novelty, by_held_out.novelty)
    np.testing.assert_array_equal(by_left_out.statistic, by_held_out.statistic)
    shares = [float(np.mean(10.0**-result.strength <= 0.05)) for result in (by_left_out, by_held_out)]
    assert shares[1] == pytest.approx(0.05, abs=0.03)
    assert shares[1] < shares[0]


@pytest.mark.parametrize("count", [10, 12, 13, 26])
def test_few_training_images_are_calibrated_too(count: int) -> None:
    rows = np.random.default_rng(5).normal(size=(count, 6)).astype(np.float32)
    assert np.isfinite(Novelty.fit(rows).calibrated().score(rows).strength).all()
