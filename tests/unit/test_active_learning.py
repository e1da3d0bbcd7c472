"""Labels move what is like them, and nothing else."""

import numpy as np
import pytest

from astrodetect.anomalies import active_learning
from astrodetect.anomalies.active_learning import rank_by_labels, review_orders
from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
from astrodetect.records import Floats

SIDE = 20  # images in each group of the unusual
USUAL = 400


def sky(seed: int = 0) -> tuple[Floats, Floats]:
    """Usual images, then two groups of unusual ones, mergers and trails, each alike; and how unusual each is."""
    random = np.random.default_rng(seed)
    usual = random.normal(0, 1, (USUAL, 12))
    mergers = random.normal(0, 0.5, (SIDE, 12)) + 6 * np.eye(12)[0]
    trails = random.normal(0, 0.5, (SIDE, 12)) + 6 * np.eye(12)[1]
    vectors = np.concatenate([usual, mergers, trails]).astype(np.float32)
    return vectors, np.square(vectors).sum(axis=1)


MERGERS, TRAILS = np.arange(USUAL, USUAL + SIDE), np.arange(USUAL + SIDE, USUAL + 2 * SIDE)


def test_without_labels_the_order_is_the_unsupervised_one() -> None:
    vectors, strength = sky()
    found = review_orders(vectors, strength, {}, 50)
    assert found["interest"] == found["novelty"]
    top = np.argsort(-rank_by_labels(vectors, strength, {}).interest, kind="stable")[:50]
    assert set(strength[top]) == set(np.sort(strength)[-50:])


def test_what_is_like_an_artefact_sinks_and_what_is_like_an_interesting_one_rises() -> None:
    vectors, strength = sky()
    labels = dict.fromkeys(MERGERS[:3].tolist(), INTERESTING) | dict.fromkeys(TRAILS[:3].tolist(), ARTEFACT)
    before, after = rank_by_labels(vectors, strength, {}).interest, rank_by_labels(vectors, strength, labels).interest
    assert (after[MERGERS[3:]] > before[MERGERS[3:]]).all()
    assert (after[TRAILS[3:]] < before[TRAILS[3:]]).all()
    assert set(review_orders(vectors, strength, labels, 10)["interest"]) <= set(MERGERS.tolist())


def test_labelled_images_settle_at_either_end_and_do_not_come_up_again() -> None:
    vectors, strength = sky()
    labels = {3: ORDINARY, 7: INTERESTING, 9: ARTEFACT}
    ranking = rank_by_labels(vectors, strength, labels)
    rest = np.setdiff1d(np.arange(len(strength)), [3, 7, 9])
    assert ranking.interest[7] > ranking.interest[rest].max()
    assert max(ranking.interest[[3, 9]]) < ranking.interest[rest].min()
    assert not ranking.uncertainty[[3, 7, 9]].any()
    for by in active_learning.REVIEW_ORDERS:
        assert set(review_orders(vectors, strength, labels, len(strength))[by]) == set(rest.tolist())


def test_a_label_leaves_less_doubt_about_what_is_like_it() -> None:
    vectors, strength = sky()
    doubt = rank_by_labels(vectors, strength, {int(MERGERS[0]): INTERESTING}).uncertainty
    assert doubt[MERGERS[1:]].max() < doubt[TRAILS].min()


def test_the_most_doubtful_are_those_that_could_be_either() -> None:
    vectors, strength = sky()
    labels = dict.fromkeys(range(0, 300), ORDINARY) | dict.fromkeys(MERGERS[:15].tolist(), INTERESTING)
    ranking, chosen = (
        rank_by_labels(vectors, strength, labels),
        review_orders(vectors, strength, labels, 5)["uncertainty"],
    )
    assert np.abs(ranking.interest[chosen]).max() < np.abs(ranking.interest[MERGERS[15:]]).min()
    assert not set(chosen) & set(MERGERS.tolist())


def test_how_strength_is_measured_changes_nothing() -> None:
    vectors, strength = sky()
    labels = {int(MERGERS[0]): INTERESTING, 5: ORDINARY}
    plain, logged = (rank_by_labels(vectors, values, labels).interest for values in (strength, np.log(strength)))
    np.testing.assert_allclose(plain, logged)


def test_more_labels_than_are_learnt_from_and_more_images_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, strength = sky()
    labels = dict.fromkeys(range(50), ORDINARY) | dict.fromkeys(MERGERS[:5].tolist(), INTERESTING)
    whole = rank_by_labels(vectors, strength, labels).interest
    monkeypatch.setattr(active_learning, "BLOCK", 7)
    np.testing.assert_allclose(rank_by_labels(vectors, strength, labels).interest, whole)
    monkeypatch.setattr(active_learning, "MAX_LABELS", 5)
    newest = rank_by_labels(vectors, strength, labels)
    assert (newest.interest[MERGERS[5:]] > rank_by_labels(vectors, strength, {}).interest[MERGERS[5:]]).all()
    assert (newest.interest[list(range(50))] == -active_learning.LABELLED_INTEREST).all()
