"""Near-duplicate images: re-encoded, resized, slightly cropped, brighter or darker, rotated or mirrored copies.

Each image becomes a small plane of locally normalised contrast, in which faint noise and neighbours, which alone tell
two smooth galaxies apart, count as much as the bright centre. A perceptual signature of DCT magnitudes, invariant under
the eight rotations and reflections, proposes candidate pairs by matrix products; a pair is accepted if the normalised
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
QUERY_BLOCK = 256  # images compared with all others at once
PAIR_BLOCK = 2048

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


def find_pairs(images: ImageSignatures, title: str = "comparing images") -> list[DuplicatePair]:
    """Pairs of copies; of many copies of one image, enough pairs to connect them all."""
    correlations = {}
    with ProgressBar(title, len(images)) as bar:
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
    uncropped = _centred_unit(signatures[:, 0], mean)
    for start in range(0, len(uncropped), QUERY_BLOCK):
        queries = _centred_unit(signatures[start : start + QUERY_BLOCK], mean)
        similarity = queries[:, 0] @ uncropped.T
        for crop in range(1, len(CROPS)):
            np.maximum(similarity, queries[:, crop] @ uncropped.T, out=similarity)
        own = np.arange(len(queries))
        similarity[own, start + own] = -1
        crowded = np.flatnonzero((similarity >= CANDIDATE_SIMILARITY).sum(axis=1) > MAX_CANDIDATES)
        if len(crowded):
            cutoff = -np.partition(-similarity[crowded], MAX_CANDIDATES - 1, axis=1)[:, MAX_CANDIDATES - 1]
            similarity[crowded] = np.where(similarity[crowded] >= cutoff[:, None], similarity[crowded], -1)
        first, second = np.nonzero(similarity >= CANDIDATE_SIMILARITY)
        pairs = np.stack([first + start, second], axis=1)
        yield np.unique(np.sort(pairs, axis=1), axis=0), len(queries)


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
    best = np.full(len(pairs), -1, np.float32)
    for quarter_turns in range(4):
        rotated = np.rot90(first, quarter_turns, (2, 3))
        for oriented in (rotated, rotated[..., ::-1]):
            whole_in_crops = np.einsum("nyx,ncyx->nc", oriented[:, 0], second)
            crops_in_whole = np.einsum("ncyx,nyx->nc", oriented[:, 1:], second[:, 0])
            best = np.maximum(best, np.maximum(whole_in_crops.max(axis=1), crops_in_whole.max(axis=1)))
    return best


def _zero_mean_unit(planes: Planes) -> Floats:
    values = planes.astype(np.float32)
    values -= values.mean(axis=(2, 3), keepdims=True)
    norm = np.sqrt((values * values).sum(axis=(2, 3), keepdims=True))
    return np.asarray(values / np.maximum(norm, 1e-9), np.float32)
