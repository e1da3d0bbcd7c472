"""Values of FITS images, compressed for storage, and pictures of them with a chosen stretch."""

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

MAX_BANDS = 12  # that are stored of a cube: the first ones
SLAB_BLOCKS = 32  # rows of blocks that are averaged at a time, which bounds the memory of float64 copies
MAX_NUMBER = 60_000.0  # float16 ends at 65,504
STEPS = np.float32(64)  # of the noise: finer ones are random bits, which do not compress
MAX_SAMPLES = 1 << 16  # values of a band that its scale is computed from
MAD_TO_SIGMA = 1.4826  # of a normal distribution
ASINH_SOFTENING, LOG_SCALE = 10.0, 1000.0  # those of DS9 and astropy.visualization

ValueStretch: TypeAlias = Literal["linear", "asinh", "log"]
STRETCHES = get_args(ValueStretch)
Values: TypeAlias = NDArray[np.float32]
CURVES: dict[ValueStretch, Callable[[Values], Values]] = {  # from 0 at black to 1 at white
    "linear": lambda level: level,
    "asinh": lambda level: np.arcsinh(ASINH_SOFTENING * level) / np.float32(math.asinh(ASINH_SOFTENING)),
    "log": lambda level: np.log1p(LOG_SCALE * level) / np.float32(math.log1p(LOG_SCALE)),
}


@dataclass(frozen=True, slots=True)
class FitsValues:
    """The bands of an image: each value is `zero + unit * number`; the numbers are float16, byte-shuffled, deflated."""

    image_sha256: str
    width: int  # pixels
    height: int
    zeros: list[float]  # of each band
    units: list[float]
    content: bytes


def compress_values(image_sha256: str, planes: Iterable[NDArray[Any]], side: int) -> FitsValues:
    """The values of these bands; a longer side of more than `side` pixels is averaged down in square blocks."""
    bands, zeros, units = [], [], []
    for plane in planes:
        band = _average_blocks(plane, math.ceil(max(plane.shape) / side))
        finite = band[np.isfinite(band)]
        zero, unit = _scale(finite)
        numbers = ((band - zero) / unit).astype(np.float32)
        numbers = np.rint(numbers * STEPS) / STEPS
        bands.append(numbers.astype(np.float16))
        zeros.append(zero)
        units.append(unit)
    stacked = np.stack(bands).astype("<f2")
    shuffled = stacked.view(np.uint8).reshape(-1, 2).T.tobytes()
    _, height, width = stacked.shape
    deflater = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)  # noise has no repetitions to look for
    content = deflater.compress(shuffled) + deflater.flush()
    return FitsValues(image_sha256, width, height, zeros, units, content)


def band_values(values: FitsValues, band: int) -> Values:
    """The values of a band, (height, width), with NaN where they are undefined."""
    count = values.width * values.height
    shuffled = np.frombuffer(zlib.decompress(values.content), np.uint8).reshape(2, len(values.zeros), count)
    numbers = np.ascontiguousarray(shuffled[:, band].T).view("<f2").reshape(values.height, values.width)
    return np.asarray(numbers.astype(np.float64) * values.units[band] + values.zeros[band], np.float32)


def stretch_bands(
    values: FitsValues, bands: Sequence[int], stretch: ValueStretch, low: float, high: float
) -> NDArray[np.uint8]:
    """(height, width) of one band, (height, width, 3) of three; black and white at these percentiles of each."""
    channels = [_stretch(band_values(values, band), stretch, low, high) for band in bands]
    return channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)


def _stretch(band: Values, stretch: ValueStretch, low: float, high: float) -> NDArray[np.uint8]:
    finite = band[np.isfinite(band)]
    black, white = np.percentile(finite, [low, high]) if finite.size else (0.0, 1.0)
    level = np.nan_to_num((band - np.float32(black)) / np.float32(white - black or 1.0)).clip(0, 1)
    return np.rint(255 * CURVES[stretch](level)).astype(np.uint8)


def _scale(finite: NDArray[np.float64]) -> tuple[float, float]:
    """The sky level, and the standard deviation of its noise unless the brightest value needs a larger unit."""
    if not finite.size:
        return 0.0, 1.0
    sample = finite[:: math.ceil(finite.size / MAX_SAMPLES)]
    zero = float(np.median(sample))
    noise = MAD_TO_SIGMA * float(np.median(np.abs(sample - zero))) or float(sample.std())
    return zero, max(noise, float(np.abs(finite - zero).max()) / MAX_NUMBER) or 1.0


def _average_blocks(plane: NDArray[Any], block: int) -> NDArray[np.float64]:
    """The mean of the finite values of each square block; the last ones of a row or column may be smaller."""
    if block == 1:
        values = plane.astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        return values
    height, width = (-(-length // block) for length in plane.shape)
    means = np.empty((height, width))
    for row in range(0, height, SLAB_BLOCKS):
        slab = plane[row * block : (row + SLAB_BLOCKS) * block].astype(np.float64)
        rows = -(-len(slab) // block)
        padded = np.full((rows * block, width * block), np.nan)
        padded[: slab.shape[0], : slab.shape[1]] = slab
        blocks = padded.reshape(rows, block, width, block)
        finite = np.isfinite(blocks)
        with np.errstate(invalid="ignore", over="ignore"):
            sums = np.where(finite, blocks, 0).sum(axis=(1, 3))
            means[row : row + rows] = sums / finite.sum(axis=(1, 3))
    means[np.isinf(means)] = np.nan
    return means
