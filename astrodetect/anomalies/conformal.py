"""How rare an anomaly score is: tail scores of a detector, conformal p-values with a fitted tail, false discoveries."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

TAIL_SHARE = 0.1  # the share of the largest scores that the exponential tail of one detector is fitted to
MIN_MEAN_EXCESS_SHARE = 1e-3  # of the largest score, for a tail of equal scores
# The tail of p-values: a generalised Pareto distribution of what exceeds the 80 % quantile. Of scores beyond the 95 %
# quantile only their number is used, since unusual images are among them.
EXCEEDING_SHARE, CENSORED_SHARE = 0.2, 0.05
SHAPE_MEAN, SHAPE_DEVIATION = 0.1, 0.1  # Gaussian prior of the tail's shape: 0 is an exponential tail
SHAPES = np.linspace(-0.5, 0.8, 28)  # grid of the posterior; none is 0
SCALES = np.geomspace(0.3, 3.3, 25)  # of the mean excess
MAX_EXCEEDING = 200  # scores that the tail is fitted to: as many quantiles of more
TAIL_POINTS = 60  # where the tail is computed, up to FARTHEST mean excesses; in between the strength is interpolated
FARTHEST = 1e4
MIN_CALIBRATION_IMAGES = 50  # with fewer, no image is flagged
FALSE_DISCOVERY_RATE = 0.1
# Folds of images that are judged by detectors of the others. Many images take two: as much work as leave-one-out.
FOLDS, MANY_IMAGES, MANY_IMAGES_FOLDS = 5, 5_000, 2
SEED = 0  # of random draws from the training images


@dataclass(frozen=True, slots=True)
class TailScore:
    """−log10 of the empirical tail probability; for the largest scores, of an exponential tail."""

    scores: NDArray[np.float64]  # distinct, ascending
    tail_scores: NDArray[np.float64]
    slope: float  # per unit of score, beyond the largest

    @classmethod
    def fit(cls, training_scores: Floats, *, ranked_share: float = 1 - TAIL_SHARE) -> Self:
        """Fit to the scores of the training images; the tail begins at this share of them.

        Files of earlier versions have a tail that begins at the largest score: a share of 1.
        """
        ordered = np.sort(training_scores.astype(np.float64))
        scores, first, count = np.unique(ordered, return_index=True, return_counts=True)
        tail_probability = (len(ordered) - first - count / 2) / len(ordered)  # ties count half
        tail = ordered[-max(2, round(TAIL_SHARE * len(ordered))) :]
        mean_excess = max(float((tail - tail[0]).mean()), MIN_MEAN_EXCESS_SHARE * (abs(float(ordered[-1])) or 1.0))
        ranked = max(1, int(np.count_nonzero(first < ranked_share * len(ordered))))
        return cls(scores[:ranked], -np.log10(tail_probability[:ranked]), float(np.log10(np.e)) / mean_excess)

    def transform(self, scores: Floats) -> NDArray[np.float64]:
        """The tail score of each score; monotonic and unbounded."""
        excess = np.maximum(scores.astype(np.float64) - self.scores[-1], 0)
        return np.asarray(np.interp(scores, self.scores, self.tail_scores) + self.slope * excess)


@dataclass(frozen=True, slots=True)
class StrengthCalibration:
    """−log10 of the conformal p-value of a score, by held-out scores of ordinary images.

    The p-value is the share of the held-out scores, with the new one among them, that are as large or larger. Beyond
    their 95 % quantile it follows the fitted tail, averaged over what the scores leave open about it: few scores give
    larger p-values, and no p-value is limited by their number.
    """

    held_out: Floats  # ascending
    scores: NDArray[np.float64]  # distinct, ascending; the first of them are held-out scores
    strengths: NDArray[np.float64]
    slope: float  # per unit of score, beyond the largest

    @classmethod
    def fit(cls, held_out_scores: Floats) -> Self:
        """Fit to held-out scores."""
        ordered = np.sort(held_out_scores.astype(np.float64))
        count = len(ordered)
        exceeding, censored = max(2, round(EXCEEDING_SHARE * count)), round(CENSORED_SHARE * count)
        threshold, last = ordered[-exceeding - 1], ordered[count - censored - 1]
        excess = ordered[count - exceeding : count - censored] - threshold
        censored_at = last - threshold
        size = max(
            (float(excess.sum()) + censored * censored_at) / max(1, len(excess)),
            MIN_MEAN_EXCESS_SHARE * (abs(float(last)) or 1.0),
        )
        ranked, first = np.unique(ordered[: count - censored], return_index=True)
        beyond = size * np.geomspace(1e-2, FARTHEST, TAIL_POINTS)
        tail = _tail_probability(excess / size, censored, censored_at / size, (censored_at + np.r_[0, beyond]) / size)
        strengths = -np.log10((1 + count - first) / (1 + count))
        scores = np.concatenate([ranked, last + beyond])
        strengths = np.concatenate([strengths, strengths[-1] - np.log10(tail[1:] / tail[0])])
        slope = float((strengths[-1] - strengths[-2]) / (scores[-1] - scores[-2]))
        return cls(ordered.astype(np.float32), scores, strengths, slope)

    def transform(self, scores: Floats) -> Floats:
        """The strength of each score; monotonic and unbounded."""
        excess = np.maximum(scores.astype(np.float64) - self.scores[-1], 0)
        return np.asarray(np.interp(scores, self.scores, self.strengths) + self.slope * excess, np.float32)


@dataclass(frozen=True, slots=True)
class Discoveries:
    """The images that are flagged as unusual, with a false discovery rate."""

    flagged: NDArray[np.bool_]
    rate: float  # the expected share of flagged images that are ordinary ones
    calibration_images: int  # whose held-out scores the strength is by

    @classmethod
    def find(cls, strength: Floats, rate: float, calibration_images: int) -> Self:
        """The procedure of Benjamini and Hochberg; nothing is flagged by too few calibration images."""
        from scipy.stats import false_discovery_control  # noqa: PLC0415 - takes half a second

        if calibration_images < MIN_CALIBRATION_IMAGES:
            return cls(np.zeros(len(strength), np.bool_), rate, calibration_images)
        p_values = 10.0 ** -strength.astype(np.float64)
        return cls(np.asarray(false_discovery_control(p_values) <= rate), rate, calibration_images)

    @property
    def text(self) -> str:
        """What was found, in one sentence."""
        if self.calibration_images < MIN_CALIBRATION_IMAGES:
            return (
                f"no image is flagged: {self.calibration_images} images to compare with are too few to say what is "
                f"rare, give {MIN_CALIBRATION_IMAGES} or more"
            )
        count, at_rate = int(self.flagged.sum()), f"false discovery rate of {100 * self.rate:g} %"
        if not count:
            return f"nothing here is unusual beyond chance: no image is flagged at a {at_rate}"
        by_chance = max(1, round(self.rate * count))
        return (
            f"{count:,} of {len(self.flagged):,} images flagged as unusual, at most about {by_chance:,} of them by "
            f"chance ({at_rate})"
        )


def assign_folds(images: int) -> NDArray[np.int64]:
    """(n,) a random fold of each image, so that it can be judged by detectors that have not seen it."""
    folds = MANY_IMAGES_FOLDS if images > MANY_IMAGES else FOLDS
    return np.random.default_rng(SEED).permutation(images) % folds


def _tail_probability(
    excess: NDArray[np.float64], censored: int, censored_at: float, at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Posterior predictive survival function of a generalised Pareto distribution at these points.

    All lengths are in units of the mean excess.
    """
    weight = 1.0
    if len(excess) > MAX_EXCEEDING:
        weight = len(excess) / MAX_EXCEEDING
        excess = excess[np.linspace(0, len(excess) - 1, MAX_EXCEEDING).round().astype(np.int64)]
    shape, scale = (grid[..., np.newaxis] for grid in np.meshgrid(SHAPES, SCALES, indexing="ij"))

    def log_survival(points: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # beyond the end of a tail that has one
            return np.asarray(-np.log(np.maximum(1 + shape * points / scale, 0)) / shape)

    densities = (1 + shape) * log_survival(excess) - np.log(scale)
    log_posterior = weight * densities.sum(axis=-1)
    if censored:
        log_posterior += censored * log_survival(np.array([censored_at]))[..., 0]
    log_posterior -= ((shape[..., 0] - SHAPE_MEAN) / SHAPE_DEVIATION) ** 2 / 2
    posterior = np.exp(log_posterior - log_posterior.max())
    survival = np.exp(log_survival(at))
    return np.asarray(np.einsum("ij,ijk->k", posterior / posterior.sum(), survival))
