"""Near-duplicate images: re-encoded, resized, slightly cropped, brighter or darker, rotated or mirrored copies.

Each image becomes a small plane of locally normalised contrast, in which faint noise and neighbours, which alone tell
two smooth galaxies apart, count as much as the bright centre. A perceptual signature of DCT magnitudes, invariant under
the eight rotations and reflections, proposes candidate pairs: an inverted file compares it with those near the same
centroids only, so that the time grows with the power 1.5 of the number of images. A pair is accepted if the normalised
cross-correlation of the planes is high enough in one of the eight orientations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse

from astrodetect.progress import ProgressBar
from astrodetect.records import Floats

PLANE_PX = 32
SMOOTHING_PX = 2.0  # Gaussian sigma of the local mean and local contrast
CONTRAST_FLOOR = 3.0  # of 255, added in quadrature: JPEG removes contrasts below it
QUANTISATION = 40  # int8 steps per unit of normalised contrast: four standard deviations fit into a byte
FREQUENCIES = 12  # DCT coefficients in each direction
CROPS = (1.0, 0.95, 0.9)  # central shares of an image that may be the whole of another
PRIOR_IMAGES = 32  # weight of the mean signature of noise, as a number of images, when centring signatures
CANDIDATE_SIMILARITY = 0.55  # cosine similarity of signatures from which a pair is compared
MAX_CANDIDATES = 16  # candidate pairs per query image
SAME_CORRELATION = 0.78  # cross-correlation from which two images are copies; different galaxies reach 0.73
EXHAUSTIVE = 4096  # images up to which each is compared with all others
LISTS = 4  # of the inverted file, times the square root of the number of images
PROBED_LISTS = 32  # nearest to each query
CLUSTERED = 40  # images per list that its centroids are fitted to
CLUSTERING_STEPS = 6
QUERY_BLOCK = 1024  # images
PAIR_BLOCK = 64  # pairs, whose orientations fit into the processor's cache

_INDICES = np.arange(PLANE_PX * PLANE_PX).reshape(PLANE_PX, PLANE_PX)
_ORIENTATIONS = np.stack(
    [
        plane.ravel()
        for turns in range(4)
        for turned in [np.rot90(_INDICES, turns)]
        for plane in (turned, turned[:, ::-1])
    ]
)  # (8, pixels) which pixel is where after each rotation and reflection

Planes = NDArray[np.int8]  # (n, crops, PLANE_PX, PLANE_PX)


@dataclass(frozen=True, slots=True)
class ImageSignatures:
    """Perceptual signatures and contrast planes of images, about 4 kB each."""

    signatures: NDArray[np.float16]  # (n, crops, d)
    planes: Planes

    def __len__(self) -> int:
        return len(self.planes)

    @staticmethod
    def concatenate(blocks: "list[ImageSignatures]") -> "ImageSignatures":
        """The signatures of several blocks of images, in order."""
        return ImageSignatures(
            np.concatenate([block.signatures for block in blocks]), np.concatenate([block.planes for block in blocks])
        )


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Indices of two copies, the smaller first."""

    first: int
    second: int
    correlation: float  # 1 for identical pixels


def compute_signatures(pixels: NDArray[np.uint8]) -> ImageSignatures:
    """Signatures of square images (n, side, side, 3); the side is a multiple of 2 · PLANE_PX."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    planes = np.stack([_contrast_plane(_crop(grey, share)) for share in CROPS], axis=1)
    signatures = np.stack([_dct_signature(planes[:, crop]) for crop in range(len(CROPS))], axis=1)
    quantised = np.clip(np.rint(planes * QUANTISATION), -127, 127).astype(np.int8)
    return ImageSignatures(signatures.astype(np.float16), quantised)


def find_pairs(images: ImageSignatures) -> list[DuplicatePair]:
    """Pairs of copies; of many copies of one image, enough pairs to connect them all."""
    correlations: dict[tuple[int, int], float] = {}
    if not len(images):
        return []
    with ProgressBar("comparing images", len(images)) as bar:
        for candidates, query_count in _candidate_pairs(images.signatures):
            for start in range(0, len(candidates), PAIR_BLOCK):
                block = candidates[start : start + PAIR_BLOCK]
                values = _cross_correlation(images.planes, block)
                for (first, second), value in zip(block.tolist(), values.tolist(), strict=True):
                    if value >= SAME_CORRELATION:
                        correlations[first, second] = value
            bar.step(query_count)
    return [DuplicatePair(first, second, value) for (first, second), value in sorted(correlations.items())]


def connected_groups(count: int, pairs: list[DuplicatePair]) -> NDArray[np.int64]:
    """The connected component of each of `count` images in the graph of pairs."""
    edges = np.array([(pair.first, pair.second) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _crop(grey: Floats, share: float) -> Floats:
    """The central share of each image, resampled to 2 · PLANE_PX pixels a side."""
    side, target = grey.shape[1], 2 * PLANE_PX
    if share == 1.0:
        step = side // target
        return np.asarray(grey.reshape(len(grey), target, step, target, step).mean(axis=(2, 4)))
    positions = (side - 1) / 2 + ((np.arange(target) + 0.5) / target - 0.5) * side * share
    low = np.floor(positions).astype(int)
    weight = (positions - low).astype(np.float32)
    rows = grey[:, low] * (1 - weight)[:, None] + grey[:, low + 1] * weight[:, None]
    return np.asarray(rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight)


def _contrast_plane(grey: Floats) -> Floats:
    """Local contrast normalisation: deviation from the local mean, divided by the local standard deviation."""
    small = grey.reshape(len(grey), PLANE_PX, 2, PLANE_PX, 2).mean(axis=(2, 4))
    sigma = (0, SMOOTHING_PX, SMOOTHING_PX)
    residual = small - ndimage.gaussian_filter(small, sigma, mode="nearest")
    variance = ndimage.gaussian_filter(residual * residual, sigma, mode="nearest")
    return np.asarray(residual / np.sqrt(variance + CONTRAST_FLOOR**2), np.float32)


def _dct_signature(planes: Floats) -> Floats:
    """DCT magnitudes, symmetrised: a reflection changes only signs, a quarter turn transposes the coefficients."""
    magnitude = np.sqrt(np.abs(fft.dctn(planes, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]))
    transposed = magnitude.transpose(0, 2, 1)
    row, column = np.triu_indices(FREQUENCIES)
    larger = np.maximum(magnitude, transposed)[:, row, column]
    smaller = np.minimum(magnitude, transposed)[:, row, column]
    return np.asarray(np.concatenate([larger[:, 1:], smaller[:, row < column]], axis=1), np.float32)


def _candidate_pairs(signatures: NDArray[np.float16]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Pairs (k, 2) of similar signatures, block by block, with the number of query images in each block."""
    mean = _mean_signature(signatures[:, 0])
    index = _InvertedFile(_centred_unit(signatures[:, 0], mean))
    for start in range(0, len(signatures), QUERY_BLOCK):
        queries = _centred_unit(signatures[start : start + QUERY_BLOCK], mean)
        image, neighbour, similarity = index.search(queries.reshape(-1, queries.shape[-1]))
        image = image // len(CROPS) + start
        image, neighbour, similarity = (values[image != neighbour] for values in (image, neighbour, similarity))
        nearest = np.lexsort((-similarity, neighbour, image))
        image, neighbour, similarity = (values[nearest] for values in (image, neighbour, similarity))
        repeated = (image[1:] == image[:-1]) & (neighbour[1:] == neighbour[:-1])  # by another crop
        pairs = np.stack([image, neighbour], axis=1)[np.concatenate([[True], ~repeated])[: len(image)]]
        similarity = similarity[np.concatenate([[True], ~repeated])[: len(image)]]
        kept = _rank_within(pairs[:, 0], similarity) < MAX_CANDIDATES
        yield np.unique(np.sort(pairs[kept], axis=1), axis=0), len(queries)


def _rank_within(groups: NDArray[np.int64], values: Floats) -> NDArray[np.int64]:
    """The rank of each value among those of its group, 0 for the largest."""
    order = np.lexsort((-values, groups))
    first = np.searchsorted(groups[order], groups[order])
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - first
    return ranks


class _InvertedFile:
    """Unit vectors by their nearest of many centroids; up to EXHAUSTIVE vectors in one list, which is exact."""

    def __init__(self, vectors: Floats) -> None:
        count = 1 if len(vectors) <= EXHAUSTIVE else round(LISTS * len(vectors) ** 0.5)
        self._centroids = _cluster(vectors, count)
        nearest = _nearest_centroids(vectors, self._centroids, 1)[:, 0]
        self._members = np.argsort(nearest, kind="stable")
        self._ends = np.cumsum(np.bincount(nearest, minlength=count))
        self._sorted = vectors[self._members]

    def search(self, queries: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Query, vector and similarity of those at least CANDIDATE_SIMILARITY in the nearest lists of each query."""
        probed = _nearest_centroids(queries, self._centroids, min(PROBED_LISTS, len(self._centroids)))
        order = np.argsort(probed, axis=None, kind="stable")
        rows = np.split(
            order // probed.shape[1], np.cumsum(np.bincount(probed.ravel(), minlength=len(self._ends)))[:-1]
        )
        pairs = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        for number, asking in enumerate(rows):
            members = slice(self._ends[number - 1] if number else 0, self._ends[number])
            similarity = queries[asking] @ self._sorted[members].T
            if similarity.shape[1] > MAX_CANDIDATES + 1:  # one of them may be the image itself
                cutoff = -np.partition(-similarity, MAX_CANDIDATES, axis=1)[:, MAX_CANDIDATES]
                query, member = np.nonzero(similarity >= np.maximum(cutoff, CANDIDATE_SIMILARITY)[:, None])
            else:
                query, member = np.nonzero(similarity >= CANDIDATE_SIMILARITY)
            pairs.append((asking[query], self._members[members][member], similarity[query, member]))
        queries_found, vectors, similarities = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        return queries_found, vectors, similarities


def _cluster(vectors: Floats, count: int) -> Floats:
    """Centroids of spherical k-means on a sample."""
    random = np.random.default_rng(0)
    sample = vectors[random.permutation(len(vectors))[: max(CLUSTERED * count, 1)]]
    centroids = sample[:count]
    for _ in range(CLUSTERING_STEPS if count > 1 else 0):
        nearest = _nearest_centroids(sample, centroids, 1)[:, 0]
        members = sparse.csr_array((np.ones(len(sample), np.float32), (nearest, np.arange(len(sample)))))
        sums = np.zeros_like(centroids)
        sums[: members.shape[0]] = members @ sample
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(length > 0, sums / np.maximum(length, 1e-9), centroids)
    return centroids


def _nearest_centroids(vectors: Floats, centroids: Floats, count: int) -> NDArray[np.int64]:
    """(n, count)"""
    blocks = []
    for start in range(0, max(len(vectors), 1), QUERY_BLOCK):
        similarity = vectors[start : start + QUERY_BLOCK] @ centroids.T
        if count == 1:
            blocks.append(similarity.argmax(axis=1)[:, None])
        else:
            blocks.append(np.argpartition(-similarity, count - 1, axis=1)[:, :count])
    return np.concatenate(blocks)


def _mean_signature(signatures: NDArray[np.float16]) -> Floats:
    """Mean signature of the images, shrunk towards that of noise so that few images can be compared too."""
    noise = np.random.default_rng(0).normal(128, 20, (256, 2 * PLANE_PX, 2 * PLANE_PX)).astype(np.float32)
    prior = _dct_signature(_contrast_plane(noise)).mean(axis=0)
    total = signatures.sum(axis=0, dtype=np.float64) + PRIOR_IMAGES * prior
    return np.asarray(total / (len(signatures) + PRIOR_IMAGES), np.float32)


def _centred_unit(signatures: NDArray[np.float16], mean: Floats) -> Floats:
    """Signatures minus the mean, scaled to unit length; 0 for uniform images."""
    values = np.where(signatures.any(axis=-1, keepdims=True), signatures.astype(np.float32) - mean, 0)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9), np.float32)


def _cross_correlation(planes: Planes, pairs: NDArray[np.int64]) -> Floats:
    """The highest normalised cross-correlation of each pair over the eight orientations and the crops."""
    first, second = _zero_mean_unit(planes[pairs[:, 0]]), _zero_mean_unit(planes[pairs[:, 1]])
    # The inverse of an orientation is one of the eight, so that turning the other image covers the same ones.
    whole_in_crops = second @ np.take(first[:, 0], _ORIENTATIONS, axis=1).transpose(0, 2, 1)
    crops_in_whole = first[:, 1:] @ np.take(second[:, 0], _ORIENTATIONS, axis=1).transpose(0, 2, 1)
    return np.asarray(np.maximum(whole_in_crops.max(axis=(1, 2)), crops_in_whole.max(axis=(1, 2))))


def _zero_mean_unit(planes: Planes) -> Floats:
    """(n, crops, pixels)"""
    values = planes.reshape(*planes.shape[:2], -1).astype(np.float32)
    values -= values.mean(axis=2, keepdims=True)
    norm = np.sqrt((values * values).sum(axis=2, keepdims=True))
    return np.asarray(values / np.maximum(norm, 1e-9), np.float32)
