"""Which labels are likely wrong: what learns from the other images is sure of another class."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.progress import track
from astrodetect.records import Floats

FOLDS = 5
FEWEST = 10  # images of a class, to say anything of it
LEARNT_AT_MOST = 20_000  # images a fold
SURE = 0.8  # a likelihood that suffices, however much surer the labels of a class are on average
WIDEST = 512  # columns: of more, what varies most is kept
KEPT = 256


@dataclass(frozen=True, slots=True)
class SuspectedMislabel:
    """An image whose label is doubted: by its place, with the class that it looks like and how likely both are."""

    index: int
    label: int
    suggested: int
    probability: float  # of the suggested class
    label_probability: float  # of its label


def find_mislabels(
    features: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 0
) -> list[SuspectedMislabel]:
    """The doubted labels, the surest first; images of one group are never learnt from to judge another of it.

    An image is doubted where another class is more likely than its own, and at least as likely as it is on average for
    the images that bear that class's label, or SURE.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    numbers = numbers[counts >= FEWEST]
    places = np.flatnonzero(np.isin(labels, numbers))
    if len(numbers) < 2 or len(np.unique(groups[places])) < FOLDS * 2:
        return []
    given = np.searchsorted(numbers, labels[places])
    likely = _out_of_fold(_narrowed(features[places]), given, groups[places], seed)
    usual = np.array([likely[given == number, number].mean() for number in range(len(numbers))])
    rows = np.arange(len(places))
    own = likely[rows, given]
    rival = np.where(likely >= np.minimum(usual, SURE), likely, -1.0)
    rival[rows, given] = -1.0
    best = rival.argmax(axis=1)
    margin = rival.max(axis=1) - own
    return [
        SuspectedMislabel(
            int(places[row]),
            int(labels[places[row]]),
            int(numbers[best[row]]),
            float(likely[row, best[row]]),
            float(own[row]),
        )
        for row in np.argsort(-margin, kind="stable")
        if margin[row] > 0
    ]


def _narrowed(features: Floats) -> Floats:
    from sklearn.decomposition import PCA  # noqa: PLC0415 - takes its time, and counting images needs none of it

    if features.shape[1] <= WIDEST:
        return features
    kept = PCA(min(KEPT, len(features) - 1), svd_solver="randomized", random_state=0)
    return np.asarray(kept.fit_transform(features), np.float32)


def _out_of_fold(
    features: Floats, given: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    """(n, classes): what models say of images that they have not learnt from."""
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415

    random = np.random.default_rng(seed)
    said = np.zeros((len(features), int(given.max()) + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer groups than folds
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        folds = [
            (random.permutation(learn)[:LEARNT_AT_MOST], held)
            for learn, held in splitter.split(features, given, groups)
        ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(lambda fold: _judge(features, given, *fold), folds)
        for (_, held), (known, probabilities) in zip(folds, track(work, "doubting labels", FOLDS), strict=True):
            said[np.ix_(held, known)] = probabilities
    return said


def _judge(
    features: Floats, given: NDArray[np.int64], learn: NDArray[np.int64], held: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The classes that were learnt, and the mean of what trees and a line through ranked features say."""
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    with threadpool_limits(
        1
    ):  # the folds take the cores; threads that wait for each other cost a hundred times as much
        models = [model.fit(features[learn], given[learn]) for model in _models(len(learn))]
        said = [model.predict_proba(features[held]) for model in models]
    return np.asarray(models[0].classes_), np.asarray(np.mean(said, axis=0))


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
