"""Probable label errors, found by confident learning: out-of-fold predicted probabilities contradict the label."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.progress import track_progress
from astrodetect.records import Floats

FOLDS, SEED = 5, 0
MIN_CLASS_IMAGES = 10  # smaller classes are not checked
MAX_TRAINING_IMAGES = 20_000  # per fold
CONFIDENT = 0.8  # probability that suffices, even if the class's own images average a higher one
MAX_FEATURES = 512  # from more columns, principal components are used
PCA_COMPONENTS = 256


@dataclass(frozen=True, slots=True)
class SuspectedMislabel:
    """Index of an image whose label is doubtful, the suggested class, and the out-of-fold probabilities of both."""

    index: int
    label: int
    suggested: int
    probability: float  # of the suggested class
    label_probability: float


def find_mislabels(features: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> list[SuspectedMislabel]:
    """Suspected label errors, the largest probability margin first; images of one group share a fold.

    A label is suspect if another class is more probable and reaches the class threshold of confident learning (the mean
    out-of-fold probability of that class over the images labelled so), or CONFIDENT.
    """
    class_ids, counts = np.unique(labels, return_counts=True)
    class_ids = class_ids[counts >= MIN_CLASS_IMAGES]
    indices = np.flatnonzero(np.isin(labels, class_ids))
    if len(class_ids) < 2 or len(np.unique(groups[indices])) < FOLDS * 2:
        return []
    targets = np.searchsorted(class_ids, labels[indices])
    probabilities = _out_of_fold(_reduce(features[indices]), targets, groups[indices])
    mean_confidence = np.array([probabilities[targets == k, k].mean() for k in range(len(class_ids))])
    rows = np.arange(len(indices))
    label_probability = probabilities[rows, targets]
    rival = np.where(probabilities >= np.minimum(mean_confidence, CONFIDENT), probabilities, -1.0)
    rival[rows, targets] = -1.0
    best = rival.argmax(axis=1)
    margin = rival.max(axis=1) - label_probability
    return [
        SuspectedMislabel(
            int(indices[row]),
            int(labels[indices[row]]),
            int(class_ids[best[row]]),
            float(probabilities[row, best[row]]),
            float(label_probability[row]),
        )
        for row in np.argsort(-margin, kind="stable")
        if margin[row] > 0
    ]


def _reduce(features: Floats) -> Floats:
    from sklearn.decomposition import PCA  # noqa: PLC0415 - slow to import, and only label checks need it

    if features.shape[1] <= MAX_FEATURES:
        return features
    pca = PCA(min(PCA_COMPONENTS, len(features) - 1), svd_solver="randomized", random_state=0)
    return np.asarray(pca.fit_transform(features), np.float32)


def _out_of_fold(features: Floats, targets: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, classes): predicted probabilities from models that were not trained on the image or its group."""
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415

    rng = np.random.default_rng(SEED)
    probabilities = np.zeros((len(features), int(targets.max()) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer groups than folds
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
        folds = [
            (rng.permutation(train)[:MAX_TRAINING_IMAGES], held_out)
            for train, held_out in splitter.split(features, targets, groups)
        ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda fold: _fit_predict(features, targets, *fold), folds)
        for (_, held_out), (columns, predicted) in zip(
            folds, track_progress(results, "checking labels", FOLDS), strict=True
        ):
            probabilities[np.ix_(held_out, columns)] = predicted
    return probabilities


def _fit_predict(
    features: Floats, targets: NDArray[np.int64], train: NDArray[np.int64], held_out: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The classes in the training fold, and the mean probabilities of boosted trees and logistic regression."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with threadpool_limits(1):  # folds run in parallel: nested thread pools would be a hundred times slower
        models = [model.fit(features[train], targets[train]) for model in _models(len(train))]
        predicted = [model.predict_proba(features[held_out]) for model in models]
    return np.asarray(models[0].classes_), np.asarray(np.mean(predicted, axis=0))


def _models(count: int) -> list[Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import QuantileTransformer  # noqa: PLC0415

    trees = HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=8,
        max_features=0.2,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
    )
    ranks = QuantileTransformer(n_quantiles=min(200, count), output_distribution="normal", random_state=0)
    return [trees, make_pipeline(ranks, LogisticRegression(C=0.005, max_iter=300))]
