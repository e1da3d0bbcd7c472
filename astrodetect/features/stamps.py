"""Stamps: the centre of an image at one size, as planes, and what all measurements of it need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple, Self

import numpy as np
import scipy  # loads its submodules when they are first used
from numpy.typing import NDArray

from astrodetect.records import Floats

SIDE_PX = 64  # of a stamp
PIXELS = SIDE_PX * SIDE_PX
FULL_SCALE = np.float32(255)
BLOCK_PX = 16  # pixels of a stamp that one product resamples or smooths: they depend on few others
WIDE_PX = 2.0  # standard deviation from which on larger blocks smooth faster
RESAMPLED = 4  # images at a time: their pixels stay in the processor's cache
SMOOTHING_PX = 0.8  # standard deviation of the Gaussian that suppresses the noise of single pixels
PEAK_WITHIN_PX = 4  # of the centre
MIN_NOISE = np.float32(0.004)  # of full scale: quantisation to 8 bits
MAD_TO_SIGMA = np.float32(1.4826)  # standard deviation of Gaussian noise over its median absolute deviation


@dataclass(frozen=True, slots=True)
class Stamps:
    """Stamps with their sky, and their smoothed light."""

    planes: Floats  # (n, 3, SIDE_PX, SIDE_PX) bands, values 0 to 1
    sky: Floats  # (n, 3) of each band
    background: Floats  # (n,) sky of the mean of the bands
    noise: Floats  # (n,) its standard deviation
    light: Floats  # (n, SIDE_PX, SIDE_PX) mean of the bands above the background
    smooth: Floats  # (n, SIDE_PX, SIDE_PX) smoothed light
    peak: Floats  # (n,) of the smoothed light at the centre

    def __len__(self) -> int:
        return len(self.planes)

    @classmethod
    def cut(cls, pixels: NDArray[np.uint8], crop: float) -> Self:
        """Of the central `crop` of square images (n, side, side, 3)."""
        return cls.of(cut_planes(pixels, crop))

    @classmethod
    def of(cls, planes: Floats) -> Self:
        """Of these bands (n, 3, SIDE_PX, SIDE_PX)."""
        light = mean_of_bands(planes)
        border: Floats = np.empty(
            (len(planes), 4, 4, SIDE_PX), np.float32
        )  # the two outermost rows at the top and the bottom
        border[:, :3, :2], border[:, :3, 2:] = planes[:, :, :2], planes[:, :, -2:]
        border[:, 3, :2], border[:, 3, 2:] = light[:, :2], light[:, -2:]
        border = border.reshape(len(planes), 4, -1)
        sky = _medians(border)
        background = sky[:, 3]
        noise = MAD_TO_SIGMA * _medians(np.abs(border[:, 3] - background[:, None])) + MIN_NOISE
        light -= background[:, None, None]
        smooth = gaussian_blur(light, SMOOTHING_PX)
        centre = slice(SIDE_PX // 2 - PEAK_WITHIN_PX, SIDE_PX // 2 + PEAK_WITHIN_PX)
        peak = smooth[:, centre, centre].max(axis=(1, 2))
        return cls(planes, sky[:, :3], background, noise, light, smooth, peak)


def cut_planes(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """The central `crop` of each square image resampled by area to (n, 3, SIDE_PX, SIDE_PX), values 0 to 1."""
    planes = np.empty((len(pixels), 3, SIDE_PX, SIDE_PX), np.float32)
    begin, end, blocks = _resampling(pixels.shape[1], crop)
    size = end - begin
    rows = np.empty((RESAMPLED, SIDE_PX, 3 * size), np.float32)
    for first in range(0, len(pixels), RESAMPLED):
        stamps = planes[first : first + RESAMPLED]
        count = len(stamps)
        source = pixels[first : first + count, begin:end, begin:end].astype(np.float32).reshape(count, size, 3 * size)
        for block in blocks:
            np.matmul(block.of_rows, source[:, block.source], out=rows[:count, block.stamp])
        bands = rows[:count].reshape(count, SIDE_PX, size, 3).transpose(0, 3, 1, 2).copy()
        for block in blocks:
            np.matmul(bands[..., block.source], block.of_columns, out=stamps[..., block.stamp])
    return planes


def mean_of_bands(planes: Floats) -> Floats:
    """(n, SIDE_PX, SIDE_PX)"""
    grey = planes[:, 0] + planes[:, 1]
    grey += planes[:, 2]
    grey /= np.float32(3)
    return grey


def gaussian_blur(planes: Floats, sigma: float) -> Floats:
    """Gaussian smoothing, `sigma` in pixels, as matrix products: faster than a filter for small planes."""
    rows, smooth = np.empty_like(planes), np.empty_like(planes)
    for pixels, source, kernel, _ in _blur_products(sigma):
        np.matmul(kernel, planes[..., source, :], out=rows[..., pixels, :])
    for pixels, source, _, kernel in _blur_products(sigma):
        np.matmul(rows[..., source], kernel, out=smooth[..., pixels])
    return smooth


def row_products(rows: Floats, matrix: Floats) -> Floats:
    """The product of each row with the matrix: that of all rows at once rounds by how many there are."""
    return np.asarray(np.matmul(rows[:, np.newaxis], matrix)[:, 0])


def join_columns(columns: Sequence[NDArray[np.floating]]) -> Floats:
    """(n, d) one feature vector for each image, with zeros for what is not a number."""
    joined = np.concatenate(columns, axis=1).astype(np.float32, copy=False)
    return joined if np.isfinite(joined).all() else np.nan_to_num(joined)


def _medians(values: Floats) -> Floats:
    """The median along the last axis, of an even length; sorting so few values is faster than partitioning them."""
    half = values.shape[-1] // 2
    ranked = np.sort(values, axis=-1)
    return np.asarray((ranked[..., half - 1] + ranked[..., half]) / 2)


@cache
def centre_distance() -> Floats:
    """(SIDE_PX, SIDE_PX) distance of each pixel from the centre."""
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    return np.asarray(np.hypot(at[:, None], at), np.float32)


@lru_cache(16)
def _blur_products(sigma: float) -> list[tuple[slice, slice, Floats, Floats]]:
    """Blocks of pixels along an axis, the pixels that they depend on, and the kernel for rows and for columns.

    Blocks, since most of one product with the whole matrix would be with zeros.
    """
    kernel = scipy.ndimage.gaussian_filter1d(np.eye(SIDE_PX), sigma, axis=0).astype(np.float32)
    size = BLOCK_PX if sigma < WIDE_PX else 2 * BLOCK_PX
    products = []
    for pixels in (slice(at, at + size) for at in range(0, SIDE_PX, size)):
        needed = np.flatnonzero(kernel[pixels].any(axis=0)).tolist()
        source = slice(needed[0], needed[-1] + 1)
        part = kernel[pixels, source]
        products.append((pixels, source, np.ascontiguousarray(part), np.ascontiguousarray(part.T)))
    return products


class _Block(NamedTuple):
    """Some pixels of a stamp along an axis, the source pixels that overlap them, and the products with these."""

    stamp: slice
    source: slice
    of_rows: Floats  # (stamp, source)
    of_columns: Floats  # (source, stamp)


@lru_cache(16)
def _resampling(side: int, crop: float) -> tuple[int, int, list[_Block]]:
    """First and last source pixel of the centre, and the products that resample it."""
    edges = (side - side * crop) / 2 + np.linspace(0, side * crop, SIDE_PX + 1)
    begin, end = math.floor(edges[0] + 1e-6), math.ceil(edges[-1] - 1e-6)
    overlap = np.diff(np.clip(np.arange(begin, end)[:, None] + 1 - edges, 0, 1), axis=1) * -1
    weights = (overlap / overlap.sum(axis=0)).astype(np.float32)  # (source, stamp)
    blocks = []
    for stamp in (slice(at, at + BLOCK_PX) for at in range(0, SIDE_PX, BLOCK_PX)):
        overlapping = np.flatnonzero(weights[:, stamp].any(axis=1)).tolist()
        source = slice(overlapping[0], overlapping[-1] + 1)
        part = weights[source, stamp]
        blocks.append(_Block(stamp, source, np.ascontiguousarray(part.T), part / FULL_SCALE))
    return begin, end, blocks
