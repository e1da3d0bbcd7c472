"""The novelty of a batch of images, as detectors give it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.conformal import StrengthCalibration
from astrodetect.anomalies.consensus import agreement, unanimous
from astrodetect.anomalies.detectors.registry import VIEWS
from astrodetect.records import Floats


@dataclass(frozen=True, slots=True)
class NoveltyResult:
    """The novelty of a batch of images, along the first axis."""

    novelty: Floats  # 0 to 1: the share of the training images that are less unusual
    strength: Floats  # what the ranking sorts by: −log10 of the p-value; unbounded
    statistic: Floats  # the weighted mean tail score of the ranking detectors, which the p-value is of
    domain_statistic: Floats  # the part of it that decides on the domain
    vectors: Floats  # (n, dimensions) whitened features
    scores: Mapping[str, Floats]  # by detector; larger is more unusual
    flagged: Mapping[str, NDArray[np.bool_]]  # by detector: the score is above its limit
    leading: NDArray[np.int8]  # index in `scores` of the ranking detector that contributes the most to the statistic
    in_domain: NDArray[np.bool_] | None = None  # None of detectors without a limit for it
    features: Floats | None = None  # (n, width) measured features, where the detectors get these alone

    def view(self, image: int) -> str:
        """The name of the ranking detector that finds the image the most unusual."""
        return list(self.scores)[int(self.leading[image])]

    @property
    def views(self) -> list[str | None]:
        """The same of all images; None of detectors that are no views."""
        names = [name if name in VIEWS else None for name in self.scores]
        return [names[leading] for leading in self.leading.tolist()]

    @property
    def agreement(self) -> Floats:
        """(n,) the share of the detectors that flag the image."""
        return agreement(self.flagged)

    @property
    def consensus(self) -> NDArray[np.bool_]:
        """(n,) whether all detectors flag the image."""
        return unanimous(self.flagged)

    def __getitem__(self, images: slice) -> "NoveltyResult":
        """A slice of the batch."""
        return NoveltyResult(
            self.novelty[images],
            self.strength[images],
            self.statistic[images],
            self.domain_statistic[images],
            self.vectors[images],
            {name: scores[images] for name, scores in self.scores.items()},
            {name: flags[images] for name, flags in self.flagged.items()},
            self.leading[images],
            None if self.in_domain is None else self.in_domain[images],
            None if self.features is None else self.features[images],
        )

    def calibrated(self, calibration: StrengthCalibration) -> "NoveltyResult":
        """The same images with the strength by this calibration."""
        return replace(self, strength=calibration.transform(self.statistic))

    @staticmethod
    def concatenate(parts: Sequence["NoveltyResult"]) -> "NoveltyResult":
        """Concatenate batches in their order."""
        return NoveltyResult(
            np.concatenate([part.novelty for part in parts]),
            np.concatenate([part.strength for part in parts]),
            np.concatenate([part.statistic for part in parts]),
            np.concatenate([part.domain_statistic for part in parts]),
            np.concatenate([part.vectors for part in parts]),
            {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
            {name: np.concatenate([part.flagged[name] for part in parts]) for name in parts[0].flagged},
            np.concatenate([part.leading for part in parts]),
            None if parts[0].in_domain is None else np.concatenate([part.in_domain for part in parts]),
        )
