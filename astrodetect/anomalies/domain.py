"""Whether images are from the domain of a model: a limit for one image, and a test for the latest images together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from astrodetect.anomalies.novelty import MAX_REFERENCE_IMAGES, SEED, Novelty, TailScore
from astrodetect.records import Floats

# An image is out of domain where fewer than this share of images like the training set are that unusual. Half of the
# 1 % that is promised, since the limit is estimated from some hundred to some thousand images.
OUT_OF_DOMAIN_SHARE = 0.005
MIN_DOMAIN_IMAGES = 100  # that detectors are fitted on: the novelty of new images is too high with fewer
CALIBRATION_FOLDS = 5
MAX_HELD_OUT_IMAGES = 5_000  # that the limit is estimated from
ATYPICAL_NOVELTY = 0.9  # of one training image in ten
LATEST_IMAGES = 50  # that are tested together
MIN_LATEST_IMAGES = 20  # fewer say too little


def calibrate_domain(novelty: Novelty, features: Floats) -> Novelty:
    """The detectors, fitted on these features, with a limit of the strength beyond which an image is out of domain.

    The limit is a quantile of the strengths of held-out images: each fold is scored by detectors of the other folds.
    Too few images give none.
    """
    if len(features) < MIN_DOMAIN_IMAGES:
        return novelty
    return novelty.with_limit(_strength_limit(_held_out_strengths(novelty, features)))


@dataclass(frozen=True, slots=True)
class LatestImages:
    """The latest images, tested together for being of another source than the training images."""

    images: int
    atypical: int

    @classmethod
    def of(cls, novelty: Iterable[float]) -> Self:
        """From the novelty of each image."""
        atypical = [value >= ATYPICAL_NOVELTY for value in novelty]
        return cls(len(atypical), sum(atypical))

    @property
    def mostly_out_of_domain(self) -> bool:
        """Whether more than half are atypical, as one training image in ten is: 11 of 20 have a probability of 1e-6.

        Even where three in ten are, for instance since all are of the rarest class, 2 % of 20 and 0.1 % of 50.
        """
        return self.images >= MIN_LATEST_IMAGES and 2 * self.atypical > self.images

    def __add__(self, others: "LatestImages") -> "LatestImages":
        return LatestImages(self.images + others.images, self.atypical + others.atypical)

    def warning(self, model: str) -> str:
        """What is the case, in one sentence."""
        return (
            f"the model is out of its domain: {self.atypical:,} of {self.images:,} images are more unusual than "
            f"{100 * ATYPICAL_NOVELTY:.0f} % of the images that {model} was trained on, so its classes may be wrong"
        )


def _held_out_strengths(novelty: Novelty, features: Floats) -> Floats:
    """The strengths of a random sample of the images, by detectors that were fitted without them."""
    random = np.random.default_rng(SEED)
    order = random.permutation(len(features))[:MAX_REFERENCE_IMAGES]
    strengths = []
    for fold in range(CALIBRATION_FOLDS):
        held_out = np.zeros(len(order), np.bool_)
        held_out[fold::CALIBRATION_FOLDS] = True
        others = Novelty.fit(
            features[np.sort(order[~held_out])], feature_kind=novelty.feature_kind, names=novelty.ranking
        )
        scored = order[held_out][: MAX_HELD_OUT_IMAGES // CALIBRATION_FOLDS]
        strengths.append(others.score(features[scored]).strength)
    return np.concatenate(strengths)


def _strength_limit(strengths: Floats) -> float:
    """The strength with the tail probability OUT_OF_DOMAIN_SHARE; beyond the largest one, of an exponential tail."""
    tail = TailScore.fit(strengths)
    return tail.inverse(-np.log10(OUT_OF_DOMAIN_SHARE))
