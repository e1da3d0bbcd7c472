"""What was found about the images of a run, for its table and its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import consensus
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.anomalies.projection import Projection
from astrodetect.records import Floats


@dataclass(frozen=True, slots=True)
class AnomalyResults:
    """How unusual each image is, where it lies on the map, and what people said of some."""

    paths: Sequence[Path]
    labels: Sequence[str]  # empty where there is none
    sha256: Sequence[str]  # of the files
    looked: NoveltyResult
    flat: Projection
    told: Mapping[int, str]  # image → what a person called it
    interest: Floats | None  # what was learnt from that; None where nothing was told
    skipped: Sequence[tuple[Path, str]]  # files that are no images, and why

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The detectors."""
        return tuple(self.looked.scores)

    @property
    def order(self) -> NDArray[np.int64]:
        """The images, the first one to look at first."""
        return order_images(self.looked.strength, self.interest)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Of each image its place in that order, from 1."""
        found = np.empty(len(self), np.int64)
        found[self.order] = np.arange(1, len(self) + 1)
        return found

    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """Of each detector: which place it gives each image, from 1."""
        return {name: consensus.ranks(scores) for name, scores in self.looked.scores.items()}

    def flagged_by(self) -> dict[str, NDArray[np.bool_]]:
        """By each detector, and by all of them."""
        return {**self.looked.flagged, "consensus": self.looked.consensus}


def order_images(strength: Floats, interest: Floats | None) -> NDArray[np.int64]:
    """Images by interest where there is any, and by strength where that is equal."""
    return np.lexsort((-strength,) if interest is None else (-strength, -interest))
