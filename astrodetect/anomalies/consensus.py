"""What several detectors say together."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

Flags = Mapping[str, NDArray[np.bool_]]


def unanimous(flagged: Flags) -> NDArray[np.bool_]:
    """(n,) whether all of them flag the image."""
    return np.asarray(np.all(list(flagged.values()), axis=0))


def agreement(flagged: Flags) -> Floats:
    """(n,) the share of them that flag the image."""
    return np.asarray(np.mean(list(flagged.values()), axis=0, dtype=np.float32))


def ranks(scores: Floats) -> NDArray[np.int64]:
    """(n,) 1 for the most unusual image; of equal ones the first comes first."""
    found = np.empty(len(scores), np.int64)
    found[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return found


def average_rank(scores: Mapping[str, Floats]) -> Floats:
    """(n,) the mean of the detectors' ranks: small where they find an image unusual together."""
    return np.asarray(np.mean([ranks(each) for each in scores.values()], axis=0, dtype=np.float32))


def jaccard_indices(flagged: Flags) -> dict[tuple[str, str], float]:
    """Of each two detectors: of the images that either flags, the share that both do; 1 where neither flags any."""
    return {
        (one, other): float((flagged[one] & flagged[other]).sum() / either)
        if (either := _either(flagged, one, other))
        else 1.0
        for one, other in combinations(flagged, 2)
    }


def _either(flagged: Flags, one: str, other: str) -> int:
    return int((flagged[one] | flagged[other]).sum())


TAIL = 0.1  # share of the scores that says how the rest falls off
LEAST_SLOPE_SHARE = 1e-3  # of the largest score: the tail of scores that are all alike


@dataclass(frozen=True, slots=True)
class TailScore:
    """−log10 of the share of learnt scores that are larger; beyond them all, as the tail falls off: exponentially."""

    scores: NDArray[np.float64]  # in order, each once
    surprise: NDArray[np.float64]
    slope: float  # per unit of score, beyond the largest

    @classmethod
    def fit(cls, learnt: Floats) -> Self:
        """By the scores of images learnt from."""
        ordered = np.sort(learnt.astype(np.float64))
        scores, first, count = np.unique(ordered, return_index=True, return_counts=True)
        larger = (len(ordered) - first - count / 2) / len(ordered)  # those that are equal count half
        top = ordered[-max(2, round(TAIL * len(ordered))) :]
        mean_excess = max(float((top - top[0]).mean()), LEAST_SLOPE_SHARE * (abs(float(ordered[-1])) or 1.0))
        return cls(scores, -np.log10(larger), float(np.log10(np.e)) / mean_excess)

    def of(self, scores: Floats) -> NDArray[np.float64]:
        """Larger for a larger score, without bound."""
        beyond = np.maximum(scores.astype(np.float64) - self.scores[-1], 0)
        return np.asarray(np.interp(scores, self.scores, self.surprise) + self.slope * beyond)
