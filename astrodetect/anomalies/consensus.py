"""Combining detectors: agreement and ranks, and tail scores that put scores of different detectors on one scale."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

TAIL_SHARE = 0.1  # the share of the largest scores that the exponential tail is fitted to
MIN_MEAN_EXCESS_SHARE = 1e-3  # of the largest score, for a tail of equal scores

Flags = Mapping[str, NDArray[np.bool_]]


def unanimous(flagged: Flags) -> NDArray[np.bool_]:
    """(n,) whether all detectors flag the image."""
    return np.asarray(np.all(list(flagged.values()), axis=0))


def agreement(flagged: Flags) -> Floats:
    """(n,) the share of the detectors that flag the image."""
    return np.asarray(np.mean(list(flagged.values()), axis=0, dtype=np.float32))


def ranks(scores: Floats) -> NDArray[np.int64]:
    """(n,) 1 for the most unusual image; ties in their order."""
    positions = np.empty(len(scores), np.int64)
    positions[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return positions


def average_rank(scores: Mapping[str, Floats]) -> Floats:
    """(n,) the mean of the detectors' ranks; small is unusual."""
    return np.asarray(np.mean([ranks(detector) for detector in scores.values()], axis=0, dtype=np.float32))


def jaccard_indices(flagged: Flags) -> dict[tuple[str, str], float]:
    """The Jaccard index of the images that each pair of detectors flags; 1 where neither flags any."""
    return {(a, b): _jaccard_index(flagged[a], flagged[b]) for a, b in combinations(flagged, 2)}


def _jaccard_index(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


@dataclass(frozen=True, slots=True)
class TailScore:
    """−log10 of the empirical tail probability; beyond the largest training score, of an exponential tail."""

    scores: NDArray[np.float64]  # distinct, ascending
    tail_scores: NDArray[np.float64]
    slope: float  # per unit of score, beyond the largest

    @classmethod
    def fit(cls, training_scores: Floats) -> Self:
        """Fit to the scores of the training images."""
        ordered = np.sort(training_scores.astype(np.float64))
        scores, first, count = np.unique(ordered, return_index=True, return_counts=True)
        tail_probability = (len(ordered) - first - count / 2) / len(ordered)  # ties count half
        tail = ordered[-max(2, round(TAIL_SHARE * len(ordered))) :]
        mean_excess = max(float((tail - tail[0]).mean()), MIN_MEAN_EXCESS_SHARE * (abs(float(ordered[-1])) or 1.0))
        return cls(scores, -np.log10(tail_probability), float(np.log10(np.e)) / mean_excess)

    def transform(self, scores: Floats) -> NDArray[np.float64]:
        """The tail score of each score; monotonic and unbounded."""
        excess = np.maximum(scores.astype(np.float64) - self.scores[-1], 0)
        return np.asarray(np.interp(scores, self.scores, self.tail_scores) + self.slope * excess)
