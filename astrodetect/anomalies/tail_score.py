"""Scores of different detectors on one scale: how rare an image with a larger score is."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

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
