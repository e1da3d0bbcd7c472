"""Calibration and the choice of thresholds."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from astrodetect.errors import DataError
from astrodetect.evaluation import calibration
from astrodetect.evaluation.calibration import Calibration, fit_calibration
from astrodetect.records import Floats

TRUTH = np.array([0, 0, 1, 0, 1, 1])
SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], dtype=np.float32)


def sample(count: int, classes: int, sharpness: float) -> tuple[NDArray[np.int64], Floats]:
    """Truths drawn from probabilities, and their logits times `sharpness`."""
    random = np.random.default_rng(5)
    logits = random.normal(0, 2, (count, classes))
    odds = np.exp(logits)
    shares = odds / odds.sum(axis=1, keepdims=True)
    truth = (random.random((count, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return truth, (sharpness * logits).astype(np.float32)


def fit(truth: NDArray[np.int64], logits: Floats, expected_bias: Sequence[float] | None = None) -> Calibration:
    """The calibration of one view of images with these logits (n, classes)."""
    probabilities = softmax(logits, axis=1)[np.newaxis]
    return fit_calibration(truth, probabilities, expected_bias or [0.0] * logits.shape[1])


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_calibration_recovers_the_factor_of_overconfidence(sharpness: float, classes: int) -> None:
    truth, logits = sample(4000, classes, sharpness)
    fitted = fit(truth, logits)
    assert fitted.temperature == pytest.approx(sharpness, rel=0.08)
    assert np.abs(fitted.bias).max() < 0.1


@pytest.mark.parametrize("count", [40, 4000])
def test_calibration_undoes_the_class_weights_of_training(count: int) -> None:
    truth, logits = sample(4000, 2, 1.0)
    weighted = logits + np.array([0.0, 1.5], np.float32)  # as if class 1 were weighted e^1.5 times
    kept = np.arange(count)
    fitted = fit(truth[kept], weighted[kept], [0.0, -1.5])
    probabilities = fitted.apply(softmax(weighted, axis=1))
    assert probabilities[:, 1].mean() == pytest.approx(truth.mean(), abs=0.04)


def test_calibration_is_of_the_mean_of_the_views() -> None:
    truth, logits = sample(4000, 2, 1.0)
    noise = np.random.default_rng(1).normal(0, 2, (8, *logits.shape)).astype(np.float32)
    probabilities = softmax(logits + noise, axis=-1)
    fitted = fit_calibration(truth, probabilities, [0.0, 0.0])
    mean = fitted.apply(probabilities).mean(axis=0)[:, 1]
    confident = mean > 0.8
    assert mean[confident].mean() == pytest.approx(truth[confident].mean(), abs=0.03)


@pytest.mark.parametrize("count", [2, 20, 200])
def test_temperature_stays_bounded_without_any_error(count: int) -> None:
    truth = np.arange(count) % 2
    logits = np.where(truth[:, np.newaxis] == [0, 1], 4.0, 0.0).astype(np.float32)
    assert 0.4 < fit(truth, logits).temperature < 1


@pytest.mark.parametrize("logit", [0.0, 1000.0, -1000.0])
def test_temperature_is_within_bounds_for_any_logits(logit: float) -> None:
    fitted = fit(np.array([0, 1, 1]), np.array([[0, logit]] * 3, dtype=np.float32))
    assert calibration.MIN_TEMPERATURE <= fitted.temperature <= calibration.MAX_TEMPERATURE
    assert np.isfinite(fitted.bias).all()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("0.5", 0.5),
        ("0.3", 0.3),
        ("f1", 0.25),  # finds 3 of 3 with one false alarm: 6/7; above 0.4 it is 4/5
        ("balanced", 0.6),  # 2/3 without a false alarm, as good as 3/3 with one: the one closer to the middle
        ("prevalence", 0.5),  # 3 of 6
        ("recall=0.5", 0.6),
        ("recall=0.95", 0.25),
        ("precision=0.9", 0.6),
        ("precision=0.7", 0.25),
    ],
)
def test_threshold_rule_chooses_half_way_between_two_scores(rule: str, expected: float) -> None:
    assert calibration.choose_threshold(rule, TRUTH, SCORES) == pytest.approx(expected)


def test_image_order_does_not_change_the_threshold() -> None:
    turned = np.random.default_rng(0).permutation(len(TRUTH))
    for rule in ("f1", "balanced", "recall=0.9", "precision=0.9"):
        assert calibration.choose_threshold(rule, TRUTH[turned], SCORES[turned]) == calibration.choose_threshold(
            rule, TRUTH, SCORES
        )


def test_required_recall_holds_in_single_and_double_precision() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 400)
    scores = (1 / (1 + np.exp(-8 * (truth + random.normal(0, 0.8, 400))))).astype(np.float32)  # many next to 1
    chosen = calibration.choose_threshold("recall=0.9", truth, scores)
    assert (scores > chosen)[truth == 1].mean() >= 0.9
    assert np.float32(chosen) == chosen  # compared as float32 or as float64, the same


@pytest.mark.parametrize("rule", ["precision=1", "recall=1"])
def test_unreachable_requirement_reports_the_highest_reachable_value(rule: str) -> None:
    truth, scores = np.array([0, 1, 1, 0]), np.array([0.9, 0.0, 0.8, 0.1], dtype=np.float32)
    with pytest.raises(DataError, match=r"on these 4 images: the highest is 0\.500, at a \w+ of 0\.\d{3}$"):
        calibration.choose_threshold(rule, truth, scores)


def test_equal_scores_have_a_threshold() -> None:
    for value in (0.0, 0.5, 1.0):
        found = calibration.choose_threshold("f1", np.array([0, 1]), np.full(2, value, dtype=np.float32))
        assert 0 <= found <= 1


def test_threshold_rule_needs_both_classes() -> None:
    with pytest.raises(DataError, match="images of both classes"):
        calibration.choose_threshold("f1", np.ones(3, dtype=np.int64), SCORES[:3])


@pytest.mark.parametrize(
    "text", ["", "f2", "1.5", "-0.1", "nan", "recall", "recall=", "recall=0", "recall=2", "f1=0.5"]
)
def test_invalid_threshold_rule_lists_the_rules(text: str) -> None:
    with pytest.raises(ValueError, match=r"recall=0\.95 or precision=0\.9, not"):
        calibration.parse_threshold_rule(text)
