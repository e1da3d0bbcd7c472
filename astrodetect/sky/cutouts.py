"""Cutouts of mosaics: which objects are in them, and their pixels as FITS files in memory, which are stored nowhere."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from astrodetect.errors import DataError, ImageBlank
from astrodetect.records import Floats
from astrodetect.sky.catalogue import ObjectCatalogue
from astrodetect.sky.mosaics import BandImage, MosaicFiles
from astrodetect.sky.wcs import Doubles

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(arcsec|arcmin|px|\"|′|″|')")
UNITS = {"arcsec": 1.0, '"': 1.0, "″": 1.0, "arcmin": 60.0, "'": 60.0, "′": 60.0}  # in arcseconds
MAX_SIZE = 1e6  # in any of the units
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4096
MAX_UNDEFINED = 0.5  # share of a cutout's pixels, in each band
SAME_GRID_PX = 0.01  # by which pixels of one grid may differ
CARD_CHARS, BLOCK_BYTES = 80, 2880  # of FITS
MOSAICS_OPEN = 8  # sets of files


@dataclass(frozen=True, slots=True)
class CutoutSize:
    """The side of the square that is cut out, in arcseconds or pixels."""

    value: float
    in_pixels: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """From 8arcsec, 0.5arcmin or 64px; ValueError says what is wrong."""
        match = SIZE.fullmatch(text.strip())
        if match is None or not 0 < float(match[1]) < MAX_SIZE:
            raise ValueError(f"a size such as 8arcsec, 0.5arcmin or 64px, not {text}")
        return cls(float(match[1]) * UNITS.get(match[2], 1.0), match[2] == "px")

    def pixels(self, arcsec_per_pixel: float) -> int:
        """The side in whole pixels; DataError if it is too small or too large."""
        side = round(self.value if self.in_pixels else self.value / arcsec_per_pixel)
        if not MIN_SIDE_PX <= side <= MAX_SIDE_PX:
            raise DataError(
                f"--size is {side} pixels of {arcsec_per_pixel:.3g}″: {MIN_SIDE_PX} to {MAX_SIDE_PX} are read"
            )
        return side


@dataclass(frozen=True, slots=True)
class CutoutSource:
    """The mosaics, and how large the cutouts are: all that a process needs to make them."""

    mosaics: MosaicFiles
    size: CutoutSize

    def as_message(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> Self:
        """From JSON."""
        files = MosaicFiles(tuple(message["mosaics"]["files"]), tuple(message["mosaics"]["bands"]))
        return cls(files, CutoutSize(**message["size"]))

    def open(self) -> "CutoutMaker":
        """What makes the cutouts; opened once in a process."""
        return _open_maker(self)


class Cutout(str):
    """The reference of a cutout: the name of its object, with what is needed to read it in any process."""

    source: CutoutSource
    position: tuple[float, float]  # RA, Dec

    def __new__(cls, name: str, source: CutoutSource, position: tuple[float, float]) -> Self:
        """Named as its object."""
        cutout = super().__new__(cls, name)
        cutout.source, cutout.position = source, position
        return cutout

    def __reduce__(self) -> tuple[Any, ...]:
        """As its parts, for other processes."""
        return type(self), (str(self), self.source, self.position)

    def read(self) -> bytes:
        """Its pixels as a FITS file; ImageBlank if most are undefined."""
        return self.source.open().read(*self.position)

    def describe(self) -> str:
        """The name and the position, from which `parse` makes it again."""
        return f"{self}@{self.position[0]!r},{self.position[1]!r}"

    @classmethod
    def parse(cls, text: str, source: CutoutSource) -> Self:
        """From a description."""
        name, _, position = text.rpartition("@")
        ra, dec = map(float, position.split(","))
        return cls(name, source, (ra, dec))


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which objects of a list are in the mosaics."""

    inside: list[int]  # their indices
    padded: int  # of these: cutouts that reach over an edge
    outside: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object is in an image, and how much of its cutout."""

    image: BandImage
    x: float
    y: float


class CutoutMaker:
    """Cutouts of opened mosaics. The pixels are those of the finest band; other grids are interpolated bilinearly."""

    def __init__(self, source: CutoutSource) -> None:
        self.bands = source.mosaics.open()
        self._size = source.size
        for image in self.bands[0]:
            source.size.pixels(image.grid.arcsec_per_pixel)
        self._reference = min(range(len(self.bands)), key=lambda band: self.bands[band][0].grid.arcsec_per_pixel)
        self._offsets: dict[tuple[int, int], tuple[int, int] | None] = {}

    @property
    def reference_images(self) -> list[BandImage]:
        """The images of the band whose pixels the cutouts have."""
        return self.bands[self._reference]

    @property
    def plane_count(self) -> int:
        """Of all bands together."""
        return sum(images[0].planes for images in self.bands)

    def aligned_window(self, reference: BandImage, left: int, bottom: int, width: int, height: int) -> Floats:
        """(planes, height, width) of an image of the reference band, and of those of other bands on its pixels."""
        windows = []
        for band in self.bands:
            images = [reference] if reference in band else band
            aligned = ((image, self._offset(image, reference)) for image in images)
            windows += [
                image.window(left + offset[0], bottom + offset[1], width, height)
                for image, offset in aligned
                if offset and image.grid.shares_pixels(left + offset[0], bottom + offset[1], width, height)
            ][:1]
        return np.concatenate(windows)

    def coverage(self, ra: Sequence[float], dec: Sequence[float]) -> Coverage:
        """Which of these positions are in an image of every band."""
        positions = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        inside, padded = np.ones(len(positions[0]), bool), np.zeros(len(positions[0]), bool)
        for band in self.bands:
            in_band, whole = np.zeros(len(inside), bool), np.zeros(len(inside), bool)
            for image in band:
                x, y = image.grid.pixels(*positions)
                in_band |= image.grid.contains(x, y)
                margin = self._size.pixels(image.grid.arcsec_per_pixel) / 2 - 1
                whole |= (
                    (x >= margin) & (x <= image.width - 1 - margin) & (y >= margin) & (y <= image.height - 1 - margin)
                )
            inside &= in_band
            padded |= ~whole
        return Coverage(np.flatnonzero(inside).tolist(), int((inside & padded).sum()), int((~inside).sum()))

    def read(self, ra: float, dec: float) -> bytes:
        """The cutout around a position, as a FITS file; ImageBlank if most of a band is undefined."""
        return encode_fits(self.planes(ra, dec))

    def planes(self, ra: float, dec: float) -> Floats:
        """(planes, side, side) the values around a position, first row at the bottom; NaN where undefined."""
        places = [self._best(band, ra, dec) for band in self.bands]
        reference = places[self._reference]
        side = self._size.pixels(reference.image.grid.arcsec_per_pixel)
        left, bottom = (round(middle - (side - 1) / 2) for middle in (reference.x, reference.y))
        planes = np.concatenate([self._cut(place.image, reference.image, left, bottom, side) for place in places])
        undefined = np.isnan(planes).mean(axis=(1, 2))
        if undefined.max() > MAX_UNDEFINED:
            raise ImageBlank(f"{undefined.max():.0%} of the cutout's pixels are undefined, or outside of the mosaic")
        return planes

    def _best(self, band: Sequence[BandImage], ra: float, dec: float) -> _Place:
        """The image of a band in which the position is the farthest from the edges."""
        best, most = None, -1.0
        for image in band:
            (x,), (y,) = image.grid.pixels([ra], [dec])
            if image.grid.contains(x, y):
                room = min(x, y, image.width - 1 - x, image.height - 1 - y) * image.grid.arcsec_per_pixel
                if best is None or room > most:
                    best, most = _Place(image, float(x), float(y)), room
        if best is None:
            raise ImageBlank("the object is outside of the mosaics")
        return best

    def _cut(self, image: BandImage, reference: BandImage, left: int, bottom: int, side: int) -> Floats:
        offset = self._offset(image, reference)
        if offset is not None:
            return image.window(left + offset[0], bottom + offset[1], side, side)
        y, x = np.mgrid[bottom : bottom + side, left : left + side].astype(np.float64)
        x, y = image.grid.pixels(*reference.grid.positions(x, y))
        return interpolate(image, x, y)

    def _offset(self, image: BandImage, reference: BandImage) -> tuple[int, int] | None:
        """By how many pixels the grid of an image is shifted; None if it differs otherwise."""
        key = id(image), id(reference)
        if key not in self._offsets:
            self._offsets[key] = (0, 0) if image is reference else _grid_offset(image, reference)
        return self._offsets[key]


def cut_out_objects(source: CutoutSource, catalogue: ObjectCatalogue) -> tuple[list[Cutout], str]:
    """A cutout of each object that is in the mosaics, and how many are where; DataError if none is."""
    _open_maker.cache_clear()  # files may have changed since
    named = catalogue.name_objects()
    positions = [(item.ra or 0.0, item.dec or 0.0) for _, item in named]
    coverage = source.open().coverage(*(zip(*positions, strict=True) if positions else ((), ())))
    if not coverage.inside:
        raise DataError(f"none of the {len(catalogue):,} objects of the catalogue is in the mosaics")
    counts = {
        "padded, since they reach over an edge": coverage.padded,
        "objects are outside": coverage.outside,
        "have no position": len(catalogue) - len(named),
    }
    numbers = [f"{count:,} {text}" for text, count in counts.items() if count]
    summary = "; ".join([f"{len(coverage.inside):,} cutouts of {len(catalogue):,} objects", *numbers])
    return [Cutout(named[index][0], source, positions[index]) for index in coverage.inside], summary


def interpolate(image: BandImage, x: Doubles, y: Doubles) -> Floats:
    """(planes, …) values at these places between pixels; NaN beside undefined ones, and outside."""
    from scipy.ndimage import map_coordinates  # noqa: PLC0415 - only where grids differ

    if not np.isfinite(x).any():
        return np.full((image.planes, *x.shape), np.nan, np.float32)
    left, bottom = int(np.floor(np.nanmin(x))), int(np.floor(np.nanmin(y)))
    width, height = (int(np.ceil(np.nanmax(at))) - low + 1 for at, low in ((x, left), (y, bottom)))
    values = image.window(left, bottom, width, height)
    places = [np.nan_to_num(y - bottom, nan=-2.0), np.nan_to_num(x - left, nan=-2.0)]
    planes = [map_coordinates(plane, places, order=1, cval=np.nan, prefilter=False) for plane in values]
    return np.stack(planes).astype(np.float32)


def encode_fits(planes: Floats) -> bytes:
    """A FITS file of 32-bit values: what `fits` reads, written in a hundredth of astropy's time."""
    values = planes[0] if len(planes) == 1 else planes
    cards = {"SIMPLE": "T", "BITPIX": -32, "NAXIS": values.ndim}
    cards |= {f"NAXIS{axis}": length for axis, length in enumerate(reversed(values.shape), start=1)}
    header = "".join(f"{name:8}= {value:>20}".ljust(CARD_CHARS) for name, value in cards.items())
    header = f"{header}END".ljust(-(-(len(header) + 3) // BLOCK_BYTES) * BLOCK_BYTES)
    data = values.astype(">f4").tobytes()
    return header.encode() + data + bytes(-len(data) % BLOCK_BYTES)


def _grid_offset(image: BandImage, reference: BandImage) -> tuple[int, int] | None:
    at = [np.array([0, length // 2, length - 1], np.float64) for length in (reference.width, reference.height)]
    x, y = (values.ravel() for values in np.meshgrid(*at))
    other_x, other_y = image.grid.pixels(*reference.grid.positions(x, y))
    shifts = []
    for differences in (other_x - x, other_y - y):
        if not np.isfinite(differences).all() or np.abs(differences - round(differences[0])).max() > SAME_GRID_PX:
            return None
        shifts.append(round(differences[0]))
    return shifts[0], shifts[1]


@lru_cache(MOSAICS_OPEN)
def _open_maker(source: CutoutSource) -> CutoutMaker:
    return CutoutMaker(source)
