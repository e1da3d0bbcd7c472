"""Labels to a better ranking: what people found interesting, ordinary or an artefact moves what is like it.

A Gaussian process over the whitened space whose mean, where nothing is labelled near, is the unsupervised ranking. It
knows how sure it is, so what to look at next can balance what is probably interesting with what would teach most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Floats

LabelValue = Literal["interesting", "ordinary", "artefact"]
ReviewOrder = Literal["interest", "novelty", "uncertainty", "random"]
LABELS: tuple[LabelValue, ...] = get_args(LabelValue)
INTERESTING, ORDINARY, ARTEFACT = LABELS
REVIEW_ORDERS: tuple[ReviewOrder, ...] = get_args(ReviewOrder)

WORTH: dict[str, float] = {
    INTERESTING: 1.0,
    ORDINARY: -1.0,
    ARTEFACT: -1.0,
}  # a streak may be ever so unusual: nobody wants more of them
SETTLED = 10.0  # the interest of a labelled image, either way: beyond what any other can have
REACH = 1.0  # how far a label is heard, where the mean distance between images is √2
NOISE = 0.3  # the variance of labels: people change their minds
BOLDNESS = 0.3  # standard deviations that an unsure image is given as an advance, to be looked at
LOWEST, HIGHEST = -1.0, 1.5  # of what the unsupervised ranking says of interest
USUAL, RISE = -1.0, 1 / 3  # what it says at the mean of all surprises, and a standard deviation above that
MOST_LABELS = 2000  # learnt from, the newest: the time goes with their square
BLOCK = 4096  # images at a time


@dataclass(frozen=True, slots=True)
class LabelledRanking:
    """What labels make of a set of images."""

    interest: Floats  # (n,) larger first; between -1, not worth a look, and 1 or more, worth one; labelled ones SETTLED
    doubt: Floats  # (n,) the standard deviation of that; 0 of labelled ones


def rank_by_labels(vectors: Floats, strength: Floats, labels: Mapping[int, str]) -> LabelledRanking:
    """The images by how interesting they are; `labels` by their number, those that were given last at the end."""
    prior = _prior(strength)
    if not labels:
        return LabelledRanking(prior, np.ones_like(prior))
    places = np.array(list(labels)[-MOST_LABELS:])
    worth = np.array([WORTH[labels[place]] for place in places.tolist()])
    scaled = vectors.astype(np.float64) / np.sqrt(vectors.shape[1])
    heard = scaled[places]
    inverse = np.linalg.inv(_alike(heard, heard) + NOISE * np.eye(len(places)))
    pull = inverse @ (worth - prior[places])
    interest, doubt = np.empty_like(prior), np.empty_like(prior)
    for start in range(0, len(prior), BLOCK):
        some = slice(start, start + BLOCK)
        alike = _alike(scaled[some], heard)
        interest[some] = prior[some] + alike @ pull
        known = np.einsum("nl,lm,nm->n", alike, inverse, alike, optimize=True)
        doubt[some] = np.sqrt(np.clip(1 - known, 0, 1))
    for place, label in labels.items():
        interest[place], doubt[place] = SETTLED * WORTH[label], 0
    return LabelledRanking(interest, doubt)


def review_orders(
    vectors: Floats, strength: Floats, labels: Mapping[int, str], count: int
) -> dict[ReviewOrder, list[int]]:
    """For each way to choose, the numbers of up to `count` images without a label, what to look at first in front."""
    ranking = rank_by_labels(vectors, strength, labels)
    worth: dict[ReviewOrder, NDArray[np.floating]] = {
        "interest": ranking.interest + BOLDNESS * ranking.doubt,
        "novelty": strength.astype(np.float64),
        "uncertainty": ranking.doubt - np.abs(ranking.interest),
        "random": np.random.default_rng(len(labels)).random(len(strength)),
    }
    count = min(count, len(strength) - len(labels))
    for order in worth.values():
        order[list(labels)] = -np.inf
    return {by: np.argsort(-order, kind="stable")[:count].tolist() for by, order in worth.items()}


def _prior(strength: Floats) -> Floats:
    """What the unsupervised ranking says of interest: by places, so that any scale will do."""
    places = np.argsort(np.argsort(strength, kind="stable"), kind="stable")
    surprise = -np.log10(1 - 0.9999 * places / max(len(strength), 1))
    apart = (surprise - surprise.mean()) / max(float(surprise.std()), 1e-9)
    return np.asarray(np.clip(USUAL + RISE * apart, LOWEST, HIGHEST))


def _alike(ones: Floats, others: Floats) -> Floats:
    apart = np.square(ones).sum(axis=1)[:, None] + np.square(others).sum(axis=1) - 2 * ones @ others.T
    return np.asarray(np.exp(np.maximum(apart, 0) / (-2 * REACH**2)))
