"""The random forest of the four-class study: grey pixels, entropy, and a network of its trees for the engine."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from astrodetect.images import orient
from astrodetect.inference.engine import FEATURES, MAP, SCORE, openvino
from astrodetect.records import Floats, Pixels

TREES = 300
GREY = (77, 150, 29)  # of 256: luminance in whole numbers, so that every machine compares the same values
CELL = 5  # pixels, each way, that one place of the activation map stands for
MOST_ROWS = 16_000  # images and their turned copies
VIEWS = 8
SMALLEST_SHARE = 0.5  # of a tree: what a class has that no tree speaks for
LEAF = -2  # scikit-learn's mark in `feature`


@dataclass(frozen=True, slots=True)
class Trees:
    """All nodes of all trees in one table; a leaf leads to itself."""

    roots: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    shares: Floats  # (nodes, classes): of the training images that came by
    depth: int


class Forest:
    """Trees, and the temperature that calibrates their votes."""

    def __init__(self, trees: Trees, size: int, *, binary: bool) -> None:
        self._trees, self._size, self._binary, self._temperature = trees, size, binary, 1.0

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes), walking all trees at once."""
        trees, seen = self._trees, grey(pixels)
        at = np.tile(trees.roots, (len(pixels), 1))
        for _ in range(trees.depth):
            low = np.take_along_axis(seen, trees.feature[at], axis=1) <= trees.threshold[at]
            at = np.where(low, trees.left[at], trees.right[at])
        logits = np.log(np.maximum(trees.shares[at].mean(axis=1), SMALLEST_SHARE / len(trees.roots)))
        said = np.exp((logits - logits.max(axis=1, keepdims=True)) / self._temperature)
        return np.asarray(said / said.sum(axis=1, keepdims=True), dtype=np.float32)

    def calibrate(self, temperature: float) -> None:
        """Divides what it says, as logits, by this."""
        self._temperature = temperature

    def write(self, folder: Path, name: str) -> None:
        """The trees as an OpenVINO network."""
        openvino.save_model(self._network(), folder / f"{name}.xml", compress_to_fp16=False)

    def _network(self) -> Any:
        """uint8 (n, size, size, 3) in; the answer, each tree's shares as features, and the map out."""
        op, trees, size = openvino.opset13, self._trees, self._size
        zero, one = np.int64(0), np.int64(1)
        pixels = op.parameter([-1, size, size, 3], np.uint8, name="pixels")
        weighed = op.multiply(op.convert(pixels, "f32"), np.array(GREY, np.float32))
        light = op.floor(op.divide(op.reduce_sum(weighed, np.int64(3)), np.float32(256)))
        seen = op.reshape(light, np.array([0, size * size]), special_zero=True)
        count = op.gather(op.shape_of(pixels, "i64"), np.array([0]), zero)
        at = op.broadcast(trees.roots[np.newaxis], op.concat([count, np.array([len(trees.roots)])], 0))
        path = [at]
        for _ in range(trees.depth):
            place, limit = (op.gather(table, path[-1], zero) for table in (trees.feature, trees.threshold))
            low = op.less_equal(op.gather_elements(seen, place, 1), limit)
            path.append(op.select(low, op.gather(trees.left, path[-1], zero), op.gather(trees.right, path[-1], zero)))
        shares = op.gather(trees.shares, path[-1], zero)  # (n, trees, classes)
        votes = op.reduce_mean(shares, one)
        logits = op.log(op.maximum(votes, np.float32(SMALLEST_SHARE / len(trees.roots))))
        answer = op.softmax(op.divide(logits, np.float32(self._temperature)), 1)
        # What each look at a pixel changed of the share of the class that is said, of two of the second one's, added up
        # where it looked.
        said = op.unsqueeze(op.squeeze(op.topk(votes, one, 1, "max", "none").output(1), one), one)  # (n, 1)
        if self._binary:
            said = op.broadcast(one, op.shape_of(said))
        of_class = np.ascontiguousarray(trees.shares.reshape(-1))
        classes = np.int64(trees.shares.shape[1])
        share = [
            op.gather(of_class, op.add(op.multiply(node, classes), op.convert(said, "i64")), zero) for node in path
        ]
        changes = op.concat([op.subtract(after, before) for before, after in pairwise(share)], 1)
        places = op.concat([op.gather(trees.feature, node, zero) for node in path[:-1]], 1)
        nothing = op.broadcast(np.float32(0), op.concat([count, np.array([size * size])], 0))
        added = op.scatter_elements_update(nothing, places, changes, 1, reduction="sum")
        image = op.reshape(added, np.array([-1, 1, size, size]), special_zero=False)
        cells = op.avg_pool(image, [CELL, CELL], [0, 0], [0, 0], [CELL, CELL], True)
        scale = np.float32(CELL * CELL / len(trees.roots))
        map_ = op.multiply(op.squeeze(cells, one), scale)
        features = op.reshape(shares, np.array([0, trees.shares.shape[1] * len(trees.roots)]), special_zero=True)
        if self._binary:
            answer = op.gather(answer, np.array([1]), one)
        results = []
        for output, title in ((answer, SCORE), (features, FEATURES), (map_, MAP)):
            output.output(0).get_tensor().set_names({title})
            results.append(op.result(output, name=title))
        return openvino.Model(results, [pixels], "forest")


def fit(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], *, seed: int, balance: bool, augment: bool, binary: bool
) -> Forest:
    """A forest of these images, and with `augment` of their turned and mirrored copies."""
    views = min(VIEWS, max(1, MOST_ROWS // len(pixels))) if augment else 1
    rows = np.concatenate([grey(np.stack([orient(image, view) for image in pixels])) for view in range(views)])
    learner = RandomForestClassifier(
        TREES, criterion="entropy", random_state=seed, n_jobs=-1, class_weight="balanced" if balance else None
    )
    learner.fit(rows, np.tile(labels, views))
    return Forest(_trees(learner), pixels.shape[1], binary=binary)


def grey(pixels: NDArray[np.uint8] | Pixels) -> Floats:
    """(n, size × size) whole numbers from 0 to 255."""
    weighed = pixels.astype(np.float32) @ np.array(GREY, np.float32)
    return np.floor(weighed / 256).reshape(len(pixels), -1)


def _trees(learner: RandomForestClassifier) -> Trees:
    grown = [tree.tree_ for tree in learner.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in grown[:-1])])

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in grown])

    feature, own = joined("feature"), np.arange(sum(tree.node_count for tree in grown))
    leaf = feature == LEAF
    shift = np.repeat(roots, [tree.node_count for tree in grown])
    left, right = (np.where(leaf, own, joined(name) + shift) for name in ("children_left", "children_right"))
    shares = joined("value")[:, 0, :]
    return Trees(
        roots=roots.astype(np.int64),
        feature=np.where(leaf, 0, feature).astype(np.int64),
        threshold=np.floor(joined("threshold")).astype(np.float32),  # of whole numbers: the same comparison
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        shares=(shares / shares.sum(axis=1, keepdims=True)).astype(np.float32),
        depth=max(tree.max_depth for tree in grown),
    )
