"""The three detectors of the unsupervised study and their consensus, reproduced with their flaws, as baselines."""

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
    """Anomaly scores by method, higher is more anomalous; those of DBSCAN and the consensus are binary."""
    from sklearn import cluster  # noqa: PLC0415
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    standard = StandardScaler().fit_transform(features)
    error = reconstruction_errors(features, epochs=epochs, seed=seed)
    distance = cluster.KMeans(CLUSTERS, n_init=10, random_state=seed).fit_transform(standard).min(axis=1)
    near, _ = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(standard).kneighbors(standard)
    noise = cluster.DBSCAN(eps=float(np.median(near[:, -1])), min_samples=NEIGHBOURS).fit_predict(standard) == -1
    consensus = (error > tukey_fence(error)) & beyond_fences(distance) & noise
    return {
        AUTOENCODER: error,
        KMEANS: np.abs(distance - np.median(distance)),
        DBSCAN: noise.astype(np.float32),
        CONSENSUS: consensus.astype(np.float32),
    }


def reconstruction_errors(features: Floats, *, epochs: int, seed: int) -> Floats:
    """Reconstruction errors of an autoencoder fitted to the same features."""
    from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints  # noqa: PLC0415
    from astrodetect.learning import autoencoder  # noqa: PLC0415

    fitted = autoencoder.fit_autoencoder(features, epochs=epochs, seed=seed)
    return fitted.score(DetectorInput(features, features, ReferencePoints(features)))


def beyond_fences(distance: Floats) -> NDArray[np.bool_]:
    """Whether beyond either Tukey fence."""
    low, high = np.percentile(distance, (25, 75))
    return np.asarray((distance < low - WHISKER * (high - low)) | (distance > high + WHISKER * (high - low)))
