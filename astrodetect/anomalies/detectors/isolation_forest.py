"""How few random cuts set an image apart from the others."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

TREES = 200
SAMPLE = 256  # images a tree
CUTS = 8  # from a tree's root to its leaves at most: as many as halve the sample to one
SEED = 0


@dataclass(frozen=True, slots=True)
class IsolationForest:
    """All nodes of all trees in one table, grown by scikit-learn; a leaf leads to itself."""

    name: ClassVar[str] = "isolation"
    limit: ClassVar[float | None] = None

    roots: NDArray[np.int32]
    dimension: NDArray[np.int32]
    cut: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    path: NDArray[np.float64]  # cuts to a leaf, and to its images by themselves, in those of a usual image

    @classmethod
    def fit(cls, seen: DetectorInput) -> Self:
        """From the images of a reference."""
        from sklearn import ensemble  # noqa: PLC0415 - what only scores starts without it

        sample = min(SAMPLE, len(seen.vectors))
        forest = ensemble.IsolationForest(n_estimators=TREES, max_samples=sample, random_state=SEED)
        grown = [tree.tree_ for tree in forest.fit(seen.vectors).estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in grown[:-1])])
        dimension = np.concatenate([tree.feature for tree in grown])
        left = np.concatenate([tree.children_left + root for tree, root in zip(grown, roots, strict=True)])
        right = np.concatenate([tree.children_right + root for tree, root in zip(grown, roots, strict=True)])
        cuts = np.concatenate([tree.compute_node_depths() - 1 for tree in grown])
        members = np.concatenate([tree.n_node_samples for tree in grown])
        leaf, own = dimension < 0, np.arange(len(dimension))
        return cls(
            roots.astype(np.int32),
            np.where(leaf, 0, dimension).astype(np.int32),
            np.concatenate([tree.threshold for tree in grown]),
            np.where(leaf, own, left).astype(np.int32),
            np.where(leaf, own, right).astype(np.int32),
            (cuts + _usual(members)) / _usual(np.array([sample])),
        )

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """As written."""
        cut = stored.doubles("cut", None)
        nodes = len(cut)
        return cls(
            stored.places("roots", None, below=nodes),
            stored.places("dimension", nodes, below=reference.dimensions),
            cut,
            stored.places("left", nodes, below=nodes),
            stored.places("right", nodes, below=nodes),
            stored.doubles("path", nodes),
        )

    def score(self, seen: DetectorInput) -> Floats:
        """From 0 to 1: about 0.5 where it takes as many cuts as usual."""
        at = np.tile(self.roots, (len(seen.vectors), 1))
        for _ in range(CUTS):
            low = np.take_along_axis(seen.vectors, self.dimension[at], axis=1) <= self.cut[at]
            at = np.where(low, self.left[at], self.right[at])
        return np.asarray(2 ** -self.path[at].mean(axis=1), np.float32)


def _usual(members: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many cuts set one of so many images apart, on the average: the study of isolation forests has the formula."""
    others = np.maximum(members - 1.0, 1)
    many = 2 * (np.log(others) + np.euler_gamma) - 2 * others / np.maximum(members, 1)
    return np.where(members > 2, many, np.where(members == 2, 1.0, 0.0))
