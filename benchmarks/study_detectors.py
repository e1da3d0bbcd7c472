"""The unsupervised study's own three methods and their consensus, faults and all; not the ImageNet features it had."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import tukey_fence
from astrodetect.records import Floats

CLUSTERS = 10
NEIGHBOURS = 5
WHISKER = 1.5  # interquartile ranges

AUTOENCODER, KMEANS, DBSCAN, CONSENSUS = "autoencoder", "K-means", "DBSCAN", "consensus"


def study_scores(features: Floats, *, epochs: int, seed: int) -> Mapping[str, Floats]:
    """How unusual each method calls each image, larger is more; DBSCAN and the consensus say no more than yes or no."""
    from sklearn import cluster  # noqa: PLC0415
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    standard = StandardScaler().fit_transform(features)
    lost = losses(features, epochs=epochs, seed=seed)
    distance = cluster.KMeans(CLUSTERS, n_init=10, random_state=seed).fit_transform(standard).min(axis=1)
    near, _ = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(standard).kneighbors(standard)
    noise = cluster.DBSCAN(eps=float(np.median(near[:, -1])), min_samples=NEIGHBOURS).fit_predict(standard) == -1
    agreed = (lost > tukey_fence(lost)) & outside(distance) & noise
    return {
        AUTOENCODER: lost,
        KMEANS: np.abs(distance - np.median(distance)),
        DBSCAN: noise.astype(np.float32),
        CONSENSUS: agreed.astype(np.float32),
    }


def losses(features: Floats, *, epochs: int, seed: int) -> Floats:
    """What the autoencoder, fitted on them, loses of each image."""
    from astrodetect.anomalies.detectors.base import DetectorInput  # noqa: PLC0415
    from astrodetect.anomalies.neighbours import ReferencePoints  # noqa: PLC0415
    from astrodetect.learning import autoencoder  # noqa: PLC0415

    fitted = autoencoder.fit_autoencoder(features, epochs=epochs, seed=seed)
    return fitted.score(DetectorInput(features, features, ReferencePoints(features)))


def outside(distance: Floats) -> NDArray[np.bool_]:
    """Beyond either fence of a box plot."""
    low, high = np.percentile(distance, (25, 75))
    return np.asarray((distance < low - WHISKER * (high - low)) | (distance > high + WHISKER * (high - low)))
