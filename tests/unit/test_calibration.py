"""Temperatures and thresholds."""

import numpy as np
import pytest
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.evaluation import calibration
from astrodetect.records import Floats

TRUTH = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], dtype=np.float32)


def drawn(count: int, classes: int, heat: float) -> tuple[NDArray[np.int64], Floats]:
    """Truths drawn from probabilities, and logits that are `heat` times too sure of them."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (count, classes))
    odds = np.exp(logits)
    shares = odds / odds.sum(axis=1, keepdims=True)
    truth = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return truth, (heat * logits).astype(np.float32)


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_is_how_much_too_sure_the_logits_are(heat: float, classes: int) -> None:
    truth, logits = drawn(4000, classes, heat)
    assert calibration.fit_temperature(truth, logits) == pytest.approx(heat, rel=0.08)


def test_the_positive_class_s_logits_alone_give_the_same_temperature() -> None:
    truth, logits = drawn(500, 2, 2.0)
    alone = calibration.fit_temperature(truth, logits[:, 1] - logits[:, 0])
    assert alone == pytest.approx(calibration.fit_temperature(truth, logits), rel=1e-4)


@pytest.mark.parametrize("count", [2, 20, 200])
def test_images_that_are_all_told_rightly_do_not_make_the_model_infinitely_sure(count: int) -> None:
    truth = np.arange(count) % 2
    logits = np.where(truth == 1, 4.0, -4.0).astype(np.float32)
    assert 0.4 < calibration.fit_temperature(truth, logits) < 1


@pytest.mark.parametrize("logit", [0.0, 1000.0, -1000.0])
def test_any_logits_give_a_temperature_within_bounds(logit: float) -> None:
    found = calibration.fit_temperature(np.array([0, 1, 1]), np.full(3, logit, dtype=np.float32))
    assert calibration.MIN_TEMPERATURE <= found <= calibration.MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("0.5", 0.5),
        ("0.3", 0.3),
        ("f1", 0.25),  # finds 3 of 3 with one false alarm: 6/7; above 0.4 it is 4/5
        ("balanced", 0.6),  # 2/3 without a false alarm, as good as 3/3 with one: the one closer to the middle
        ("recall=0.5", 0.6),
        ("recall=0.95", 0.25),
        ("precision=0.9", 0.6),
        ("precision=0.7", 0.25),
    ],
)
def test_a_rule_chooses_half_way_between_two_scores(rule: str, expected: float) -> None:
    assert calibration.choose_threshold(rule, TRUTH, SCORES) == pytest.approx(expected)


def test_the_order_of_the_images_makes_no_difference() -> None:
    turned = np.random.default_rng(0).permutation(len(TRUTH))
    for rule in ("f1", "balanced", "recall=0.9", "precision=0.9"):
        assert calibration.choose_threshold(rule, TRUTH[turned], SCORES[turned]) == calibration.choose_threshold(
            rule, TRUTH, SCORES
        )


def test_what_was_asked_holds_where_scores_are_compared() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 400)
    scores = (1 / (1 + np.exp(-8 * (truth + random.normal(0, 0.8, 400))))).astype(np.float32)  # many next to 1
    chosen = calibration.choose_threshold("recall=0.9", truth, scores)
    assert (scores > chosen)[truth == 1].mean() >= 0.9
    assert np.float32(chosen) == chosen  # compared as float32 or as float64, the same


@pytest.mark.parametrize("rule", ["precision=1", "recall=1"])
def test_what_cannot_be_reached_is_told_with_what_can(rule: str) -> None:
    truth, scores = np.array([0, 1, 1, 0]), np.array([0.9, 0.0, 0.8, 0.1], dtype=np.float32)
    with pytest.raises(DataError, match=r"on these 4 images: at most 0\.500 can be reached, at a \w+ of 0\.\d{3}$"):
        calibration.choose_threshold(rule, truth, scores)


def test_scores_that_are_all_alike_have_a_threshold() -> None:
    for value in (0.0, 0.5, 1.0):
        found = calibration.choose_threshold("f1", np.array([0, 1]), np.full(2, value, dtype=np.float32))
        assert 0 <= found <= 1


def test_one_class_alone_has_no_best_threshold() -> None:
    with pytest.raises(DataError, match="images of both classes"):
        calibration.choose_threshold("f1", np.ones(3, dtype=np.int64), SCORES[:3])


@pytest.mark.parametrize(
    "text", ["", "f2", "1.5", "-0.1", "nan", "recall", "recall=", "recall=0", "recall=2", "f1=0.5"]
)
def test_a_rule_that_is_none_is_told_what_can_be_asked(text: str) -> None:
    with pytest.raises(ValueError, match=r"recall=0\.95 or precision=0\.9, not"):
        calibration.parse_threshold_rule(text)
