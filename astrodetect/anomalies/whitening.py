"""Standardisation and PCA whitening, per block of features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.errors import DataError
from astrodetect.records import Floats

MAX_DIMENSIONS = 40  # of a block: 20 and 80 rank worse on simulated skies and on Galaxy Zoo
CLIP = 10.0  # standard deviations, so that one outlying feature does not outweigh all others
MIN_RELATIVE_DEVIATION = 1e-6  # of a feature's size: less is rounding
MIN_RELATIVE_VARIANCE = 1e-6  # of the first component's: less is rounding
COLUMN_BLOCK = 64  # columns at a time, in double precision
PCA_SEED = 0


@dataclass(frozen=True, slots=True)
class Standardisation:
    """Z-scores of each feature, clipped to ±CLIP; missing values become the mean."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]  # 1 / standard deviation; 0 for a constant feature

    @classmethod
    def fit(cls, features: Floats) -> Self:
        """Fit to images, one per row; values that are not finite are ignored."""
        moments = [_moments(features[:, at : at + COLUMN_BLOCK]) for at in range(0, features.shape[1], COLUMN_BLOCK)]
        mean, deviation = np.concatenate(moments, axis=1)
        varies = deviation > MIN_RELATIVE_DEVIATION * (np.abs(mean) + MIN_RELATIVE_DEVIATION)
        return cls(mean, np.divide(1, deviation, out=np.zeros_like(deviation), where=varies))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """Load from stored arrays."""
        mean = stored.doubles("mean", None)
        return cls(mean, stored.doubles("scale", len(mean)))

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.mean)

    def transform(self, features: Floats) -> Floats:
        """Z-scores in the same shape."""
        z_scores = features.astype(np.float64)
        z_scores -= self.mean
        with np.errstate(invalid="ignore"):  # infinity times 0
            z_scores *= self.scale
        np.nan_to_num(z_scores, copy=False, nan=0.0)
        return np.clip(z_scores, -CLIP, CLIP, out=z_scores).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """A group of features and the dimensions it is whitened to: a large group does not outweigh a small one."""

    features: int
    dimensions: int = MAX_DIMENSIONS


@dataclass(frozen=True, slots=True)
class PcaWhitening:
    """Principal components scaled to unit variance."""

    scaling: Standardisation
    middle: NDArray[np.float64]  # the mean of the standardised features
    axes: NDArray[np.float64]  # (features, dimensions)

    @classmethod
    def fit(cls, features: Floats, max_dimensions: int = MAX_DIMENSIONS) -> Self:
        """Fit to images, one per row; deterministic."""
        from sklearn.decomposition import PCA  # noqa: PLC0415 - scoring starts without scikit-learn

        scaling = Standardisation.fit(features)
        if not scaling.scale.any():
            raise DataError("all training images are identical: give images that differ")
        standardised = scaling.transform(features)
        pca = PCA(min(max_dimensions, *standardised.shape), random_state=PCA_SEED).fit(standardised)
        significant = pca.explained_variance_ > MIN_RELATIVE_VARIANCE * pca.explained_variance_[0]
        axes = pca.components_[significant].T / np.sqrt(pca.explained_variance_[significant])
        return cls(scaling, pca.mean_.astype(np.float64), np.ascontiguousarray(axes, np.float64))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """Load from stored arrays."""
        scaling = Standardisation.read(stored.section("scaling"))
        middle = stored.doubles("middle", scaling.width)
        return cls(scaling, middle, stored.doubles("axes", scaling.width, None))

    def transform(self, features: Floats) -> Floats:
        """(n, dimensions); summed in double precision, so that batch composition does not change the result."""
        centred = self.scaling.transform(features) - self.middle
        return np.asarray(np.einsum("nd,dk->nk", centred, self.axes), np.float32)


@dataclass(frozen=True, slots=True)
class WhitenedSpace:
    """The whitened blocks, concatenated."""

    blocks: tuple[PcaWhitening, ...]

    @classmethod
    def fit(cls, features: Floats, blocks: Sequence[FeatureBlock]) -> Self:
        """Fit to images, one per row, whose features come in these blocks."""
        parts = np.split(features, np.cumsum([block.features for block in blocks])[:-1], axis=1)
        return cls(tuple(PcaWhitening.fit(part, block.dimensions) for part, block in zip(parts, blocks, strict=True)))

    @classmethod
    def read(cls, stored: StoredArrays) -> Self:
        """Load from stored arrays."""
        sections = stored.section("blocks")
        blocks = [PcaWhitening.read(sections.section("0"))]
        while f"{len(blocks)}.middle" in sections:
            blocks.append(PcaWhitening.read(sections.section(str(len(blocks)))))
        return cls(tuple(blocks))

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(block.scaling.width for block in self.blocks)

    @property
    def dimensions(self) -> int:
        """The number of dimensions of the space."""
        return sum(self.block_dimensions)

    @property
    def block_dimensions(self) -> tuple[int, ...]:
        """The number of dimensions of each block."""
        return tuple(int(block.axes.shape[1]) for block in self.blocks)

    def transform(self, features: Floats) -> Floats:
        """(n, dimensions)"""
        parts = np.split(features, np.cumsum([block.scaling.width for block in self.blocks])[:-1], axis=1)
        return np.concatenate([block.transform(part) for block, part in zip(self.blocks, parts, strict=True)], axis=1)


def _moments(columns: Floats) -> NDArray[np.float64]:
    """(2, columns) mean and standard deviation of the finite values."""
    finite = np.isfinite(columns)
    count = np.maximum(finite.sum(axis=0), 1)
    values = np.where(finite, columns, 0).astype(np.float64)
    mean = values.sum(axis=0) / count
    deviations = np.where(finite, values - mean, 0)
    return np.stack([mean, np.sqrt((deviations**2).sum(axis=0) / count)])
