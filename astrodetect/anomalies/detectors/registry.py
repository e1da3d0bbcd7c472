"""The detectors by name. A new detector is a module of this package and an entry here; the command line, fitting and
loading derive from it."""

from collections.abc import Mapping

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.detectors.base import Detector, FittableDetector
from astrodetect.anomalies.detectors.dbscan import Dbscan
from astrodetect.anomalies.detectors.isolation_forest import IsolationForest
from astrodetect.anomalies.detectors.kmeans import KMeans
from astrodetect.anomalies.detectors.knn import Knn
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.mahalanobis import Mahalanobis

FITTABLE_DETECTORS: Mapping[str, type[FittableDetector]] = {
    detector.name: detector for detector in (Lof, Knn, Mahalanobis, IsolationForest, KMeans, Dbscan)
}
# The autoencoder is trained by Keras, in `learning`, and handed over as arrays.
DETECTORS: Mapping[str, type[Detector]] = {**FITTABLE_DETECTORS, Autoencoder.name: Autoencoder}
DEFAULT_DETECTORS = (Lof.name, Knn.name, Mahalanobis.name)
RANKING_DETECTORS = (Lof.name,)  # averaged for the ranking: alone the best, on simulated skies and on Galaxy Zoo
