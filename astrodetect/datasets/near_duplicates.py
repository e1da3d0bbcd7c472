"""Which images show the same picture: re-encoded, resized, a little cropped, brighter or darker, turned or mirrored.

An image becomes a small plane in which every place counts alike, however bright: noise and neighbours tell two smooth
galaxies apart that nothing else does. A signature that turns and mirrors do not change proposes pairs, by products of
large matrices; a pair counts where the planes themselves agree in one of the eight ways to lay one upon the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse

from astrodetect.progress import Bar
from astrodetect.records import Floats

PLANE_PX = 32
SMOOTHED_PX = 2.0  # what is finer than this in a plane counts
FAINTEST = 3.0  # of 255: contrasts below it count for less, as JPEG does away with them
STEPS = 40  # of a plane's values to one: four times the usual contrast fits into a byte
FREQUENCIES = 12  # of the cosine transform, each way
CROPS = (1.0, 0.95, 0.9)  # central shares of an image that may be another's whole
EXPECTED_OF = 32  # images of noise, whose mean signature the mean of a few images leans on
PROPOSED = 0.55  # likeness of signatures from which a pair is looked at
LIKELIEST = 16  # pairs that one image is in at most, as the one that is searched for
SAME = 0.78  # correlation of planes from which two images are one; different galaxies reach 0.73
BLOCK = 256  # images compared with all others in one go
PAIRS_AT_ONCE = 2048

Planes = NDArray[np.int8]  # (n, crops, PLANE_PX, PLANE_PX)


@dataclass(frozen=True, slots=True)
class ImageSignatures:
    """What is kept of images to tell whether they are the same, some 4 kB of each."""

    signatures: NDArray[np.float16]  # (n, crops, d)
    planes: Planes

    def __len__(self) -> int:
        return len(self.planes)

    @staticmethod
    def joined(parts: "list[ImageSignatures]") -> "ImageSignatures":
        """Those of all parts, in their order."""
        return ImageSignatures(
            np.concatenate([part.signatures for part in parts]), np.concatenate([part.planes for part in parts])
        )


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two images that show the same, by their places, the first one before the second."""

    first: int
    second: int
    correlation: float  # correlation; 1 where the pixels are the same


def compute_signatures(pixels: NDArray[np.uint8]) -> ImageSignatures:
    """Sketches of square images (n, side, side, 3); the side is a multiple of PLANE_PX, twice it or more."""
    grey = pixels.astype(np.float32).mean(axis=-1)
    planes = np.stack([_plane(_central(grey, share)) for share in CROPS], axis=1)
    signatures = np.stack([_strengths(planes[:, number]) for number in range(len(CROPS))], axis=1)
    return ImageSignatures(signatures.astype(np.float16), np.clip(np.rint(planes * STEPS), -127, 127).astype(np.int8))


def find_pairs(sketches: ImageSignatures, title: str = "comparing images") -> list[DuplicatePair]:
    """The pairs of images that show the same, by their places; of many copies of one, enough to link them all."""
    found = {}
    with Bar(title, len(sketches)) as bar:
        for proposed, done in _proposals(sketches.signatures):
            for at in range(0, len(proposed), PAIRS_AT_ONCE):
                some = proposed[at : at + PAIRS_AT_ONCE]
                likeness = _agreement(sketches.planes, some)
                for (first, second), value in zip(some.tolist(), likeness.tolist(), strict=True):
                    if value >= SAME:
                        found[first, second] = value
            bar.step(done)
    return [DuplicatePair(first, second, value) for (first, second), value in sorted(found.items())]


def connected_groups(count: int, linked: list[DuplicatePair]) -> NDArray[np.int64]:
    """The number of each image's group: what is linked, through others too, is one."""
    ends = np.array([(pair.first, pair.second) for pair in linked], dtype=np.int64).reshape(-1, 2)
    graph = sparse.coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return np.asarray(sparse.csgraph.connected_components(graph, directed=False)[1], dtype=np.int64)


def _central(grey: Floats, share: float) -> Floats:
    """The central share, averaged to twice a plane's side."""
    side, wanted = grey.shape[1], 2 * PLANE_PX
    if share == 1.0:
        step = side // wanted
        return np.asarray(grey.reshape(len(grey), wanted, step, wanted, step).mean(axis=(2, 4)))
    places = (side - 1) / 2 + ((np.arange(wanted) + 0.5) / wanted - 0.5) * side * share
    low = np.floor(places).astype(int)
    weight = (places - low).astype(np.float32)
    rows = grey[:, low] * (1 - weight)[:, None] + grey[:, low + 1] * weight[:, None]
    return np.asarray(rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight)


def _plane(grey: Floats) -> Floats:
    """What stands out from its surroundings, measured by how much things stand out there."""
    small = grey.reshape(len(grey), PLANE_PX, 2, PLANE_PX, 2).mean(axis=(2, 4))
    around = (0, SMOOTHED_PX, SMOOTHED_PX)
    details = small - ndimage.gaussian_filter(small, around, mode="nearest")
    usual = ndimage.gaussian_filter(details * details, around, mode="nearest")
    return np.asarray(details / np.sqrt(usual + FAINTEST**2), np.float32)


def _strengths(planes: Floats) -> Floats:
    """The strength of each frequency: mirrors change a cosine's sign alone, a turn swaps rows and columns."""
    found = np.sqrt(np.abs(fft.dctn(planes, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES]))
    turned = found.transpose(0, 2, 1)
    down, across = np.triu_indices(FREQUENCIES)
    larger, smaller = np.maximum(found, turned)[:, down, across], np.minimum(found, turned)[:, down, across]
    return np.asarray(np.concatenate([larger[:, 1:], smaller[:, down < across]], axis=1), np.float32)


def _proposals(signatures: NDArray[np.float16]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Pairs (k, 2) whose signatures are alike, block by block, and how many images each block took further."""
    usual = _usual(signatures[:, 0])
    whole = _directions(signatures[:, 0], usual)
    for start in range(0, len(whole), BLOCK):
        block = _directions(signatures[start : start + BLOCK], usual)
        alike = block[:, 0] @ whole.T
        for number in range(1, len(CROPS)):
            np.maximum(alike, block[:, number] @ whole.T, out=alike)
        own = np.arange(len(block))
        alike[own, start + own] = -1
        crowded = np.flatnonzero((alike >= PROPOSED).sum(axis=1) > LIKELIEST)
        if len(crowded):
            least = -np.partition(-alike[crowded], LIKELIEST - 1, axis=1)[:, LIKELIEST - 1]
            alike[crowded] = np.where(alike[crowded] >= least[:, None], alike[crowded], -1)
        first, second = np.nonzero(alike >= PROPOSED)
        ends = np.stack([first + start, second], axis=1)
        yield np.unique(np.sort(ends, axis=1), axis=0), len(block)


def _usual(signatures: NDArray[np.float16]) -> Floats:
    """What these images have in common; of few images, what any image has."""
    noise = np.random.default_rng(0).normal(128, 20, (256, 2 * PLANE_PX, 2 * PLANE_PX)).astype(np.float32)
    expected = _strengths(_plane(noise)).mean(axis=0)
    total = signatures.sum(axis=0, dtype=np.float64) + EXPECTED_OF * expected
    return np.asarray(total / (len(signatures) + EXPECTED_OF), np.float32)


def _directions(signatures: NDArray[np.float16], usual: Floats) -> Floats:
    """How each differs from the usual, of length 1; 0 where there is nothing to see."""
    values = np.where(signatures.any(axis=-1, keepdims=True), signatures.astype(np.float32) - usual, 0)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9), np.float32)


def _agreement(planes: Planes, ends: NDArray[np.int64]) -> Floats:
    """The best correlation of each pair over the eight ways to lay one on the other, and over their crops."""
    one, other = _unit(planes[ends[:, 0]]), _unit(planes[ends[:, 1]])
    best = np.full(len(ends), -1, np.float32)
    for quarter in range(4):
        turned = np.rot90(one, quarter, (2, 3))
        for laid in (turned, turned[..., ::-1]):
            whole = np.einsum("nyx,ncyx->nc", laid[:, 0], other)
            cropped = np.einsum("ncyx,nyx->nc", laid[:, 1:], other[:, 0])
            best = np.maximum(best, np.maximum(whole.max(axis=1), cropped.max(axis=1)))
    return best


def _unit(planes: Planes) -> Floats:
    values = planes.astype(np.float32)
    values -= values.mean(axis=(2, 3), keepdims=True)
    length = np.sqrt((values * values).sum(axis=(2, 3), keepdims=True))
    return np.asarray(values / np.maximum(length, 1e-9), np.float32)
