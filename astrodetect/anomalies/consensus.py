"""What several detectors say together."""

from collections.abc import Mapping
from itertools import combinations

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
