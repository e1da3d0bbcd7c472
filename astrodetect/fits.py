"""FITS to eight bits: the first image of a file, the planes that are asked for, stretched so that faint things show.

For `images.py` alone, which judges the declared size before a value is read, and makes ImageErrors of what goes wrong.
"""

import contextlib
import math
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ImageBlank, ImageError, ImageTooManyPixels, ImageUnsupported
from astrodetect.records import ImageContract, Pixels

MAGIC, GZIP = b"SIMPLE  =", b"\x1f\x8b"
MOST_PARTS = 64  # of a file that are looked through for an image
UNPACKED_BYTES_A_PIXEL = 12  # a gzip may unpack to three planes of float32 of the largest image
STATISTICS = 1 << 18  # values of a plane, at most, that its limits are taken from
SLAB_ROWS = 256  # are stretched at a time, so that wide floats never fill the memory
LARGEST = 1e100  # values are clipped to it, so that differences are finite
LINEAR_PERCENT = (0.5, 99.5)  # are black and white
ASINH_BLACK = -1.0  # times the noise, from the sky
ASINH_SOFT = 3.0  # times the noise: fainter is shown linear, brighter logarithmic
ASINH_WHITE_PERCENT = 99.9  # of the brightest plane: one white for all planes keeps colours apart
SIGMA = 1.4826  # of a normal distribution, in median absolute deviations

Values = NDArray[np.float64]

_astropy = threading.Lock()  # warnings can only be silenced for all threads at once


@dataclass(frozen=True, slots=True)
class Frame:
    """An image whose header is read and whose values are not."""

    width: int
    height: int
    planes: int
    _outer: tuple[int, ...]  # lengths of the axes before y and x, all but one of them 1
    _hdu: Any

    def pixels(self, contract: ImageContract) -> Pixels:
        """What the contract shows of it, the sky the right way up; a place without a value is black."""
        planes = [self._plane(number) for number in self._shown(contract.bands)]
        scales = _scales([_statistics(plane) for plane in planes], contract.stretch)
        shown = [_stretched(plane, scale) for plane, scale in zip(planes, scales, strict=True)]
        return np.stack(shown * (3 // len(shown)), axis=-1)

    def _shown(self, bands: str) -> list[int]:
        """The numbers of one plane, for grey, or of three."""
        if bands == ImageContract.RGB:
            if self.planes not in {1, 3}:
                raise ImageError(f"FITS of {self.planes} planes: a model for it names three, as in --bands 2,1,0")
            return list(reversed(range(self.planes)))  # stored from short to long wavelengths: red is the last
        numbers = [int(number) for number in bands.split(",")]
        if max(numbers) >= self.planes:
            raise ImageError(f"FITS of {self.planes} planes, counted from 0: there are no bands {bands}")
        return numbers

    def _plane(self, number: int) -> NDArray[Any]:
        place = tuple(number if length > 1 else 0 for length in self._outer)
        with _quiet():
            plane = np.asarray(self._hdu.section[(*place, ...)])
        return plane[::-1]  # FITS counts rows from the bottom


@dataclass(frozen=True, slots=True)
class _Scale:
    """How values become shades: black at `zero`, white `white` units above it."""

    zero: float
    unit: float
    white: float = 1.0
    bent: bool = False  # by asinh

    def shades(self, values: Values) -> Pixels:
        height = (values - self.zero) / self.unit
        share = np.arcsinh(height) / math.asinh(self.white) if self.bent else height / self.white
        shades: Values = np.nan_to_num(share, nan=0.0).clip(0, 1) * 255
        return np.rint(shades).astype(np.uint8)


def read_frame(data: bytes, *, max_pixels: int) -> Frame:
    """The first image in these bytes; damaged ones make astropy raise almost anything."""
    if data.startswith(GZIP):
        data = _unpacked(data, max_pixels * UNPACKED_BYTES_A_PIXEL)
    with _quiet():
        from astropy.io import fits  # noqa: PLC0415 - takes most of a second, and few read FITS

        parts = fits.open(BytesIO(data), memmap=False, lazy_load_hdus=True, disable_image_compression=True)
        for number in range(MOST_PARTS):
            with contextlib.suppress(IndexError):  # of a file with fewer parts
                hdu = parts[number]
                if type(hdu) in {fits.PrimaryHDU, fits.ImageHDU} and len(hdu.shape) >= 2:
                    return _frame_of(hdu)
    raise ImageUnsupported("FITS without an image: tables and tile-compressed images (.fz) are not read")


def _frame_of(hdu: Any) -> Frame:
    *outer, height, width = hdu.shape
    long = [length for length in outer if length != 1]
    if len(long) > 1:
        raise ImageUnsupported(f"FITS of {len(hdu.shape)} axes: a plane (y, x) or a cube (band, y, x) is read")
    return Frame(width, height, long[0] if long else 1, tuple(outer), hdu)


def _unpacked(data: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    unpacked = unpacker.decompress(data, limit + 1)
    if not unpacked.startswith(MAGIC):
        raise ImageUnsupported("a gzip that holds no FITS")
    if len(unpacked) > limit:
        raise ImageTooManyPixels(f"a gzip that holds more than {limit:,} bytes")
    if not unpacker.eof:
        raise ImageError("damaged FITS: its gzip is cut short")
    return unpacked


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Odd headers harm no pixel, so astropy may keep its warnings to itself."""
    with _astropy, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _statistics(plane: NDArray[Any]) -> Values:
    """Some of its values, spread evenly over those that it has."""
    known = plane[np.isfinite(plane)]
    return _clipped(known[:: math.ceil(known.size / STATISTICS) or 1])


def _clipped(values: NDArray[Any]) -> Values:
    """As wide floats; infinite ones are as good as none."""
    wide = values.astype(np.float64)
    wide[np.isinf(wide)] = np.nan
    return wide.clip(-LARGEST, LARGEST)


def _scales(planes: Sequence[Values], stretch: str) -> list[_Scale]:
    """A scale for each plane; one without values is black."""
    if not any(values.size for values in planes):
        raise ImageBlank("FITS without a value: every pixel is blank")
    if stretch == "asinh":
        skies = [_sky(values) for values in planes]
        tops = [
            float(np.percentile((values - sky.zero) / sky.unit, ASINH_WHITE_PERCENT))
            for values, sky in zip(planes, skies, strict=True)
            if values.size
        ]
        return [_Scale(sky.zero, sky.unit, white=max(1.0, *tops), bent=True) for sky in skies]
    return [_between(*_limits(values, stretch)) for values in planes]


def _sky(values: Values) -> _Scale:
    """What is below the sky's noise is black, and the unit is that of ASINH_SOFT."""
    if not values.size:
        return _Scale(0.0, 1.0)
    sky = float(np.median(values))
    noise = SIGMA * float(np.median(np.abs(values - sky))) or float(values.std()) or 1.0
    return _Scale(sky + ASINH_BLACK * noise, ASINH_SOFT * noise)


def _limits(values: Values, stretch: str) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    if stretch == "linear":
        low, high = np.percentile(values, LINEAR_PERCENT)
    else:
        with _quiet():
            from astropy.visualization import ZScaleInterval  # noqa: PLC0415 - as above

            low, high = ZScaleInterval().get_limits(values)
    return float(low), float(high)


def _between(low: float, high: float) -> _Scale:
    return _Scale(low, high - low or 1.0)


def _stretched(plane: NDArray[Any], scale: _Scale) -> Pixels:
    shades = np.empty(plane.shape, dtype=np.uint8)
    with np.errstate(all="ignore"):  # a value that cannot be told is black
        for row in range(0, len(plane), SLAB_ROWS):
            shades[row : row + SLAB_ROWS] = scale.shades(_clipped(plane[row : row + SLAB_ROWS]))
    return shades
