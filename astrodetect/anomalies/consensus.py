"""Consensus of several detectors: agreement, average ranks, and the overlap of their flags."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

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
