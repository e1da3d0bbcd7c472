"""What a ranking finds: figures of discovery, where ties are looked at in any order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import active_learning
from astrodetect.labels import INTERESTING, ORDINARY
from astrodetect.records import Floats

LOOKED_AT = 100
AT_A_TIME = 5  # images labelled before the ranking is made anew

Truth = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """How well a ranking puts what is unusual in front."""

    auroc: float
    auprc: float
    top_percent: float  # precision in the first hundredth
    per_100: float  # unusual images among the first 100
    recall_100: float  # share of all that are unusual
    recall_5_percent: float  # found in the first twentieth


def measure_ranking(unusual: Truth, scores: Floats) -> RankingMetrics:
    """The figures of this ranking."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # noqa: PLC0415

    hundred = expected_hits(unusual, scores, LOOKED_AT)
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
    """How many unusual images are expected among the first so many, where ties come in any order."""
    levels, place = np.unique(-scores.astype(np.float64), return_inverse=True)
    many = np.bincount(place, minlength=len(levels))
    hits = np.bincount(place, unusual, minlength=len(levels))
    taken = np.clip(first - (np.cumsum(many) - many), 0, many)
    return float((hits * taken / many).sum())


def hits_with_labels(unusual: Truth, vectors: Floats, strength: Floats, labels: int) -> float:
    """Unusual images among the first 100 that a person looks at, who labels the first so many of them."""
    given: dict[int, str] = {}
    while len(given) < labels:
        for image in active_learning.review_orders(vectors, strength, given, min(AT_A_TIME, labels - len(given)))[
            "interest"
        ]:
            given[image] = INTERESTING if unusual[image] else ORDINARY
    rest = active_learning.rank_by_labels(vectors, strength, given).interest.copy()
    rest[list(given)] = -np.inf
    order = np.argsort(-rest, kind="stable")[: LOOKED_AT - len(given)]
    return float(unusual[list(given)].sum() + unusual[order].sum())


def aggregate(rounds: list[Mapping[str, float]], take: Callable[[NDArray[np.float64]], float]) -> dict[str, float]:
    """Each figure over the rounds."""
    return {name: take(np.array([each[name] for each in rounds])) for name in rounds[0]}
