"""Isolation forest (Liu et al. 2008): how few random splits isolate an image."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.records import Floats

TREES = 200
SAMPLE = 256  # images per tree
MAX_DEPTH = 8  # of a tree: log2(SAMPLE)
SEED = 0


@dataclass(frozen=True, slots=True)
class IsolationForest:
    """The nodes of all trees in one table, grown by scikit-learn; a leaf is its own child."""

    name: ClassVar[str] = "isolation"
    limit: ClassVar[float | None] = None

    roots: NDArray[np.int32]
    dimension: NDArray[np.int32]  # that the node splits
    cut: NDArray[np.float64]  # its threshold
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    path: NDArray[np.float64]  # expected path length of a leaf's images, relative to the average over a sample

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        from sklearn import ensemble  # noqa: PLC0415 - scoring starts without scikit-learn

        sample = min(SAMPLE, len(images.vectors))
        forest = ensemble.IsolationForest(n_estimators=TREES, max_samples=sample, random_state=SEED)
        trees = [estimator.tree_ for estimator in forest.fit(images.vectors).estimators_]
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
        dimension = np.concatenate([tree.feature for tree in trees])
        left = np.concatenate([tree.children_left + root for tree, root in zip(trees, roots, strict=True)])
        right = np.concatenate([tree.children_right + root for tree, root in zip(trees, roots, strict=True)])
        depths = np.concatenate([tree.compute_node_depths() - 1 for tree in trees])
        sizes = np.concatenate([tree.n_node_samples for tree in trees])
        leaf, own = dimension < 0, np.arange(len(dimension))
        return cls(
            roots.astype(np.int32),
            np.where(leaf, 0, dimension).astype(np.int32),
            np.concatenate([tree.threshold for tree in trees]),
            np.where(leaf, own, left).astype(np.int32),
            np.where(leaf, own, right).astype(np.int32),
            (depths + _average_path_length(sizes)) / _average_path_length(np.array([sample])),
        )

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        cut = stored.doubles("cut", None)
        nodes = len(cut)
        return cls(
            stored.indices("roots", None, below=nodes),
            stored.indices("dimension", nodes, below=reference.dimensions),
            cut,
            stored.indices("left", nodes, below=nodes),
            stored.indices("right", nodes, below=nodes),
            stored.doubles("path", nodes),
        )

    def score(self, images: DetectorInput) -> Floats:
        """From 0 to 1; about 0.5 for an average path length."""
        nodes = np.tile(self.roots, (len(images.vectors), 1))
        for _ in range(MAX_DEPTH):
            goes_left = np.take_along_axis(images.vectors, self.dimension[nodes], axis=1) <= self.cut[nodes]
            nodes = np.where(goes_left, self.left[nodes], self.right[nodes])
        return np.asarray(2 ** -self.path[nodes].mean(axis=1), np.float32)


def _average_path_length(sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """c(n) of the isolation forest paper: the mean path length of an unsuccessful search in a binary search tree."""
    others = np.maximum(sizes - 1.0, 1)
    lengths = 2 * (np.log(others) + np.euler_gamma) - 2 * others / np.maximum(sizes, 1)
    return np.where(sizes > 2, lengths, np.where(sizes == 2, 1.0, 0.0))
