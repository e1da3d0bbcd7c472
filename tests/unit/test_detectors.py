"""Each detector of the unusual: as scikit-learn has it, one image alone as in company, and of plain data little."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from astrodetect.anomalies import consensus, neighbours
from astrodetect.anomalies.consensus import TailScore
from astrodetect.anomalies.detectors import dbscan, isolation_forest, kmeans
from astrodetect.anomalies.detectors.base import DetectorInput, FittableDetector, tukey_fence
from astrodetect.anomalies.detectors.dbscan import Dbscan
from astrodetect.anomalies.detectors.kmeans import KMeans
from astrodetect.anomalies.detectors.knn import Knn
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.mahalanobis import Mahalanobis
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.records import Floats

KINDS: list[type[FittableDetector]] = [Lof, Knn, Mahalanobis, isolation_forest.IsolationForest, KMeans, Dbscan]


def drawn(count: int, dimensions: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def learnt(points: Floats) -> DetectorInput:
    return DetectorInput(points, points, ReferencePoints(points), leave_one_out=True)


def new(points: Floats, reference: Floats) -> DetectorInput:
    return DetectorInput(points, points, ReferencePoints(reference))


@pytest.fixture(scope="module")
def usual() -> Floats:
    return drawn(700, 12)


@pytest.fixture(scope="module")
def strangers() -> Floats:
    """Some like the usual ones, some far off."""
    return np.concatenate([drawn(60, 12, seed=1), 4 * drawn(20, 12, seed=2), 300 * drawn(3, 12, seed=3)])


def test_neighbours_are_the_nearest_in_order_and_an_image_is_none_of_its_own(usual: Floats, strangers: Floats) -> None:
    exact = NearestNeighbors(n_neighbors=20).fit(usual.astype(np.float64))
    distances, places = exact.kneighbors(strangers.astype(np.float64))
    found = ReferencePoints(usual).nearest(strangers)
    assert np.array_equal(found.indices, places)
    assert np.allclose(found.distances, distances, rtol=1e-5)
    distances, places = exact.kneighbors()
    among = ReferencePoints(usual).leave_one_out()
    assert np.array_equal(among.indices, places)
    assert np.allclose(among.distances, distances, rtol=1e-5)


def test_lof_says_what_scikit_learn_says_of_new_images_and_of_those_learnt(usual: Floats, strangers: Floats) -> None:
    seen = learnt(usual)
    found = Lof.fit(seen)
    peer = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(usual.astype(np.float64))
    assert np.allclose(found.score(new(strangers, usual)), -peer.score_samples(strangers.astype(np.float64)), rtol=1e-4)
    assert np.allclose(found.score(seen), -peer.negative_outlier_factor_, rtol=1e-4)


def test_knn_is_the_mean_distance_to_the_five_nearest(usual: Floats, strangers: Floats) -> None:
    seen = learnt(usual)
    peer = NearestNeighbors(n_neighbors=5).fit(usual)
    assert np.allclose(Knn.fit(seen).score(new(strangers, usual)), peer.kneighbors(strangers)[0].mean(1), rtol=1e-4)
    assert np.allclose(Knn.fit(seen).score(seen), peer.kneighbors()[0].mean(1), rtol=1e-4)


def test_mahalanobis_says_what_scikit_learn_says(usual: Floats, strangers: Floats) -> None:
    peer = LedoitWolf().fit(usual.astype(np.float64))
    found = Mahalanobis.fit(learnt(usual)).score(new(strangers, usual))
    assert np.allclose(found**2, peer.mahalanobis(strangers.astype(np.float64)), rtol=1e-4)


def test_the_isolation_forest_says_what_scikit_learn_says(usual: Floats, strangers: Floats) -> None:
    peer = IsolationForest(
        n_estimators=isolation_forest.TREES, max_samples=isolation_forest.SAMPLE, random_state=isolation_forest.SEED
    )
    found = isolation_forest.IsolationForest.fit(learnt(usual)).score(new(strangers, usual))
    assert np.allclose(found, -peer.fit(usual).score_samples(strangers), rtol=1e-5)


def test_kmeans_flags_what_is_too_far_from_its_centre_and_what_is_too_near(usual: Floats) -> None:
    found = KMeans.fit(learnt(usual))
    near = np.sqrt(((usual[:, None] - found.centres) ** 2).sum(-1)).min(1)
    low, high = np.percentile(near, (25, 75))
    looked = np.concatenate([found.centres, 5 * usual[:50], usual])
    away = np.sqrt(((looked[:, None] - found.centres) ** 2).sum(-1)).min(1)
    outside = (away < low - 1.5 * (high - low)) | (away > high + 1.5 * (high - low))
    assert outside[: kmeans.CLUSTERS].all()
    assert outside[kmeans.CLUSTERS : kmeans.CLUSTERS + 50].all()
    assert not outside[kmeans.CLUSTERS + 50 :].all()
    assert np.array_equal(found.score(new(looked, usual)) > 2, outside)


def test_dbscan_calls_noise_what_scikit_learn_calls_noise(usual: Floats) -> None:
    points = np.concatenate([usual, 2.5 * drawn(30, 12, seed=4)])
    seen = learnt(points)
    found = Dbscan.fit(seen)
    peer = DBSCAN(eps=found.radius, min_samples=dbscan.MIN_NEIGHBOURS + 1).fit(points.astype(np.float64))
    noise = found.score(seen) > 1
    assert 5 < noise.sum() < 40
    assert np.array_equal(noise, peer.labels_ == -1)


@pytest.mark.parametrize("count", [60, 500, 3000])
@pytest.mark.parametrize("dimensions", [2, 10, 40])
@pytest.mark.parametrize("kind", ["one blob", "blobs", "uneven blobs", "uniform"])
def test_dbscan_calls_at_most_a_few_percent_of_plain_data_noise(count: int, dimensions: int, kind: str) -> None:
    random = np.random.default_rng(count + dimensions)
    points = random.normal(size=(count, dimensions))
    if kind == "uniform":
        points = random.uniform(size=points.shape)
    elif kind != "one blob":
        member = random.integers(0, 4, count)
        spread = np.array([0.3, 1, 1, 2] if kind == "uneven blobs" else [1, 1, 1, 1])
        points = points * spread[member, None] + 6 * random.normal(size=(4, dimensions))[member]
    seen = learnt(points.astype(np.float32))
    found = Dbscan.fit(seen)
    assert (found.score(seen) > 1).mean() <= 0.035


def test_dbscan_measures_to_the_nearest_core_image_where_all_neighbours_are_noise(usual: Floats) -> None:
    crowd = 100 + 30 * drawn(neighbours.MAX_NEIGHBOURS, 12, seed=5)  # noise, nearer to a stranger than any core image
    points = np.concatenate([usual, crowd])
    found = Dbscan.fit(learnt(points))
    assert not set(found.core.tolist()) & set(range(len(usual), len(points)))
    stranger = np.full((1, 12), 150, np.float32)
    away = np.linalg.norm(points[found.core] - stranger, axis=1).min()
    assert found.score(new(stranger, points))[0] == pytest.approx(away / found.radius, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_alone_scores_as_in_any_company(
    kind: type[FittableDetector], usual: Floats, strangers: Floats
) -> None:
    found = kind.fit(learnt(usual))
    together = found.score(new(strangers, usual))
    alone = np.concatenate([found.score(new(strangers[i : i + 1], usual)) for i in range(len(strangers))])
    backwards = found.score(new(strangers[::-1].copy(), usual))[::-1]
    assert np.array_equal(alone, together)
    assert np.array_equal(backwards, together)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_far_from_all_scores_above_the_usual(kind: type[FittableDetector], usual: Floats) -> None:
    found = kind.fit(learnt(usual))
    assert found.score(new(8 + drawn(20, 12, seed=6), usual)).min() > np.percentile(found.score(learnt(usual)), 99)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("points", [drawn(10, 3), np.concatenate([np.repeat(drawn(1, 5), 40, axis=0), drawn(60, 5)])])
def test_few_images_and_copies_of_one_give_numbers(kind: type[FittableDetector], points: Floats) -> None:
    found = kind.fit(learnt(points))
    for seen in (learnt(points), new(points, points), new(9 * points, points)):
        assert np.isfinite(found.score(seen)).all()


def test_copies_of_an_image_do_not_make_those_beside_them_the_most_unusual(usual: Floats) -> None:
    points = np.concatenate([usual, np.repeat(usual[:1], 40, axis=0), np.full((1, 12), 6, np.float32)])
    scores = Lof.fit(learnt(points)).score(learnt(points))
    assert scores.argmax() == len(points) - 1


def test_surprise_is_the_logarithm_of_the_share_above_and_goes_on_beyond_all() -> None:
    scores = np.random.default_rng(0).exponential(2, 5000).astype(np.float32)
    surprise = TailScore.fit(scores)
    looked = np.linspace(0.1, 60, 500, dtype=np.float32)
    found = surprise.transform(looked)
    assert (np.diff(found) > 0).all()
    inside = looked < 8
    share = np.array([(scores > each).mean() for each in looked[inside]])
    assert np.allclose(found[inside], -np.log10(share), atol=0.02)
    assert found[-1] == pytest.approx(60 / 2 * np.log10(np.e), rel=0.1)  # as an exponential law goes on


def test_scores_that_are_all_alike_still_tell_a_larger_one() -> None:
    surprise = TailScore.fit(np.ones(30, np.float32))
    assert surprise.transform(np.array([1, 2], np.float32))[1] > surprise.transform(np.array([1], np.float32))[0]


def test_the_fence_is_that_of_a_box_plot() -> None:
    assert tukey_fence(np.arange(101, dtype=np.float32)) == 75 + 1.5 * 50


def test_consensus_counts_ranks_and_compares() -> None:
    flagged = {"a": np.array([True, True, False, False]), "b": np.array([True, False, True, False])}
    assert consensus.unanimous(flagged).tolist() == [True, False, False, False]
    assert consensus.agreement(flagged).tolist() == [1, 0.5, 0.5, 0]
    assert consensus.jaccard_indices(flagged) == {("a", "b"): pytest.approx(1 / 3)}
    scores = {"a": np.array([3, 1, 2], np.float32), "b": np.array([30, 20, 20], np.float32)}
    assert consensus.ranks(scores["a"]).tolist() == [1, 3, 2]
    assert consensus.average_rank(scores).tolist() == [1, 2.5, 2.5]


def test_detectors_that_flag_nothing_agree() -> None:
    assert consensus.jaccard_indices({"a": np.zeros(3, bool), "b": np.zeros(3, bool)}) == {("a", "b"): 1}
