"""The random forest recipe: entropy trees on grey pixels, converted to an OpenVINO graph that the engine runs."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from astrodetect.evaluation.calibration import Calibration
from astrodetect.images import ORIENTATIONS, orient
from astrodetect.inference.engine import FEATURES, MAP, SCORE, openvino, save_network
from astrodetect.records import Floats, Pixels

TREE_COUNT = 300
LUMINANCE_256 = (77, 150, 29)  # of 256: integer luminance, so that every machine compares the same values
CELL_PX = 5  # side of a cell of the activation map
MAX_TRAINING_ROWS = 16_000  # images and their turned copies
MIN_TREES = 0.5  # votes for a class that no tree votes for, so that its logit is finite
LEAF = -2  # scikit-learn's mark in `feature`


@dataclass(frozen=True, slots=True)
class Trees:
    """All nodes of all trees in one table; the children of a leaf are itself."""

    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    class_shares: Floats  # (nodes, classes): of the training images that reach the node
    depth: int


class Forest:
    """The trees, and the calibration of their votes."""

    def __init__(self, trees: Trees, size: int, *, binary: bool) -> None:
        self._trees, self._size, self._binary = trees, size, binary
        self._calibration = Calibration(1.0, (0.0,) * trees.class_shares.shape[1])

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes), descending all trees at once."""
        trees, luminance = self._trees, to_luminance(pixels)
        nodes = np.tile(trees.roots, (len(pixels), 1))
        for _ in range(trees.depth):
            values = np.take_along_axis(luminance, trees.feature[nodes], axis=1)
            nodes = np.where(values <= trees.threshold[nodes], trees.left[nodes], trees.right[nodes])
        votes = trees.class_shares[nodes].mean(axis=1)
        return self._calibration.apply(np.maximum(votes, MIN_TREES / len(trees.roots)))

    def calibrate(self, calibration: Calibration) -> None:
        """Calibrate the votes."""
        self._calibration = calibration

    def write(self, folder: Path, name: str) -> None:
        """Write the trees as an OpenVINO network."""
        save_network(self._graph(), folder / f"{name}.xml")

    def _graph(self) -> Any:
        """uint8 (n, size, size, 3) in; probabilities, every tree's class shares as features, and activation map out."""
        op, trees, size = openvino.opset13, self._trees, self._size
        axis_0, axis_1 = np.int64(0), np.int64(1)
        pixels = op.parameter([-1, size, size, 3], np.uint8, name="pixels")
        weighted = op.multiply(op.convert(pixels, "f32"), np.array(LUMINANCE_256, np.float32))
        grey = op.floor(op.divide(op.reduce_sum(weighted, np.int64(3)), np.float32(256)))
        luminance = op.reshape(grey, np.array([0, size * size]), special_zero=True)
        count = op.gather(op.shape_of(pixels, "i64"), np.array([0]), axis_0)
        roots = op.broadcast(trees.roots[np.newaxis], op.concat([count, np.array([len(trees.roots)])], 0))
        path = [roots]
        for _ in range(trees.depth):
            index, threshold = (op.gather(table, path[-1], axis_0) for table in (trees.feature, trees.threshold))
            goes_left = op.less_equal(op.gather_elements(luminance, index, 1), threshold)
            left, right = (op.gather(table, path[-1], axis_0) for table in (trees.left, trees.right))
            path.append(op.select(goes_left, left, right))
        shares = op.gather(trees.class_shares, path[-1], axis_0)  # (n, trees, classes)
        votes = op.reduce_mean(shares, axis_1)
        logits = op.log(op.maximum(votes, np.float32(MIN_TREES / len(trees.roots))))
        scaled = op.divide(logits, np.float32(self._calibration.temperature))
        probabilities = op.softmax(op.add(scaled, np.array([self._calibration.bias], np.float32)), 1)
        if self._binary:
            probabilities = op.gather(probabilities, np.array([1]), axis_1)
        features = op.reshape(shares, np.array([0, trees.class_shares.shape[1] * len(trees.roots)]), special_zero=True)
        results = []
        for output, name in (
            (probabilities, SCORE),
            (features, FEATURES),
            (self._activation_map(op, path, votes, count), MAP),
        ):
            output.output(0).get_tensor().set_names({name})
            results.append(op.result(output, name=name))
        return openvino.Model(results, [pixels], "forest")

    def _activation_map(self, op: Any, path: list[Any], votes: Any, count: Any) -> Any:
        """For each cell the change that the comparisons of its pixels made to the predicted class's share.

        Of a binary model, the positive class's.
        """
        trees, size = self._trees, self._size
        axis_0, axis_1 = np.int64(0), np.int64(1)
        best = op.topk(votes, axis_1, 1, "max", "none").output(1)
        class_index = op.unsqueeze(op.squeeze(best, axis_1), axis_1)  # (n, 1)
        if self._binary:
            class_index = op.broadcast(axis_1, op.shape_of(class_index))
        table = np.ascontiguousarray(trees.class_shares.reshape(-1))
        classes = np.int64(trees.class_shares.shape[1])
        shares = [
            op.gather(table, op.add(op.multiply(node, classes), op.convert(class_index, "i64")), axis_0)
            for node in path
        ]
        changes = op.concat([op.subtract(after, before) for before, after in pairwise(shares)], 1)
        indices = op.concat([op.gather(trees.feature, node, axis_0) for node in path[:-1]], 1)
        zeros = op.broadcast(np.float32(0), op.concat([count, np.array([size * size])], 0))
        summed = op.scatter_elements_update(zeros, indices, changes, 1, reduction="sum")
        image = op.reshape(summed, np.array([-1, 1, size, size]), special_zero=False)
        cells = op.avg_pool(image, [CELL_PX, CELL_PX], [0, 0], [0, 0], [CELL_PX, CELL_PX], True)
        scale = np.float32(CELL_PX * CELL_PX / len(trees.roots))
        return op.multiply(op.squeeze(cells, axis_1), scale)


def fit_forest(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], *, seed: int, balance: bool, augment: bool, binary: bool
) -> Forest:
    """A forest of these images and, with `augment`, of their rotated and mirrored copies."""
    views = min(ORIENTATIONS, max(1, MAX_TRAINING_ROWS // len(pixels))) if augment else 1
    rows = np.concatenate([to_luminance(np.stack([orient(image, view) for image in pixels])) for view in range(views)])
    classifier = RandomForestClassifier(
        TREE_COUNT, criterion="entropy", random_state=seed, n_jobs=-1, class_weight="balanced" if balance else None
    )
    classifier.fit(rows, np.tile(labels, views))
    return Forest(_node_table(classifier), pixels.shape[1], binary=binary)


def to_luminance(pixels: NDArray[np.uint8] | Pixels) -> Floats:
    """(n, size × size) integers from 0 to 255."""
    weighted = pixels.astype(np.float32) @ np.array(LUMINANCE_256, np.float32)
    return np.floor(weighted / 256).reshape(len(pixels), -1)


def _node_table(classifier: RandomForestClassifier) -> Trees:
    trees = [tree.tree_ for tree in classifier.estimators_]
    counts = [tree.node_count for tree in trees]
    roots = np.cumsum([0, *counts[:-1]])

    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    feature, own = column("feature"), np.arange(sum(counts))
    leaf = feature == LEAF
    offset = np.repeat(roots, counts)
    left, right = (np.where(leaf, own, column(name) + offset) for name in ("children_left", "children_right"))
    counted = column("value")[:, 0, :]
    return Trees(
        roots=roots.astype(np.int64),
        feature=np.where(leaf, 0, feature).astype(np.int64),
        threshold=np.floor(column("threshold")).astype(np.float32),  # of integers: the same comparison
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        class_shares=(counted / counted.sum(axis=1, keepdims=True)).astype(np.float32),
        depth=max(tree.max_depth for tree in trees),
    )
