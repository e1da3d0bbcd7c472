"""Classification metrics and their intervals."""

import numpy as np
import pytest
from numpy.typing import NDArray

from astrodetect.evaluation import metrics
from astrodetect.records import Floats


def test_auc_is_the_probability_that_a_positive_scores_above_a_negative() -> None:
    random = np.random.default_rng(3)
    truth = random.integers(0, 2, 200)
    scores = (truth * 0.3 + random.random(200)).round(1).astype(np.float32)  # rounded: many ties
    above = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[truth == 1]
        for negative in scores[truth == 0]
    ]
    assert metrics.auc(truth, scores) == pytest.approx(np.mean(above))


def test_balanced_accuracy_weights_each_class_equally() -> None:
    truth = np.array([1] + [0] * 9)
    figures = metrics.binary_metrics(truth, np.zeros(10, dtype=np.float32))
    assert figures["accuracy"] == pytest.approx(0.9)
    assert figures["balanced_accuracy"] == pytest.approx(0.5)
    assert figures["auc"] == pytest.approx(0.5)


def test_score_equal_to_the_threshold_is_no_anomaly() -> None:
    truth = np.array([0, 1])
    assert metrics.binary_metrics(truth, np.array([0.5, 0.5], dtype=np.float32))["accuracy"] == pytest.approx(0.5)
    assert metrics.binary_metrics(truth, np.array([0.5, 0.51], dtype=np.float32))["accuracy"] == pytest.approx(1.0)


def test_log_loss_is_the_mean_negative_log_likelihood_and_finite() -> None:
    truth = np.array([1, 0])
    assert metrics.log_loss(truth, np.array([0.8, 0.4], dtype=np.float32)) == pytest.approx(
        -(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6
    )
    assert np.isfinite(metrics.log_loss(truth, np.array([0.0, 1.0], dtype=np.float32)))


def test_auc_of_one_class_alone_is_nan() -> None:
    assert np.isnan(metrics.auc(np.array([1, 1]), np.array([0.1, 0.9], dtype=np.float32)))


THREE = ("elliptical", "spiral", "edge")


def test_multiclass_metrics_are_those_of_two_classes_and_the_recall_of_each() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.array(
        [[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]],
        dtype=np.float32,
    )
    figures = metrics.multiclass_metrics(truth, probabilities, THREE)
    assert set(metrics.binary_metrics(truth.clip(max=1), probabilities[:, 0])) < set(figures)
    assert figures["accuracy"] == pytest.approx(5 / 6)
    assert [figures[f"recall_{name}"] for name in THREE] == pytest.approx([0.5, 1, 1])
    assert figures["macro_f1"] == pytest.approx(np.mean([2 / 3, 4 / 5, 1]))
    assert figures["log_loss"] == pytest.approx(-np.log([0.8, 0.2, 0.8, 0.6, 0.6, 0.8]).mean(), rel=1e-6)
    assert figures["auc"] == pytest.approx(
        (7.5 / 8 + 7 / 8 + 1) / 3
    )  # each class against the rest; the first has a tie


def test_binary_metrics_equal_multiclass_metrics_of_two_classes() -> None:
    random = np.random.default_rng(0)
    truth, scores = random.integers(0, 2, 300), random.random(300, dtype=np.float32)
    two = np.stack([1 - scores, scores], axis=1)
    figures = metrics.multiclass_metrics(truth, two, ("SB", "E"))
    assert {name: figures[name] for name in metrics.binary_metrics(truth, scores)} == metrics.binary_metrics(
        truth, scores
    )
    assert figures["brier"] == pytest.approx(np.mean((scores - truth) ** 2))


def test_calibration_error_is_the_gap_between_probability_and_frequency() -> None:
    right = np.arange(1000) % 10 < 7
    found = metrics.reliability_curve(np.full(1000, 0.9, dtype=np.float32), right)
    assert found.error == pytest.approx(0.2, abs=1e-6)
    assert metrics.reliability_curve(np.full(1000, 0.7, dtype=np.float32), right).error == pytest.approx(0, abs=1e-6)


def test_metrics_of_a_class_without_images_are_nan() -> None:
    figures = metrics.multiclass_metrics(np.array([0, 1]), np.eye(3, dtype=np.float32)[:2], THREE)
    assert figures["recall_edge"] != figures["recall_edge"]
    assert np.isnan([figures["auc"], figures["balanced_accuracy"], figures["macro_f1"]]).all()
    assert figures["accuracy"] == 1


def test_wilson_interval_stays_within_bounds_and_narrows() -> None:
    few, many = metrics.wilson_interval(10, 10), metrics.wilson_interval(1000, 1000)
    assert few.low == pytest.approx(0.7225, abs=1e-4)  # as tables of it have
    assert [few.high, many.high] == pytest.approx([1, 1])
    assert max(few.high, many.high) <= 1
    assert few.low < many.low < 1
    assert np.isnan(metrics.wilson_interval(0, 0).value)


@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_cover_the_metrics_of_most_other_samples(classes: int) -> None:
    random = np.random.default_rng(1)

    def sample(count: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        truth = random.integers(0, classes, count)
        odds = np.exp(random.normal(0, 1, (count, classes)) + 1.2 * np.eye(classes)[truth])
        probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return truth, probabilities, metrics.predict_classes(probabilities)

    true = metrics.headline_metrics(*sample(50_000))
    found = [metrics.estimate_headline_metrics(*sample(300)) for _ in range(20)]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auc", "log_loss", "brier"):
        held = sum(figures[name].low <= true[name] <= figures[name].high for figures in found)
        assert held >= 16, name
    assert found[0] != found[1]


@pytest.mark.parametrize("count", [30, 300])
def test_every_metric_lies_in_its_interval(count: int) -> None:
    random = np.random.default_rng(3)
    scores = random.random(count, dtype=np.float32)
    truth = (random.random(count) < scores).astype(np.int64)  # well calibrated: the hardest error to place
    two = np.stack([1 - scores, scores], axis=1)
    for name, figure in metrics.estimate_headline_metrics(truth, two, metrics.predict_classes(two, 0.5)).items():
        assert figure.low <= figure.value <= figure.high, name


def test_without_an_error_intervals_are_those_of_as_many_images_as_the_balanced_accuracy_has() -> None:
    truth = np.arange(30) // 20  # 20 and 10 images
    certain = np.eye(2, dtype=np.float32)[truth] * 0.8 + np.float32(0.1)
    figures = metrics.estimate_headline_metrics(truth, certain, truth)
    low = metrics.wilson_interval(80 / 3, 80 / 3).low  # 4 / (1/20 + 1/10)
    for name in ("balanced_accuracy", "macro_f1", "auc"):
        assert (figures[name].value, figures[name].low) == pytest.approx((1, low)), name
    f1_scores = [row.f1 for row in metrics.per_class_metrics(np.diag([20.0, 10.0]), ("SB", "E"))]
    assert f1_scores == [metrics.wilson_interval(40, 40), metrics.wilson_interval(20, 20)]


def test_a_small_class_without_an_error_does_not_narrow_the_intervals() -> None:
    truth = np.arange(1020) // 1000
    scores = np.where(truth == 1, 0.9, np.linspace(0, 0.49, 1020)).astype(np.float32)
    scores[7] = 0.95  # one error in the large class: whatever is drawn, the small one has none
    two = np.stack([1 - scores, scores], axis=1)
    figures = metrics.estimate_headline_metrics(truth, two, metrics.predict_classes(two))
    assert figures["balanced_accuracy"].value == pytest.approx(0.9995)
    assert figures["balanced_accuracy"].low < 0.96
    assert figures["auc"].low < 0.96


def test_intervals_are_deterministic() -> None:
    truth, scores = np.arange(50) % 2, np.linspace(0, 1, 50, dtype=np.float32)
    two = np.stack([1 - scores, scores], axis=1)
    predicted = metrics.predict_classes(two, 0.5)
    first, second = (metrics.estimate_headline_metrics(truth, two, predicted) for _ in range(2))
    assert first == second


def test_per_class_metrics_have_precision_recall_and_f1() -> None:
    first, second = metrics.per_class_metrics(np.array([[8.0, 2.0], [0.0, 10.0]]), ("SB", "E"))
    assert (first.precision.value, first.recall.value) == (1, 0.8)
    assert second.precision.value == pytest.approx(10 / 12)
    assert second.f1.value == pytest.approx(20 / 22)
    assert second.f1.low < second.f1.value < second.f1.high
    assert (first.images, second.images) == (10, 10)


@pytest.mark.parametrize("counts", [(80, 20), (30, 40, 50)])
def test_a_ranking_at_random_exceeds_the_significant_auc_at_most_once_in_20_times(counts: tuple[int, ...]) -> None:
    random = np.random.default_rng(5)
    truth = np.repeat(np.arange(len(counts)), counts)
    limit, trials = metrics.significant_auc(counts), 1000
    above = 0
    for _ in range(trials):
        probabilities = random.dirichlet(np.ones(len(counts)), len(truth)).astype(np.float32)
        above += metrics.headline_metrics(truth, probabilities, probabilities.argmax(axis=1))["auc"] > limit
    assert above / trials < 0.07
    if len(counts) == 2:
        assert above / trials > 0.03


def test_averages_of_the_classes_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    random = np.random.default_rng(4)
    truth, predicted = random.choice(3, 80, p=(0.6, 0.3, 0.1)), random.choice(2, 80)  # the third is never predicted
    classes = metrics.per_class_metrics(metrics.confusion(truth, predicted, 3), ("a", "b", "c"))
    for average, values in metrics.average_class_metrics(classes).items():
        *expected, _ = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
        assert list(values.values()) == pytest.approx(expected)
