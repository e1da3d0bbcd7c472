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
    labels = dict.fromkeys(MERGERS[:8].tolist(), INTERESTING) | dict.fromkeys(TRAILS[:8].tolist(), ARTEFACT)
    before, after = (rank_by_labels(vectors, strength, given).interest for given in ({}, labels))
    assert (after[MERGERS[8:]] > before[MERGERS[8:]]).all()
    assert (after[TRAILS[8:]] < before[TRAILS[8:]]).all()
    assert set(review_orders(vectors, strength, labels, 10)["interest"]) <= set(MERGERS.tolist())


def test_labelled_images_rank_at_the_ends_and_are_not_reviewed_again() -> None:
    vectors, strength = clusters()
    labels = {3: ORDINARY, 7: INTERESTING, 9: ARTEFACT}
    interest = rank_by_labels(vectors, strength, labels).interest
    rest = np.setdiff1d(np.arange(len(strength)), [3, 7, 9])
    assert interest[7] > interest[rest].max()
    assert max(interest[[3, 9]]) < interest[rest].min()
    for order in active_learning.REVIEW_ORDERS:
        assert set(review_orders(vectors, strength, labels, len(strength))[order]) == set(rest.tolist())


def test_ordinary_labels_alone_do_not_change_the_order_of_the_others() -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(MERGERS[:5].tolist(), ORDINARY)
    expected = [image for image in review_orders(vectors, strength, {}, 500)["novelty"] if image not in labels]
    assert review_orders(vectors, strength, labels, 500)["interest"] == expected


def test_every_label_adds_to_the_lead_of_its_kind() -> None:
    vectors, strength = clusters()
    labels: dict[int, str] = {}
    leads = []
    for merger, trail in zip(MERGERS[:4].tolist(), TRAILS[:4].tolist(), strict=True):
        interest = rank_by_labels(vectors, strength, labels).interest
        leads.append(float(interest[MERGERS[4:]].mean() - interest[TRAILS[4:]].mean()))
        labels |= {merger: INTERESTING, trail: ORDINARY}
    assert leads == sorted(leads)
    assert leads[1] > leads[0] + 0.1


def test_artefacts_sink_without_sinking_what_is_wanted_beside_them() -> None:
    vectors, strength = clusters()
    wanted = dict.fromkeys(MERGERS[:5].tolist(), INTERESTING)
    artefacts = dict.fromkeys(TRAILS[:5].tolist(), ARTEFACT)
    without, with_artefacts = (
        rank_by_labels(vectors, strength, labels).interest for labels in (wanted, wanted | artefacts)
    )
    assert (with_artefacts[TRAILS[5:]] < without[TRAILS[5:]] - 0.5).all()
    assert with_artefacts[MERGERS[5:]].mean() > without[MERGERS[5:]].mean() - 0.2
    sunk = rank_by_labels(vectors, strength, artefacts).interest  # before anything is interesting
    assert sunk[MERGERS].mean() > sunk[TRAILS[5:]].mean() + 0.5


def test_own_labels_are_wanted_and_each_can_be_searched_for() -> None:
    vectors, strength = clusters()
    labels = {int(MERGERS[0]): "merger", int(TRAILS[0]): "trail"}
    merged, trailed = (
        review_orders(vectors, strength, labels, SIDE - 1, like=like)["interest"] for like in ("merger", "trail")
    )
    assert len(set(merged) & set(MERGERS.tolist())) >= SIDE - 3
    assert len(set(trailed) & set(TRAILS.tolist())) >= SIDE - 3
    both = review_orders(vectors, strength, labels, 2 * SIDE - 2)["interest"]
    assert len(set(both) & {*MERGERS.tolist(), *TRAILS.tolist()}) >= 2 * SIDE - 5


def test_uncertainty_order_begins_at_the_boundary_between_the_labels() -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(range(0, 300), ORDINARY) | dict.fromkeys(MERGERS[:15].tolist(), INTERESTING)
    ranking = rank_by_labels(vectors, strength, labels)
    chosen = review_orders(vectors, strength, labels, 5)["uncertainty"]
    assert ranking.boundary is not None
    assert ranking.interest[:INLIERS].mean() < ranking.boundary < ranking.interest[MERGERS[15:]].min()
    assert not set(chosen) & set(MERGERS.tolist())


def test_monotonic_rescaling_of_strength_does_not_change_the_interest() -> None:
    vectors, strength = clusters()
    labels = {int(MERGERS[0]): INTERESTING, 5: ORDINARY}
    plain, logged = (rank_by_labels(vectors, values, labels).interest for values in (strength, np.log(strength)))
    np.testing.assert_allclose(plain, logged)


def test_blocks_of_dimensions_count_equally() -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(MERGERS[:5].tolist(), INTERESTING) | {5: ORDINARY}
    plain = rank_by_labels(vectors, strength, labels).interest
    np.testing.assert_array_equal(rank_by_labels(vectors, strength, labels, blocks=(6, 6)).interest, plain)
    first = rank_by_labels(vectors, strength, labels, blocks=(1, 11)).interest  # what tells mergers apart is in front
    assert first[MERGERS[5:]].mean() > plain[MERGERS[5:]].mean()


def test_the_block_size_does_not_matter_nor_does_one_wild_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, strength = clusters()
    labels = dict.fromkeys(range(50), ORDINARY) | dict.fromkeys(MERGERS[:5].tolist(), INTERESTING)
    whole = rank_by_labels(vectors, strength, labels).interest
    monkeypatch.setattr(active_learning, "BLOCK", 7)
    np.testing.assert_allclose(rank_by_labels(vectors, strength, labels).interest, whole, rtol=1e-4, atol=1e-5)
    wild = vectors.copy()
    wild[100, 0] = 1e6
    assert (
        review_orders(wild, strength, labels, 10)["interest"]
        == review_orders(vectors, strength, labels, 10)["interest"]
    )
