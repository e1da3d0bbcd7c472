"""Detectors agree with scikit-learn, do not depend on batch composition, and flag few inliers."""

import numpy as np
import pytest
from sklearn.cluster import DBSCAN
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from astrodetect.anomalies import consensus
from astrodetect.anomalies.conformal import TailScore
from astrodetect.anomalies.detectors import base, dbscan, isolation_forest, kmeans
from astrodetect.anomalies.detectors.base import DetectorInput, FittableDetector, ReferencePoints, tukey_fence
from astrodetect.anomalies.detectors.dbscan import Dbscan
from astrodetect.anomalies.detectors.kmeans import KMeans
from astrodetect.anomalies.detectors.knn import Knn
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.mahalanobis import Mahalanobis
from astrodetect.anomalies.detectors.registry import GENERAL_DETECTORS
from astrodetect.records import Floats

DETECTORS = list(GENERAL_DETECTORS.values())


def normal_sample(count: int, dimensions: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def training_input(points: Floats) -> DetectorInput:
    return DetectorInput(points, points, ReferencePoints(points), leave_one_out=True)


def new_input(points: Floats, reference: Floats) -> DetectorInput:
    return DetectorInput(points, points, ReferencePoints(reference))


@pytest.fixture(scope="module")
def inliers() -> Floats:
    return normal_sample(700, 12)


@pytest.fixture(scope="module")
def outliers() -> Floats:
    """New inliers, moderate outliers and extreme ones."""
    return np.concatenate(
        [normal_sample(60, 12, seed=1), 4 * normal_sample(20, 12, seed=2), 300 * normal_sample(3, 12, seed=3)]
    )


def test_neighbours_match_scikit_learn_with_and_without_leave_one_out(inliers: Floats, outliers: Floats) -> None:
    exact = NearestNeighbors(n_neighbors=20).fit(inliers.astype(np.float64))
    distances, indices = exact.kneighbors(outliers.astype(np.float64))
    nearest = ReferencePoints(inliers).nearest(outliers)
    assert np.array_equal(nearest.indices, indices)
    assert np.allclose(nearest.distances, distances, rtol=1e-5)
    distances, indices = exact.kneighbors()
    leave_one_out = ReferencePoints(inliers).leave_one_out()
    assert np.array_equal(leave_one_out.indices, indices)
    assert np.allclose(leave_one_out.distances, distances, rtol=1e-5)


def test_lof_matches_scikit_learn_on_new_and_training_images(inliers: Floats, outliers: Floats) -> None:
    training = training_input(inliers)
    fitted = Lof.fit(training)
    reference = LocalOutlierFactor(n_neighbors=20, novelty=True).fit(inliers.astype(np.float64))
    assert np.allclose(
        fitted.score(new_input(outliers, inliers)), -reference.score_samples(outliers.astype(np.float64)), rtol=1e-4
    )
    assert np.allclose(fitted.score(training), -reference.negative_outlier_factor_, rtol=1e-4)


def test_knn_score_is_the_mean_distance_to_the_five_nearest(inliers: Floats, outliers: Floats) -> None:
    training = training_input(inliers)
    reference = NearestNeighbors(n_neighbors=5).fit(inliers)
    assert np.allclose(
        Knn.fit(training).score(new_input(outliers, inliers)), reference.kneighbors(outliers)[0].mean(1), rtol=1e-4
    )
    assert np.allclose(Knn.fit(training).score(training), reference.kneighbors()[0].mean(1), rtol=1e-4)


def test_mahalanobis_matches_scikit_learn(inliers: Floats, outliers: Floats) -> None:
    reference = LedoitWolf().fit(inliers.astype(np.float64))
    scores = Mahalanobis.fit(training_input(inliers)).score(new_input(outliers, inliers))
    assert np.allclose(scores**2, reference.mahalanobis(outliers.astype(np.float64)), rtol=1e-4)


def test_isolation_forest_matches_scikit_learn(inliers: Floats, outliers: Floats) -> None:
    reference = IsolationForest(
        n_estimators=isolation_forest.TREES, max_samples=isolation_forest.SAMPLE, random_state=isolation_forest.SEED
    )
    scores = isolation_forest.IsolationForest.fit(training_input(inliers)).score(new_input(outliers, inliers))
    assert np.allclose(scores, -reference.fit(inliers).score_samples(outliers), rtol=1e-5)


def test_kmeans_flags_distances_beyond_both_whiskers(inliers: Floats) -> None:
    fitted = KMeans.fit(training_input(inliers))
    training_distances = np.sqrt(((inliers[:, None] - fitted.centres) ** 2).sum(-1)).min(1)
    low, high = np.percentile(training_distances, (25, 75))
    images = np.concatenate([fitted.centres, 5 * inliers[:50], inliers])
    distances = np.sqrt(((images[:, None] - fitted.centres) ** 2).sum(-1)).min(1)
    outside = (distances < low - 1.5 * (high - low)) | (distances > high + 1.5 * (high - low))
    assert outside[: kmeans.CLUSTERS].all()
    assert outside[kmeans.CLUSTERS : kmeans.CLUSTERS + 50].all()
    assert not outside[kmeans.CLUSTERS + 50 :].all()
    assert np.array_equal(fitted.score(new_input(images, inliers)) > 2, outside)


def test_dbscan_noise_matches_scikit_learn(inliers: Floats) -> None:
    points = np.concatenate([inliers, 2.5 * normal_sample(30, 12, seed=4)])
    training = training_input(points)
    fitted = Dbscan.fit(training)
    reference = DBSCAN(eps=fitted.radius, min_samples=dbscan.MIN_NEIGHBOURS + 1).fit(points.astype(np.float64))
    noise = fitted.score(training) > 1
    assert 5 < noise.sum() < 40
    assert np.array_equal(noise, reference.labels_ == -1)


@pytest.mark.parametrize("count", [60, 500, 3000])
@pytest.mark.parametrize("dimensions", [2, 10, 40])
@pytest.mark.parametrize("kind", ["one blob", "blobs", "uneven blobs", "uniform"])
def test_dbscan_flags_at_most_a_few_percent_of_data_without_outliers(count: int, dimensions: int, kind: str) -> None:
    random = np.random.default_rng(count + dimensions)
    points = random.normal(size=(count, dimensions))
    if kind == "uniform":
        points = random.uniform(size=points.shape)
    elif kind != "one blob":
        member = random.integers(0, 4, count)
        spread = np.array([0.3, 1, 1, 2] if kind == "uneven blobs" else [1, 1, 1, 1])
        points = points * spread[member, None] + 6 * random.normal(size=(4, dimensions))[member]
    training = training_input(points.astype(np.float32))
    fitted = Dbscan.fit(training)
    assert (fitted.score(training) > 1).mean() <= 0.035


def test_dbscan_searches_all_core_points_if_all_neighbours_are_noise(inliers: Floats) -> None:
    # Noise, nearer to the isolated point than any core point.
    noise_points = 100 + 30 * normal_sample(base.MAX_NEIGHBOURS, 12, seed=5)
    points = np.concatenate([inliers, noise_points])
    fitted = Dbscan.fit(training_input(points))
    assert not set(fitted.core.tolist()) & set(range(len(inliers), len(points)))
    isolated = np.full((1, 12), 150, np.float32)
    distances = np.linalg.norm(points[fitted.core] - isolated, axis=1).min()
    assert fitted.score(new_input(isolated, points))[0] == pytest.approx(distances / fitted.radius, rel=1e-5)


@pytest.mark.parametrize("detector", DETECTORS)
def test_batch_composition_does_not_change_detector_scores(
    detector: type[FittableDetector], inliers: Floats, outliers: Floats
) -> None:
    fitted = detector.fit(training_input(inliers))
    together = fitted.score(new_input(outliers, inliers))
    alone = np.concatenate([fitted.score(new_input(outliers[i : i + 1], inliers)) for i in range(len(outliers))])
    backwards = fitted.score(new_input(outliers[::-1].copy(), inliers))[::-1]
    assert np.array_equal(alone, together)
    assert np.array_equal(backwards, together)


@pytest.mark.parametrize("detector", DETECTORS)
def test_distant_images_score_above_inliers(detector: type[FittableDetector], inliers: Floats) -> None:
    fitted = detector.fit(training_input(inliers))
    assert fitted.score(new_input(8 + normal_sample(20, 12, seed=6), inliers)).min() > np.percentile(
        fitted.score(training_input(inliers)), 99
    )


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    "points", [normal_sample(10, 3), np.concatenate([np.repeat(normal_sample(1, 5), 40, axis=0), normal_sample(60, 5)])]
)
def test_detector_scores_are_finite_for_few_images_and_duplicates(
    detector: type[FittableDetector], points: Floats
) -> None:
    fitted = detector.fit(training_input(points))
    for images in (training_input(points), new_input(points, points), new_input(9 * points, points)):
        assert np.isfinite(fitted.score(images)).all()


def test_lof_does_not_flag_images_near_duplicates(inliers: Floats) -> None:
    points = np.concatenate([inliers, np.repeat(inliers[:1], 40, axis=0), np.full((1, 12), 6, np.float32)])
    scores = Lof.fit(training_input(points)).score(training_input(points))
    assert scores.argmax() == len(points) - 1


def test_tail_score_is_the_log_tail_probability_with_exponential_extrapolation() -> None:
    scores = np.random.default_rng(0).exponential(2, 5000).astype(np.float32)
    tail_score = TailScore.fit(scores)
    new_scores = np.linspace(0.1, 60, 500, dtype=np.float32)
    transformed = tail_score.transform(new_scores)
    assert (np.diff(transformed) > 0).all()
    inside = new_scores < 8
    share = np.array([(scores > score).mean() for score in new_scores[inside]])
    assert np.allclose(transformed[inside], -np.log10(share), atol=0.05)
    assert transformed[-1] == pytest.approx(60 / 2 * np.log10(np.e), rel=0.1)  # the exponential tail


def test_tail_score_of_equal_training_scores_is_monotonic() -> None:
    tail_score = TailScore.fit(np.ones(30, np.float32))
    assert tail_score.transform(np.array([1, 2], np.float32))[1] > tail_score.transform(np.array([1], np.float32))[0]


def test_tukey_fence_is_q3_plus_one_and_a_half_iqr() -> None:
    assert tukey_fence(np.arange(101, dtype=np.float32)) == 75 + 1.5 * 50


def test_consensus_agreement_jaccard_indices_and_ranks() -> None:
    flagged = {"a": np.array([True, True, False, False]), "b": np.array([True, False, True, False])}
    assert consensus.unanimous(flagged).tolist() == [True, False, False, False]
    assert consensus.agreement(flagged).tolist() == [1, 0.5, 0.5, 0]
    assert consensus.jaccard_indices(flagged) == {("a", "b"): pytest.approx(1 / 3)}
    scores = {"a": np.array([3, 1, 2], np.float32), "b": np.array([30, 20, 20], np.float32)}
    assert consensus.ranks(scores["a"]).tolist() == [1, 3, 2]
    assert consensus.average_rank(scores).tolist() == [1, 2.5, 2.5]


def test_jaccard_index_of_no_flags_is_one() -> None:
    assert consensus.jaccard_indices({"a": np.zeros(3, bool), "b": np.zeros(3, bool)}) == {("a", "b"): 1}
