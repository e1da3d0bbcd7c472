"""Active learning: labels turn the unsupervised ranking into one of what is wanted, and choose what to label next.

A logistic regression on the whitened vectors, with a random sample of the unlabelled images as weak ordinary ones, is
added to the unsupervised ranking. With few labels its strong penalty makes it a difference of means.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.labels import ARTEFACT, is_wanted
from astrodetect.records import Floats

ReviewOrder = Literal["interest", "novelty", "uncertainty", "random"]
REVIEW_ORDERS: tuple[ReviewOrder, ...] = get_args(ReviewOrder)

RANKING_WEIGHT = 1.5  # of the standardised tail scores of the ranking, beside the standardised likeness
LIKE_RANKING_WEIGHT = 0.5  # where one kind is searched for: it need not be unusual
NETWORK_WEIGHT = 0.8  # of the standardised tail scores of a network that was taught by labels
ARTEFACT_WEIGHT = 1.5  # of what an image is more like the artefacts than like the wanted ones
# Labelled images at which the likeness has half its weight: fewer are a guess.
ARTEFACT_HALF_WEIGHT, HALF_WEIGHT = 3.0, 10.0
PENALTY = 300.0  # L2; the inverse of scikit-learn's C
UNLABELLED_SAMPLE, UNLABELLED_WEIGHT = 1500, 0.3  # weak ordinary images, and the weight of each beside a label's
SAMPLE_SEED = 0
CLIP = 3.0  # of a whitened dimension, in standard deviations: one of them does not decide
LABELLED_INTEREST = 100.0  # of a labelled image, with its sign: beyond that of any unlabelled one
BLOCK = 65_536  # images at a time
MAX_NEWTON_STEPS = 25
TOLERANCE = 1e-4  # of a coefficient


@dataclass(frozen=True, slots=True)
class LabelledRanking:
    """How interesting each image is, by labels and ranking."""

    interest: Floats  # (n,) ±LABELLED_INTEREST of labelled images
    boundary: float | None  # between wanted and other labelled images; None until there are both


def rank_by_labels(
    vectors: Floats,
    strength: Floats,
    labels: Mapping[int, str],
    *,
    blocks: Sequence[int] = (),
    like: str | None = None,
    network: Floats | None = None,
) -> LabelledRanking:
    """The interest given the unsupervised `strength`, and `labels` by image index; of one label's kind if `like` it.

    Wanted are `interesting` images and those with labels of one's own; what is more like `artefact` than like these
    sinks. Each of the `blocks` of dimensions counts as much as the others, however few it has. `network`: the score of
    each image by a network that was taught by labels of all kinds, or NaN.
    """
    inputs = _Inputs(vectors, _block_scales(blocks, vectors.shape[1]))
    interest = (LIKE_RANKING_WEIGHT if like else RANKING_WEIGHT) * standardised_tail_scores(strength)
    if network is not None and not like and (scored := np.isfinite(network)).any():
        interest[scored] += NETWORK_WEIGHT * standardised_tail_scores(network[scored])
    kinds = _Kinds.of(labels, like)
    sample = np.random.default_rng(SAMPLE_SEED).permutation(len(strength))[:UNLABELLED_SAMPLE]
    likeness = np.zeros(len(strength), np.float32)
    wanted, unwanted = kinds.wanted, [*kinds.others, *kinds.artefacts]
    if wanted:
        weight = 1.0 if like else _label_weight(wanted, HALF_WEIGHT)
        likeness = _likeness(inputs, wanted, unwanted, sample)
        interest += weight * likeness
    if kinds.artefacts:
        artefacts = _likeness(inputs, kinds.artefacts, [*wanted, *kinds.others], sample)
        weight = ARTEFACT_WEIGHT * _label_weight(kinds.artefacts, ARTEFACT_HALF_WEIGHT)
        interest -= weight * np.maximum(artefacts - likeness, 0)
    boundary = (interest[wanted].mean() + interest[unwanted].mean()) / 2 if wanted and unwanted else None
    interest[wanted], interest[unwanted] = LABELLED_INTEREST, -LABELLED_INTEREST
    return LabelledRanking(interest, None if boundary is None else float(boundary))


def review_orders(
    vectors: Floats,
    strength: Floats,
    labels: Mapping[int, str],
    count: int,
    *,
    blocks: Sequence[int] = (),
    like: str | None = None,
    network: Floats | None = None,
    hidden: Iterable[int] = (),
) -> dict[ReviewOrder, list[int]]:
    """The indices of up to `count` unlabelled images in each review order but `hidden`, the first to label in front."""
    ranking = rank_by_labels(vectors, strength, labels, blocks=blocks, like=like, network=network)
    boundary = float(ranking.interest.max(initial=0)) if ranking.boundary is None else ranking.boundary
    priorities: dict[ReviewOrder, NDArray[np.floating]] = {
        "interest": ranking.interest.copy(),
        "novelty": strength.astype(np.float64),
        "uncertainty": -np.abs(ranking.interest - boundary),
        "random": np.random.default_rng(len(labels)).random(len(strength)),
    }
    left_out = [*{*labels, *hidden}]
    count = min(count, len(strength) - len(left_out))
    for priority in priorities.values():
        priority[left_out] = -np.inf
    return {order: _first(priority, count) for order, priority in priorities.items()}


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The clipped vectors, scaled by block."""

    vectors: Floats
    scales: Floats  # (dimensions,)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Some images."""
        return (np.clip(self.vectors[rows], -CLIP, CLIP) * self.scales).astype(np.float64)

    def products(self, coefficients: NDArray[np.float64]) -> Floats:
        """(n,) the product of each image with the coefficients."""
        scaled = (self.scales * coefficients).astype(np.float32)
        result = np.empty(len(self.vectors), np.float32)
        for start in range(0, len(result), BLOCK):
            result[start : start + BLOCK] = np.clip(self.vectors[start : start + BLOCK], -CLIP, CLIP) @ scaled
        return result


@dataclass(frozen=True, slots=True)
class _Kinds:
    """Labelled images."""

    wanted: list[int]
    others: list[int]
    artefacts: list[int]  # that are not wanted

    @classmethod
    def of(cls, labels: Mapping[int, str], like: str | None) -> "_Kinds":
        kinds = cls([], [], [])
        for image, label in labels.items():
            if label == like if like else is_wanted(label):
                kinds.wanted.append(image)
            else:
                (kinds.artefacts if label == ARTEFACT else kinds.others).append(image)
        return kinds


def _label_weight(labelled: Sequence[int], half: float) -> float:
    return len(labelled) / (len(labelled) + half)


def _likeness(inputs: _Inputs, positive: Sequence[int], negative: Sequence[int], sample: NDArray[np.int64]) -> Floats:
    """(n,) the standardised log-odds that an image is one of the positive ones."""
    weak = np.setdiff1d(sample, [*positive, *negative])
    rows = np.concatenate([np.array(positive, np.int64), np.array(negative, np.int64), weak])
    targets = (np.arange(len(rows)) < len(positive)).astype(np.float64)
    weights = np.where(np.arange(len(rows)) < len(rows) - len(weak), 1.0, UNLABELLED_WEIGHT)
    coefficients = logistic_regression(inputs.rows(rows), targets, weights, PENALTY)
    return _standardise(inputs.products(coefficients[:-1]))


def logistic_regression(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """The coefficients, and the intercept at the end, by Newton's method under an L2 penalty."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    penalties = np.full(inputs.shape[1], penalty)
    penalties[-1] = 0.0  # of the intercept
    share = np.clip(np.average(targets, weights=weights), 1e-6, 1 - 1e-6)
    coefficients = np.zeros(inputs.shape[1])
    coefficients[-1] = np.log(share / (1 - share))
    for _ in range(MAX_NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ coefficients, -30, 30)))
        gradient = inputs.T @ (weights * (targets - probability)) - penalties * coefficients
        curvature = np.maximum(weights * probability * (1 - probability), 1e-9)
        step = np.linalg.solve((inputs.T * curvature) @ inputs + np.diag(penalties), gradient)
        coefficients += step
        if np.abs(step).max() < TOLERANCE:
            break
    return coefficients


def _block_scales(blocks: Sequence[int], dimensions: int) -> Floats:
    """(dimensions,) factors that give each block the same variance."""
    if sum(blocks) < dimensions:
        return np.ones(dimensions, np.float32)
    return np.repeat([np.sqrt(max(blocks) / block) for block in blocks], blocks)[:dimensions].astype(np.float32)


def standardised_tail_scores(strength: Floats) -> Floats:
    """−log10 of the share of images as strong, standardised: the scale of `strength` does not matter."""
    share = np.empty(len(strength), np.float32)
    share[np.argsort(-strength, kind="stable")] = (np.arange(len(strength)) + 0.5) / max(len(strength), 1)
    return _standardise(-np.log10(share))


def _standardise(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-9), np.float32)


def _first(priority: NDArray[np.floating], count: int) -> list[int]:
    """The indices of the `count` highest, in order; ties by index."""
    if count >= len(priority):
        return list(np.argsort(-priority, kind="stable")[:count].tolist())
    threshold = np.partition(priority, len(priority) - count - 1)[len(priority) - count - 1]
    candidates = np.flatnonzero(priority >= threshold)
    return list(candidates[np.argsort(-priority[candidates], kind="stable")][:count].tolist())
