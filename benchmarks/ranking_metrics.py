"""Metrics of anomaly rankings; ties are broken at random, in expectation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import active_learning
from astrodetect.labels import INTERESTING, ORDINARY
from astrodetect.records import Floats

REVIEWED = 100
LABEL_BATCH = 5  # images labelled between two rankings

Truth = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """How well a ranking puts the anomalies first."""

    auroc: float
    auprc: float
    top_percent: float  # precision in the first percent
    per_100: float  # anomalies among the first 100
    recall_100: float  # recall in the first 100
    recall_5_percent: float  # recall in the first 5 %


def measure_ranking(unusual: Truth, scores: Floats) -> RankingMetrics:
    """The metrics of a ranking by score, highest first."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415

    hundred = expected_hits(unusual, scores, REVIEWED)
    percent = max(1, round(len(unusual) / 100))
    return RankingMetrics(
        auroc=float(roc_auc_score(unusual, scores)),
        auprc=float(average_precision_score(unusual, scores)),
        top_percent=expected_hits(unusual, scores, percent) / percent,
        per_100=hundred,
        recall_100=hundred / float(unusual.sum()),
        recall_5_percent=expected_hits(unusual, scores, max(1, round(len(unusual) / 20))) / float(unusual.sum()),
    )


def expected_hits(unusual: Truth, scores: Floats, first: int) -> float:
    """The expected number of anomalies among the first `first` images, with ties in random order."""
    levels, level = np.unique(-scores.astype(np.float64), return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    hits = np.bincount(level, unusual, minlength=len(levels))
    taken = np.clip(first - (np.cumsum(counts) - counts), 0, counts)
    return float((hits * taken / counts).sum())


def hits_with_labels(unusual: Truth, vectors: Floats, strength: Floats, labels: int) -> float:
    """Anomalies among the first 100 images reviewed, with active learning from labels of the first `labels`."""
    labelled: dict[int, str] = {}
    while len(labelled) < labels:
        for image in active_learning.review_orders(
            vectors, strength, labelled, min(LABEL_BATCH, labels - len(labelled))
        )["interest"]:
            labelled[image] = INTERESTING if unusual[image] else ORDINARY
    interest = active_learning.rank_by_labels(vectors, strength, labelled).interest.copy()
    interest[list(labelled)] = -np.inf
    order = np.argsort(-interest, kind="stable")[: REVIEWED - len(labelled)]
    return float(unusual[list(labelled)].sum() + unusual[order].sum())


def aggregate(rounds: list[Mapping[str, float]], take: Callable[[NDArray[np.float64]], float]) -> dict[str, float]:
    """Apply a statistic to each metric over the rounds."""
    return {name: take(np.array([metrics[name] for metrics in rounds])) for name in rounds[0]}
