"""The detectors by name. A new detector is a module of this package and an entry here; the command line, fitting and
loading derive from it."""

from collections.abc import Collection, Mapping

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.detectors.base import Detector, FittableDetector
from astrodetect.anomalies.detectors.dbscan import Dbscan
from astrodetect.anomalies.detectors.isolation_forest import IsolationForest
from astrodetect.anomalies.detectors.kmeans import KMeans
from astrodetect.anomalies.detectors.knn import Knn
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.mahalanobis import Mahalanobis
from astrodetect.anomalies.detectors.views import AsymmetryView, ColourView, CutoutView, ObjectView
from astrodetect.features.central_object import FeatureKind

# Of measured features alone.
VIEWS: Mapping[str, type[FittableDetector]] = {
    view.name: view for view in (ObjectView, CutoutView, AsymmetryView, ColourView)
}
# Of features of any kind.
GENERAL_DETECTORS: Mapping[str, type[FittableDetector]] = {
    detector.name: detector for detector in (Lof, Knn, Mahalanobis, IsolationForest, KMeans, Dbscan)
}
FITTABLE_DETECTORS = {**VIEWS, **GENERAL_DETECTORS}
# The autoencoder is trained by Keras, in `learning`, and handed over as arrays.
DETECTORS: Mapping[str, type[Detector]] = {**FITTABLE_DETECTORS, Autoencoder.name: Autoencoder}
# Weights of the tail scores in the ranking, chosen on half of Galaxy Zoo; a detector that is not named has 1.
RANKING_WEIGHTS = {ObjectView.name: 1.0, CutoutView.name: 1.0, AsymmetryView.name: 1.5, ColourView.name: 0.5}


def default_detectors(kind: FeatureKind) -> tuple[str, ...]:
    """The names of the detectors that are fitted unless others are named."""
    return tuple(VIEWS) if kind == "shapes" else (Lof.name, Knn.name, Mahalanobis.name)


def available_detectors(kind: FeatureKind) -> tuple[str, ...]:
    """The names of the detectors that can be fitted to features of this kind."""
    return tuple(FITTABLE_DETECTORS if kind == "shapes" else GENERAL_DETECTORS)


def ranking_detectors(names: Collection[str]) -> tuple[str, ...]:
    """Which of these detectors rank: the views; without any LOF, which ranks best alone; without it all."""
    for preferred in (tuple(VIEWS), (Lof.name,)):
        if ranking := tuple(name for name in preferred if name in names):
            return ranking
    return tuple(names)
