"""Figures that people quote."""

import numpy as np
import pytest

from astrodetect.evaluation import metrics


def test_auc_is_the_chance_that_a_positive_scores_above_a_negative() -> None:
    random = np.random.default_rng(3)
    truth = random.integers(0, 2, 200)
    scores = (truth * 0.3 + random.random(200)).round(1).astype(np.float32)  # rounded: many ties
    above = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[truth == 1]
        for negative in scores[truth == 0]
    ]
    assert metrics.auc(truth, scores) == pytest.approx(np.mean(above))


def test_balanced_accuracy_counts_each_class_the_same() -> None:
    truth = np.array([1] + [0] * 9)
    figures = metrics.binary(truth, np.zeros(10, dtype=np.float32))
    assert figures["accuracy"] == pytest.approx(0.9)
    assert figures["balanced_accuracy"] == pytest.approx(0.5)
    assert figures["auc"] == pytest.approx(0.5)


def test_a_score_at_the_threshold_is_no_anomaly() -> None:
    truth = np.array([0, 1])
    assert metrics.binary(truth, np.array([0.5, 0.5], dtype=np.float32))["accuracy"] == pytest.approx(0.5)
    assert metrics.binary(truth, np.array([0.5, 0.51], dtype=np.float32))["accuracy"] == pytest.approx(1.0)


def test_log_loss_is_the_mean_surprise_and_stays_finite() -> None:
    truth = np.array([1, 0])
    assert metrics.log_loss(truth, np.array([0.8, 0.4], dtype=np.float32)) == pytest.approx(
        -(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6
    )
    assert np.isfinite(metrics.log_loss(truth, np.array([0.0, 1.0], dtype=np.float32)))


def test_one_class_alone_has_no_auc() -> None:
    assert np.isnan(metrics.auc(np.array([1, 1]), np.array([0.1, 0.9], dtype=np.float32)))
