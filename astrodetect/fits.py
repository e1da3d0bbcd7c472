"""FITS to 8-bit RGB: the first image of a file, the selected planes, stretched to show faint structure.

`images.py` checks the declared size before values are read, and translates exceptions.
"""

import contextlib
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ImageBlank, ImageError, ImageTooManyPixels, ImageUnsupported
from astrodetect.records import ImageContract, Pixels
from astrodetect.sky.fits_reader import fits_reader, read_section
from astrodetect.sky.wcs import icrs_positions, is_icrs, quiet

MAGIC, GZIP, TILES = b"SIMPLE  =", b"\x1f\x8b", b"ZIMAGE  ="
MAX_HDUS = 64  # that are searched for an image
# Tile compression (.fits.fz). The decoders of HCOMPRESS_1 and PLIO_1 trust the sizes that a file declares.
RICE, GZIP_TILES = ("RICE_1", "RICE_ONE"), ("GZIP_1", "GZIP_2")
TILE_CODECS = (*RICE, *GZIP_TILES, "NOCOMPRESS")
RICE_BLOCK_PX, RICE_BYTES = (16, 32), (1, 2, 4)  # settings that the Rice decoder handles
MAX_TILES, MAX_TILE_PIXELS = 1 << 16, 1 << 18  # astropy leaks the buffer of a damaged Rice tile
MAX_MEMBERS, GZIP_CHUNK = 1 << 12, 1 << 16  # of a gzip; bytes of it that are unpacked at a time
BYTES_PER_PIXEL = 12  # of an unpacked gzip: three planes of float32
MAX_SAMPLES = 1 << 18  # values of a plane that the stretch is computed from
SLAB_ROWS = 256  # stretched at a time, which bounds the memory of float64 copies
MAX_ABS_VALUE = 1e100  # values are clipped, so that differences are finite
LINEAR_PERCENTILES = (0.5, 99.5)  # black and white
ASINH_BLACK = -1.0  # standard deviations of the noise from the sky level
ASINH_SOFTENING = 3.0  # standard deviations of the noise: linear below, logarithmic above
ASINH_WHITE_PERCENTILE = 99.9  # of the brightest plane: one white level for all planes preserves colours
MAD_TO_SIGMA = 1.4826  # of a normal distribution
# Keywords of a celestial WCS in the first two axes, with the distortions SIP, TPV and TNX, and with the older names of
# equinox, frame and matrix. Others are not handed to wcslib.
WCS_KEYWORD = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)([12]_[12]|00[12]00[12])|PV[12]_[0-3]?\d|[AB]_(ORDER|\d_\d)"
    r"|WAT[012]_\d{3}|RADESYS|RADECSYS|EQUINOX|EPOCH|LONPOLE|LATPOLE"
)
MAX_SIP_ORDER = 9

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frame:
    """An image whose header has been read, and its values not yet."""

    width: int
    height: int
    planes: int
    _outer: tuple[int, ...]  # lengths of the axes before y and x; at most one is longer than 1
    _hdu: Any

    def pixels(self, contract: ImageContract) -> Pixels:
        """Stretched RGB pixels, with the first row at the top; undefined pixels are black."""
        return stretch_planes([self.plane(number) for number in self._plane_numbers(contract.bands)], contract.stretch)

    def centre(self) -> tuple[float, float] | None:
        """RA and Dec of the middle of the image in degrees, ICRS; None without a celestial WCS."""
        header = {name: self._hdu.header[name] for name in self._hdu.header if WCS_KEYWORD.fullmatch(name)}
        if "CTYPE1" not in header or not all(0 <= header.get(f"{axis}_ORDER", 0) <= MAX_SIP_ORDER for axis in "AB"):
            return None
        with quiet():
            from astropy.io.fits import Header  # noqa: PLC0415 - slow to import
            from astropy.wcs import WCS  # noqa: PLC0415

            wcs = WCS(Header(header))
            if not wcs.has_celestial:
                return None
            middle = (self.width - 1) / 2, (self.height - 1) / 2
            ra, dec = map(float, icrs_positions(wcs, *middle, direct=is_icrs(wcs)))
        return (ra, dec) if math.isfinite(ra) and -90 <= dec <= 90 else None

    def _plane_numbers(self, bands: str) -> list[int]:
        """One plane number for grey, or three."""
        if bands == ImageContract.RGB:
            if self.planes not in {1, 3}:
                raise ImageError(f"FITS of {self.planes} planes: --planes names three (2,1,0), here or in training")
            return list(reversed(range(self.planes)))  # stored by increasing wavelength: red is the last
        numbers = [int(number) for number in bands.split(",")]
        if max(numbers) >= self.planes:
            raise ImageError(f"FITS of {self.planes} planes, counted from 0: there are no bands {bands}")
        return numbers

    def plane(self, number: int) -> NDArray[Any]:
        """The values of a plane, counted from 0, with the first row at the top."""
        index = tuple(number if length > 1 else 0 for length in self._outer)
        with quiet():
            plane = read_section(self._hdu, (*index, ...))
        return plane[::-1]  # FITS counts rows from the bottom


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Map from values to 8 bits: black at `zero`, white at `white` units above it."""

    zero: float
    unit: float
    white: float = 1.0
    asinh: bool = False  # else linear

    def apply(self, values: Values) -> Pixels:
        scaled = (values - self.zero) / self.unit
        relative = np.arcsinh(scaled) / math.asinh(self.white) if self.asinh else scaled / self.white
        levels: Values = np.nan_to_num(relative, nan=0.0).clip(0, 1) * 255
        return np.rint(levels).astype(np.uint8)


def may_have_wcs(data: bytes) -> bool:
    """Whether these bytes are a FITS whose header may say where it is; much faster than reading it."""
    return data.startswith(GZIP) or (data.startswith(MAGIC) and b"CTYPE1" in data)


def read_frame(data: bytes, *, max_pixels: int) -> Frame:
    """The first image in these bytes; astropy may raise almost any exception for damaged ones."""
    limit = max_pixels * BYTES_PER_PIXEL
    if data.startswith(GZIP):
        data = _unpacked(data, limit)
    with quiet():
        fits = fits_reader()
        options = {"memmap": False, "lazy_load_hdus": True, "uint": False}  # unsigned integers have no NaN for BLANK
        hdus = fits.open(BytesIO(data), **options, disable_image_compression=True)
        for number in range(MAX_HDUS):
            with contextlib.suppress(IndexError):  # fewer HDUs
                hdu = hdus[number]
                if type(hdu) is fits.BinTableHDU and hdu.header.get("ZIMAGE") is True:
                    _check_tiles(hdu, limit)
                    hdu = fits.open(BytesIO(data), **options)[number]
                if type(hdu) in {fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU} and len(hdu.shape) >= 2:
                    return _frame_of(hdu)
    raise ImageUnsupported("FITS without an image: tables are not read")


def read_planes(data: bytes, *, most: int, max_pixels: int) -> Iterator[NDArray[Any]]:
    """The values of the first `most` planes of a file that was decoded before, one by one."""
    frame = read_frame(data, max_pixels=max_pixels)
    for number in range(min(most, frame.planes)):
        yield frame.plane(number)


def stretch_planes(planes: Sequence[NDArray[Any]], stretch: str) -> Pixels:
    """RGB pixels of one or three planes of values; undefined values are black."""
    stretches = _stretches([_sample(plane) for plane in planes], stretch)
    channels = [_apply(plane, levels) for plane, levels in zip(planes, stretches, strict=True)]
    return np.stack(channels * (3 // len(channels)), axis=-1)


def _frame_of(hdu: Any) -> Frame:
    *outer, height, width = hdu.shape
    cube_axes = [length for length in outer if length != 1]
    if len(cube_axes) > 1:
        raise ImageUnsupported(
            f"FITS of {len(hdu.shape)} axes: only a plane (y, x) or a cube (band, y, x) is supported"
        )
    return Frame(width, height, cube_axes[0] if cube_axes else 1, tuple(outer), hdu)


def _check_tiles(table: Any, limit: int) -> None:
    """Raise ImageError for compressed tiles that astropy would not decode within the limit of bytes."""
    header, codec = table.header, table.header["ZCMPTYPE"]
    if codec not in TILE_CODECS:
        raise ImageUnsupported(f"FITS compressed by {codec}, which is not read: unpack it with funpack")
    axes = range(1, header["ZNAXIS"] + 1)
    shape, tile_shape = ([index(header[f"{card}{axis}"]) for axis in axes] for card in ("ZNAXIS", "ZTILE"))
    tile_pixels = math.prod(tile_shape)
    tiles = math.prod(math.ceil(length / max(1, tile)) for length, tile in zip(shape, tile_shape, strict=True))
    if min(tile_shape, default=0) < 1 or tile_pixels > MAX_TILE_PIXELS or max(tiles, header["NAXIS2"]) > MAX_TILES:
        raise ImageUnsupported(f"FITS compressed in {tiles:,} tiles of {tile_pixels:,} pixels: unpack it with funpack")
    if codec in RICE:
        settings = {str(header[name]).upper(): header[f"ZVAL{name[5:]}"] for name in header if name[:5] == "ZNAME"}
        if settings.get("BLOCKSIZE", 32) not in RICE_BLOCK_PX or settings.get("BYTEPIX", 4) not in RICE_BYTES:
            raise ImageError("damaged FITS: its Rice compression has settings that do not exist")
    for name in {"GZIP_COMPRESSED_DATA", "COMPRESSED_DATA" if codec in GZIP_TILES else ""} & set(table.columns.names):
        for tile in table.data[name]:
            limit -= len(_unpack(tile.tobytes(), limit)) if len(tile) else 0


def _unpacked(data: bytes, limit: int) -> bytes:
    unpacked = _unpack(data, limit, MAX_MEMBERS)
    if not unpacked.startswith(MAGIC):
        raise ImageUnsupported("the gzip holds no FITS")
    return unpacked


def _unpack(data: bytes, limit: int, most: int = 1) -> bytes:
    """The contents of a gzip of so many members at most: bgzip writes one for each 64 kB."""
    pieces, position, size = list[bytes](), 0, 0
    for _ in range(most):
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not unpacker.eof:
            if not (chunk := data[position : position + GZIP_CHUNK]):
                raise ImageError("damaged FITS: its gzip is truncated")
            pieces.append(unpacker.decompress(chunk, limit + 1 - size))
            size += len(pieces[-1])
            if size > limit:
                raise ImageTooManyPixels(f"the gzip holds more than {limit:,} bytes")
            position += len(chunk) - len(unpacker.unused_data)
        if not data.startswith(GZIP, position):
            break
    if data[position:].strip(b"\0"):
        raise ImageError("damaged FITS: data follow the end of its gzip")
    return b"".join(pieces)


def _sample(plane: NDArray[Any]) -> Values:
    """An evenly spaced sample of its finite values."""
    finite = plane[np.isfinite(plane)]
    return _clipped(finite[:: math.ceil(finite.size / MAX_SAMPLES) or 1])


def _clipped(values: NDArray[Any]) -> Values:
    """As float64, with infinite values undefined."""
    wide = values.astype(np.float64)
    wide[np.isinf(wide)] = np.nan
    return wide.clip(-MAX_ABS_VALUE, MAX_ABS_VALUE)


def _stretches(planes: Sequence[Values], stretch: str) -> list[_Stretch]:
    """The stretch of each plane; one without values is black."""
    if not any(values.size for values in planes):
        raise ImageBlank("FITS without values: every pixel is undefined")
    if stretch == "asinh":
        skies = [_sky(values) for values in planes]
        tops = [
            float(np.percentile((values - sky.zero) / sky.unit, ASINH_WHITE_PERCENTILE))
            for values, sky in zip(planes, skies, strict=True)
            if values.size
        ]
        return [_Stretch(sky.zero, sky.unit, white=max(1.0, *tops), asinh=True) for sky in skies]
    return [_between(*_limits(values, stretch)) for values in planes]


def _sky(values: Values) -> _Stretch:
    """Zero and unit of the asinh stretch, from the median and the median absolute deviation."""
    if not values.size:
        return _Stretch(0.0, 1.0)
    sky = float(np.median(values))
    noise = MAD_TO_SIGMA * float(np.median(np.abs(values - sky))) or float(values.std()) or 1.0
    return _Stretch(sky + ASINH_BLACK * noise, ASINH_SOFTENING * noise)


def _limits(values: Values, stretch: str) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    if stretch == "linear":
        low, high = np.percentile(values, LINEAR_PERCENTILES)
    else:
        with quiet():
            from astropy.visualization import ZScaleInterval  # noqa: PLC0415 - as above

            low, high = ZScaleInterval().get_limits(values)
    return float(low), float(high)


def _between(low: float, high: float) -> _Stretch:
    return _Stretch(low, high - low or 1.0)


def _apply(plane: NDArray[Any], stretch: _Stretch) -> Pixels:
    levels = np.empty(plane.shape, dtype=np.uint8)
    with np.errstate(all="ignore"):  # undefined values become black
        for row in range(0, len(plane), SLAB_ROWS):
            levels[row : row + SLAB_ROWS] = stretch.apply(_clipped(plane[row : row + SLAB_ROWS]))
    return levels
