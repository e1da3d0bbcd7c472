"""Active learning: a Gaussian process turns labels into a better ranking and chooses which images to label next.

Its prior mean is the unsupervised ranking, its kernel an RBF over the whitened vectors; its posterior variance lets the
review order trade probable interest against information.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.labels import ARTEFACT, INTERESTING, ORDINARY
from astrodetect.records import Floats

ReviewOrder = Literal["interest", "novelty", "uncertainty", "random"]
REVIEW_ORDERS: tuple[ReviewOrder, ...] = get_args(ReviewOrder)

LABEL_TARGETS: dict[str, float] = {
    INTERESTING: 1.0,
    ORDINARY: -1.0,
    ARTEFACT: -1.0,  # unusual as a satellite trail may be, no more of them should come up
}
LABELLED_INTEREST = 10.0  # of a labelled image, times its target: beyond that of any unlabelled one
LENGTH_SCALE = 1.0  # of the RBF kernel, on vectors divided by √dimensions: their mean distance is √2
NOISE_VARIANCE = 0.3  # of labels: people are inconsistent
EXPLORATION = 0.3  # posterior standard deviations added to the mean (upper confidence bound)
MIN_PRIOR, MAX_PRIOR = -1.0, 1.5
PRIOR_OFFSET, PRIOR_SLOPE = -1.0, 1 / 3  # the prior at the mean tail score, and per standard deviation above it
MAX_LABELS = 2000  # the newest; the cost grows with the square of their number
BLOCK = 4096  # images at a time


@dataclass(frozen=True, slots=True)
class LabelledRanking:
    """Posterior of the interest of each image."""

    interest: Floats  # (n,) posterior mean, from about -1 to 1; ±LABELLED_INTEREST of labelled images
    uncertainty: Floats  # (n,) posterior standard deviation; 0 of labelled images


def rank_by_labels(vectors: Floats, strength: Floats, labels: Mapping[int, str]) -> LabelledRanking:
    """The posterior given the unsupervised `strength` and `labels` by image index, the newest label last."""
    prior = _prior_mean(strength)
    if not labels:
        return LabelledRanking(prior, np.ones_like(prior))
    labelled = np.array(list(labels)[-MAX_LABELS:])
    targets = np.array([LABEL_TARGETS[labels[image]] for image in labelled.tolist()])
    scaled = vectors.astype(np.float64) / np.sqrt(vectors.shape[1])
    inverse = np.linalg.inv(_rbf_kernel(scaled[labelled], scaled[labelled]) + NOISE_VARIANCE * np.eye(len(labelled)))
    weights = inverse @ (targets - prior[labelled])
    interest, uncertainty = np.empty_like(prior), np.empty_like(prior)
    for start in range(0, len(prior), BLOCK):
        block = slice(start, start + BLOCK)
        kernel = _rbf_kernel(scaled[block], scaled[labelled])
        interest[block] = prior[block] + kernel @ weights
        explained_variance = np.einsum("nl,lm,nm->n", kernel, inverse, kernel, optimize=True)
        uncertainty[block] = np.sqrt(np.clip(1 - explained_variance, 0, 1))
    for image, label in labels.items():
        interest[image], uncertainty[image] = LABELLED_INTEREST * LABEL_TARGETS[label], 0
    return LabelledRanking(interest, uncertainty)


def review_orders(
    vectors: Floats, strength: Floats, labels: Mapping[int, str], count: int
) -> dict[ReviewOrder, list[int]]:
    """The indices of up to `count` unlabelled images in each review order, the first to label in front."""
    ranking = rank_by_labels(vectors, strength, labels)
    priorities: dict[ReviewOrder, NDArray[np.floating]] = {
        "interest": ranking.interest + EXPLORATION * ranking.uncertainty,
        "novelty": strength.astype(np.float64),
        "uncertainty": ranking.uncertainty - np.abs(ranking.interest),
        "random": np.random.default_rng(len(labels)).random(len(strength)),
    }
    count = min(count, len(strength) - len(labels))
    for priority in priorities.values():
        priority[list(labels)] = -np.inf
    return {order: np.argsort(-priority, kind="stable")[:count].tolist() for order, priority in priorities.items()}


def _prior_mean(strength: Floats) -> Floats:
    """The prior of the interest, from the ranks of `strength` so that its scale does not matter."""
    ranks = np.argsort(np.argsort(strength, kind="stable"), kind="stable")
    tail_scores = -np.log10(1 - 0.9999 * ranks / max(len(strength), 1))
    z_scores = (tail_scores - tail_scores.mean()) / max(float(tail_scores.std()), 1e-9)
    return np.asarray(np.clip(PRIOR_OFFSET + PRIOR_SLOPE * z_scores, MIN_PRIOR, MAX_PRIOR))


def _rbf_kernel(a: Floats, b: Floats) -> Floats:
    squared_distances = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.exp(np.maximum(squared_distances, 0) / (-2 * LENGTH_SCALE**2)))
