"""Where an image stands among those learnt from: standardised, then whitened to few dimensions, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.errors import DataError
from astrodetect.records import Floats

MOST_DIMENSIONS = 40  # of a block: 20 and 80 rank worse on simulated skies and on Galaxy Zoo
CLIP = 10.0  # standard deviations, so that one wild number does not outweigh all others
SMALLEST_SPREAD = 1e-6  # of a number's size: what varies less is rounding
SMALLEST_VARIANCE = 1e-6  # of the widest direction's: a narrower one is rounding too
COLUMNS = 64  # at a time, in double precision
SEED = 0


@dataclass(frozen=True, slots=True)
class Standardisation:
    """Numbers of all sizes made alike: by how many standard deviations each is off the mean, ±CLIP at most."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]  # 0 for a number that does not vary, which then counts nothing

    @classmethod
    def fit(cls, described: Floats) -> Self:
        """Of images one a row; what is not finite is left out."""
        found = [_moments(described[:, at : at + COLUMNS]) for at in range(0, described.shape[1], COLUMNS)]
        mean, spread = np.concatenate(found, axis=1)
        varies = spread > SMALLEST_SPREAD * (np.abs(mean) + SMALLEST_SPREAD)
        return cls(mean, np.divide(1, spread, out=np.zeros_like(spread), where=varies))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """As written."""
        mean = stored.doubles("mean", None)
        return cls(mean, stored.doubles("scale", len(mean)))

    @property
    def width(self) -> int:
        """How many numbers describe an image."""
        return len(self.mean)

    def of(self, described: Floats) -> Floats:
        """The same shape; a number that is missing counts as the mean."""
        off = described.astype(np.float64)
        off -= self.mean
        with np.errstate(invalid="ignore"):  # infinity times nothing
            off *= self.scale
        np.nan_to_num(off, copy=False, nan=0.0)
        return np.clip(off, -CLIP, CLIP, out=off).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Numbers of one kind, and how many dimensions they are given: many of one kind do not drown few of another."""

    numbers: int
    dimensions: int = MOST_DIMENSIONS


@dataclass(frozen=True, slots=True)
class PcaWhitening:
    """Directions in which the images vary, each stretched to a spread of 1 (PCA, whitened)."""

    scaling: Standardisation
    middle: NDArray[np.float64]
    axes: NDArray[np.float64]  # (numbers, dimensions)

    @classmethod
    def fit(cls, described: Floats, most: int = MOST_DIMENSIONS) -> Self:
        """Of images one a row; the same images give the same space."""
        from sklearn.decomposition import PCA  # noqa: PLC0415 - what only scores starts without it

        scaling = Standardisation.fit(described)
        if not scaling.scale.any():
            raise DataError("all these images are alike: give images that differ, to learn what is usual from")
        standard = scaling.of(described)
        found = PCA(min(most, *standard.shape), random_state=SEED).fit(standard)
        wide = found.explained_variance_ > SMALLEST_VARIANCE * found.explained_variance_[0]
        axes = found.components_[wide].T / np.sqrt(found.explained_variance_[wide])
        return cls(scaling, found.mean_.astype(np.float64), np.ascontiguousarray(axes, np.float64))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """As written."""
        scaling = Standardisation.read(stored.part("scaling"))
        middle = stored.doubles("middle", scaling.width)
        return cls(scaling, middle, stored.doubles("axes", scaling.width, None))

    def of(self, described: Floats) -> Floats:
        """(n, dimensions); the sums are taken in double precision, so that company changes nothing."""
        off = self.scaling.of(described) - self.middle
        return np.asarray(np.einsum("nd,dk->nk", off, self.axes), np.float32)


@dataclass(frozen=True, slots=True)
class WhitenedSpace:
    """The axes of each block of numbers, one beside the other."""

    blocks: tuple[PcaWhitening, ...]

    @classmethod
    def fit(cls, described: Floats, blocks: Sequence[FeatureBlock]) -> Self:
        """Of images one a row, whose numbers come in these blocks."""
        parts = np.split(described, np.cumsum([block.numbers for block in blocks])[:-1], axis=1)
        return cls(tuple(PcaWhitening.fit(part, block.dimensions) for part, block in zip(parts, blocks, strict=True)))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """As written."""
        blocks = stored.part("blocks")
        found = [PcaWhitening.read(blocks.part("0"))]
        while f"{len(found)}.middle" in blocks:
            found.append(PcaWhitening.read(blocks.part(str(len(found)))))
        return cls(tuple(found))

    @property
    def width(self) -> int:
        """How many numbers describe an image."""
        return sum(block.scaling.width for block in self.blocks)

    @property
    def dimensions(self) -> int:
        """How many numbers say where an image stands."""
        return sum(int(block.axes.shape[1]) for block in self.blocks)

    def of(self, described: Floats) -> Floats:
        """(n, dimensions)"""
        parts = np.split(described, np.cumsum([block.scaling.width for block in self.blocks])[:-1], axis=1)
        return np.concatenate([block.of(part) for block, part in zip(self.blocks, parts, strict=True)], axis=1)


def _moments(columns: Floats) -> NDArray[np.float64]:
    """(2, columns) mean and standard deviation of what is finite."""
    known = np.isfinite(columns)
    count = np.maximum(known.sum(axis=0), 1)
    numbers = np.where(known, columns, 0).astype(np.float64)
    mean = numbers.sum(axis=0) / count
    off = np.where(known, numbers - mean, 0)
    return np.stack([mean, np.sqrt((off**2).sum(axis=0) / count)])
