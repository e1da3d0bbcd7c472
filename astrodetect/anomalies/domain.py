"""Whether images are from the domain of a model: a limit for one image, and a test for the latest images together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from astrodetect.anomalies.novelty import Novelty

# An image is out of domain where fewer than this share of images like the training set are that unusual. Half of the
# 1 % that is promised, since the limit is estimated from some hundred to some thousand images.
OUT_OF_DOMAIN_SHARE = 0.005
MIN_DOMAIN_IMAGES = 100  # that detectors are fitted on: the novelty of new images is too high with fewer
ATYPICAL_NOVELTY = 0.9  # of one training image in ten
LATEST_IMAGES = 50  # that are tested together
MIN_LATEST_IMAGES = 20  # fewer say too little


def calibrate_domain(novelty: Novelty) -> Novelty:
    """The fitted detectors, calibrated by held-out images, with a limit beyond which an image is out of domain."""
    return with_domain(novelty.calibrated())


def with_domain(novelty: Novelty) -> Novelty:
    """The calibrated detectors with a limit of the domain, unless they are of too few images."""
    return novelty if novelty.images < MIN_DOMAIN_IMAGES else novelty.with_limit(-math.log10(OUT_OF_DOMAIN_SHARE))


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
