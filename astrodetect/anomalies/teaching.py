"""What a network learns from labels, and whether images are ranked better with it: judged on labels it has not seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.active_learning import NETWORK_WEIGHT, rank_by_labels, standardised_tail_scores
from astrodetect.errors import DataError
from astrodetect.labels import is_wanted
from astrodetect.records import Floats

TAUGHT = "taught"  # the name of the model, unless given
FOLDS = 5
MIN_WANTED = 10  # labelled images, two in each fold
UNLABELLED = 1500  # a random sample, which counts as ordinary


@dataclass(frozen=True, slots=True)
class TeachingSet:
    """The labelled images, and a sample of the others (n)."""

    rows: NDArray[np.int64]  # among all images
    wanted: NDArray[np.bool_]
    folds: NDArray[np.int64]  # each is judged by a network that learnt from the others

    @classmethod
    def draw(
        cls,
        labels: Mapping[int, str],
        images: int,
        seed: int,
        group_copies: Callable[[NDArray[np.int64]], NDArray[np.int64]] = lambda rows: np.arange(len(rows)),
    ) -> "TeachingSet":
        """All labelled images, and unlabelled ones at random that are no copies of them.

        Each fold has the same share of both kinds. Copies, as `group_copies` numbers them, are in one fold: what has
        learnt from one of them has seen the others.
        """
        random = np.random.default_rng(seed)
        others = random.permutation(np.setdiff1d(np.arange(images), list(labels)))[:UNLABELLED]
        rows = np.concatenate([np.array(list(labels), np.int64), np.sort(others)])
        groups = group_copies(rows)
        kept = (np.arange(len(rows)) < len(labels)) | ~np.isin(groups, groups[: len(labels)])
        rows, groups = rows[kept], groups[kept]
        wanted = np.zeros(len(rows), np.bool_)
        wanted[: len(labels)] = [is_wanted(label) for label in labels.values()]
        if (different := len(np.unique(groups[wanted]))) < MIN_WANTED:
            raise DataError(
                f"{different} images here are labelled interesting or by a name of your own: a network learns from "
                f"{MIN_WANTED} or more"
            )
        if (ordinary := len(np.unique(groups[~wanted]))) < MIN_WANTED:
            raise DataError(f"all but {ordinary} images here are labelled interesting: add ordinary ones, not copies")
        _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
        fold_of = np.empty(len(first), np.int64)
        for kind in (True, False):
            members = random.permutation(np.flatnonzero(wanted[first] == kind))
            fold_of[members] = np.arange(len(members)) % FOLDS
        folds = fold_of[group_of]
        return cls(rows, wanted, folds)


@dataclass(frozen=True, slots=True)
class TaughtComparison:
    """The average precision of rankings of images whose labels they have not seen; unlabelled images are ordinary."""

    ranking: float  # the default ranking, without labels
    labels: float  # ranking and logistic regression on the measurements
    network: float  # the network alone
    together: float  # ranking, logistic regression and network

    @property
    def improves(self) -> bool:
        """Whether the network makes the ranking better, with and without the labels."""
        return self.together > max(self.ranking, self.labels)

    def as_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def compare_rankings(
    images: TeachingSet,
    vectors: Floats,
    strength: Floats,
    labels: Mapping[int, str],
    scores: Floats,
    *,
    blocks: Sequence[int] = (),
) -> TaughtComparison:
    """Compare the rankings by out-of-fold `scores` of the network (n), and by labels of the other folds."""
    rankings: dict[str, Floats] = {
        name: np.empty(len(images.rows), np.float32) for name in TaughtComparison.__dataclass_fields__
    }
    for fold in range(FOLDS):
        held_out = images.folds == fold
        rows = images.rows[held_out]
        known = {image: label for image, label in labels.items() if image not in set(rows.tolist())}
        by_labels = rank_by_labels(vectors, strength, known, blocks=blocks).interest[rows]
        network = standardised_tail_scores(scores[held_out])
        for name, values in {
            "ranking": strength[rows],
            "labels": by_labels,
            "network": network,
            "together": by_labels + NETWORK_WEIGHT * network,
        }.items():
            rankings[name][held_out] = standardised_tail_scores(values)  # comparable between the folds
    return TaughtComparison(**{name: average_precision(images.wanted, values) for name, values in rankings.items()})


def average_precision(wanted: NDArray[np.bool_], values: Floats) -> float:
    """The mean, over the wanted images, of the share of wanted ones among all that rank as high."""
    ordered = wanted[np.argsort(-values, kind="stable")]
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1))[ordered].mean())
