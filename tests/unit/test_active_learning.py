"""Active learning: labels move similar images in the ranking."""

import numpy as np
import pytest

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.active_learning import rank_by_labels, review_orders
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
from astrodetect.records import Floats

SIDE = 20  # images in each outlier cluster
INLIERS = 400


def clusters(seed: int = 0) -> tuple[Floats, Floats]:
    """Vectors of inliers and of two tight outlier clusters, mergers and trails; and their strength."""
    random = np.random.default_rng(seed)
    inliers = random.normal(0, 1, (INLIERS, 12))
    mergers = random.normal(0, 0.5, (SIDE, 12)) + 6 * np.eye(12)[0]
    trails = random.normal(0, 0.5, (SIDE, 12)) + 6 * np.eye(12)[1]
    vectors = np.concatenate([inliers, mergers, trails]).astype(np.float32)
    return vectors, np.square(vectors).sum(axis=1)


MERGERS, TRAILS = np.arange(INLIERS, INLIERS + SIDE), np.arange(INLIERS + SIDE, INLIERS + 2 * SIDE)


def test_review_order_without_labels_is_the_unsupervised_one() -> None:
    vectors, strength = clusters()
    chosen_by = review_orders(vectors, strength, {}, 50)
    assert chosen_by["interest"] == chosen_by["novelty"]
    top = np.argsort(-rank_by_labels(vectors, strength, {}).interest, kind="stable")[:50]
    assert set(strength[top]) == set(np.sort(strength)[-50:])


def test_images_similar_to_labelled_ones_rise_or_sink() -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(MERGERS[:3].tolist(), INTERESTING) | dict.fromkeys(TRAILS[:3].tolist(), ARTEFACT)
    before, after = rank_by_labels(vectors, strength, {}).interest, rank_by_labels(vectors, strength, labels).interest
    assert (after[MERGERS[3:]] > before[MERGERS[3:]]).all()
    assert (after[TRAILS[3:]] < before[TRAILS[3:]]).all()
    assert set(review_orders(vectors, strength, labels, 10)["interest"]) <= set(MERGERS.tolist())


def test_labelled_images_rank_at_the_ends_and_are_not_reviewed_again() -> None:
    vectors, strength = clusters()
    labels = {3: ORDINARY, 7: INTERESTING, 9: ARTEFACT}
    ranking = rank_by_labels(vectors, strength, labels)
    rest = np.setdiff1d(np.arange(len(strength)), [3, 7, 9])
    assert ranking.interest[7] > ranking.interest[rest].max()
    assert max(ranking.interest[[3, 9]]) < ranking.interest[rest].min()
    assert not ranking.uncertainty[[3, 7, 9]].any()
    for order in active_learning.REVIEW_ORDERS:
        assert set(review_orders(vectors, strength, labels, len(strength))[order]) == set(rest.tolist())


def test_label_reduces_the_uncertainty_of_similar_images() -> None:
    vectors, strength = clusters()
    doubt = rank_by_labels(vectors, strength, {int(MERGERS[0]): INTERESTING}).uncertainty
    assert doubt[MERGERS[1:]].max() < doubt[TRAILS].min()


def test_uncertainty_order_prefers_images_near_the_decision_boundary() -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(range(0, 300), ORDINARY) | dict.fromkeys(MERGERS[:15].tolist(), INTERESTING)
    ranking, chosen = (
        rank_by_labels(vectors, strength, labels),
        review_orders(vectors, strength, labels, 5)["uncertainty"],
    )
    assert np.abs(ranking.interest[chosen]).max() < np.abs(ranking.interest[MERGERS[15:]]).min()
    assert not set(chosen) & set(MERGERS.tolist())


def test_monotonic_rescaling_of_strength_does_not_change_the_interest() -> None:
    vectors, strength = clusters()
    labels = {int(MERGERS[0]): INTERESTING, 5: ORDINARY}
    plain, logged = (rank_by_labels(vectors, values, labels).interest for values in (strength, np.log(strength)))
    np.testing.assert_allclose(plain, logged)


def test_label_limit_keeps_the_newest_and_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(range(50), ORDINARY) | dict.fromkeys(MERGERS[:5].tolist(), INTERESTING)
    whole = rank_by_labels(vectors, strength, labels).interest
    monkeypatch.setattr(active_learning, "BLOCK", 7)
    np.testing.assert_allclose(rank_by_labels(vectors, strength, labels).interest, whole)
    monkeypatch.setattr(active_learning, "MAX_LABELS", 5)
    newest = rank_by_labels(vectors, strength, labels)
    assert (newest.interest[MERGERS[5:]] > rank_by_labels(vectors, strength, {}).interest[MERGERS[5:]]).all()
    assert (newest.interest[list(range(50))] == -active_learning.LABELLED_INTEREST).all()
