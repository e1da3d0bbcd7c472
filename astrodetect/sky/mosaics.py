"""Mosaics: FITS images of the sky, of one or several bands, of which windows are read without reading the rest."""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.records import Floats, ImageContract
from astrodetect.sky.fits_reader import fits_reader, read_section
from astrodetect.sky.mosaic_cache import local_copy
from astrodetect.sky.wcs import PixelGrid, quiet
from astrodetect.storage import objects
from astrodetect.storage.references import is_url, printable_url

GZIP_SUFFIX = ".gz"
VERSION_DIGITS = 12
CHOSEN_HDU = re.compile(r"(.+)\[([^\[\]]+)\]", re.DOTALL)  # FILE[NAME] or FILE[NUMBER]
FILTER_CARDS = ("FILTER", "FILTER1", "FILTER2", "BAND")
WORDS = re.compile(r"[^\W_]+")
FILTER_ORDERS = ("ugrizyYJHK", "UBVRI", "JHK")  # systems of filters by increasing wavelength


@dataclass(frozen=True, slots=True)
class ImageHdu:
    """Where an image is in a file, as its header says."""

    path: str
    number: int
    header: Any
    shape: tuple[int, ...]
    offset: int | None  # of its values, in bytes; None if they are compressed
    alone: bool  # the only image of its file

    @property
    def name(self) -> str:
        """For messages."""
        name = self.header.get("EXTNAME") or self.number
        return Path(self.path).name + ("" if self.alone else f"[{name}]")

    @property
    def planes(self) -> int:
        """Of a cube, or 1."""
        return max(self.shape[:-2], default=1)


class BandImage:
    """An image of one or several planes; of files that are not compressed, only the pages of a window are read."""

    def __init__(self, hdu: ImageHdu) -> None:
        *outer, self.height, self.width = hdu.shape
        if sum(length != 1 for length in outer) > 1:
            raise DataError(f"the mosaic {hdu.name} has {len(hdu.shape)} axes: a plane, or a cube of planes, is read")
        self.name, self.planes, self._hdu = hdu.name, hdu.planes, hdu
        self.grid = PixelGrid.of_header(hdu.header, self.width, self.height, hdu.name)
        header = hdu.header
        self._values: NDArray[Any] | None = None
        self._state = objects.file_state(hdu.path)
        try:
            bits, self._scale = int(header["BITPIX"]), float(header.get("BSCALE", 1))
            self._zero = float(header.get("BZERO", 0))
            self._blank = None if header.get("BLANK") is None else int(header["BLANK"])
            dtype = np.dtype(np.uint8 if bits == 8 else f">{'f' if bits < 0 else 'i'}{abs(bits) // 8}")
        except (ValueError, TypeError) as error:
            raise DataError(f"the mosaic {hdu.name} has values of an unknown kind") from error
        if hdu.offset is not None:
            try:
                self._values = np.memmap(hdu.path, dtype, "r", hdu.offset, (self.planes, self.height, self.width))
            except (ValueError, OSError) as error:
                raise DataError(f"the mosaic {hdu.name} is truncated") from error

    def window(self, left: int, bottom: int, width: int, height: int) -> Floats:
        """(planes, height, width) values; NaN where they are undefined, or outside of the image."""
        values = np.full((self.planes, height, width), np.nan, np.float32)
        x, y = (max(0, left), min(self.width, left + width)), (max(0, bottom), min(self.height, bottom + height))
        if x[0] < x[1] and y[0] < y[1]:
            inside = (slice(None), slice(y[0] - bottom, y[1] - bottom), slice(x[0] - left, x[1] - left))
            values[inside] = self._read(slice(*y), slice(*x))
        return values

    def _read(self, rows: slice, columns: slice) -> NDArray[Any]:
        if objects.file_state(self._hdu.path) != self._state:  # reading mapped pages that are gone ends the process
            raise DataError(f"the mosaic {self.name} has changed while it was read: begin again, score with --restart")
        if self._values is None:  # the tiles around it are unpacked
            with quiet(), fits_reader().open(self._hdu.path, uint=False) as hdus:  # NaN for BLANK
                outer = [slice(None)] * (len(self._hdu.shape) - 2)
                values = read_section(hdus[self._hdu.number], (*outer, rows, columns))
            return values.reshape(self.planes, rows.stop - rows.start, columns.stop - columns.start)
        stored = self._values[:, rows, columns]
        values = stored if (self._scale, self._zero) == (1, 0) else stored * self._scale + self._zero
        return (
            values
            if self._blank is None or stored.dtype.kind == "f"
            else np.where(stored == self._blank, np.nan, values)
        )


@dataclass(frozen=True, slots=True)
class MosaicFiles:
    """Which images are the mosaics: of each band an HDU or files, by names; without, the first image of each file."""

    files: tuple[str, ...]  # paths, some with [HDU]
    bands: tuple[str, ...] = ()  # by increasing wavelength

    def open(self) -> list[list[BandImage]]:
        """The images of each band, of which there is one without names; DataError says what is wrong."""
        by_band: dict[str, list[BandImage]] = defaultdict(list)
        for file in self.files:
            images = list_hdus(file)
            if not self.bands or (len(images) == 1 and images[0].planes == len(self.bands) > 1):
                by_band[""].append(BandImage(images[0]))
                continue
            matching = [(band, image) for image in images if (band := self._band(image))]
            if not matching:
                raise DataError(
                    f"{images[0].path} is of none of the bands {','.join(self.bands)}, by its headers and its name "
                    "(case counts)"
                )
            for band, image in matching:
                by_band[band].append(BandImage(image))
        if {""} == {*by_band} and len(planes := {image.planes for image in by_band[""]}) > 1:
            raise DataError(f"the mosaics have different numbers of planes: {', '.join(map(str, sorted(planes)))}")
        if missing := [band for band in self.bands if band not in by_band and "" not in by_band]:
            raise DataError(f"no mosaic is of the band {missing[0]}")
        if "" in by_band and len(by_band) > 1:
            raise DataError("some mosaics are cubes of all bands, and others of one band")
        return [by_band[band] for band in (self.bands if "" not in by_band else ("",))]

    def version(self) -> str:
        """What other versions of the files do not have, on any machine: a digest of their sizes and times."""
        states = [objects.file_state(_split_hdu(file)[0])[-2:] for file in self.files]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:VERSION_DIGITS]

    def _band(self, image: ImageHdu) -> str | None:
        """The band that an image is of: by its name or filter, or by its file's name if that is its only image."""
        cards = [str(image.header.get(card, "")) for card in ("EXTNAME", *FILTER_CARDS)]
        header_words = {*cards, *(word for card in cards for word in WORDS.findall(card))}
        name_words = {*WORDS.findall(Path(image.path).name)} if image.alone else set[str]()
        for words in (header_words, name_words):
            matches = [band for band in self.bands if band in words]
            if len(matches) > 1:
                raise DataError(f"{image.name} is of several of the bands: {', '.join(matches)}")
            if matches and image.planes > 1:
                raise DataError(f"{image.name} is of the band {matches[0]}, but has {image.planes} planes")
            if matches:
                return matches[0]
        return None

    def check_contract(self, planes: int, contract: ImageContract) -> None:
        """DataError unless the planes are those that the contract of a model reads, in its order."""
        if contract.stretch == "none":
            raise DataError("this model was not trained on FITS, and has no stretch: train one with --stretch asinh")
        if contract.bands != ImageContract.RGB:
            if max(map(int, contract.bands.split(","))) >= planes:
                raise DataError(f"the model reads bands {contract.bands} and {planes} are given: see --bands")
            return
        if planes not in {1, 3}:
            raise DataError(
                f"the mosaics have {planes} bands, and the model reads one or three: name them with --bands"
            )
        for order in FILTER_ORDERS:
            if {*self.bands} <= {*order} and (right := sorted(self.bands, key=order.index)) != [*self.bands]:
                raise DataError(f"the model reads bands by increasing wavelength: --bands {','.join(right)}")


def _split_hdu(file: str) -> tuple[str, str]:
    """The path of FILE[HDU], and the HDU that it names; empty for a file as a whole."""
    match = None if Path(file).exists() else CHOSEN_HDU.fullmatch(file)
    return (match[1], match[2].strip()) if match else (file, "")


def list_hdus(file: str) -> list[ImageHdu]:
    """The images of a file, or of a copy of what is at a URL; of FILE[HDU], that one. DataError if there is none."""
    path, chosen = _split_hdu(file)
    name = printable_url(file) if is_url(file) else file
    if path.lower().endswith(GZIP_SUFFIX):
        raise DataError(f"the mosaic {name} is packed by gzip, of which no window can be read: unpack it with gunzip")
    if is_url(path):
        path = str(local_copy(path))
    try:
        with quiet():
            fits = fits_reader()
            with Path(path).open("rb") as opened, fits.open(opened, memmap=True) as hdus:
                images = [
                    (number, hdu.header.copy(), hdu.shape, None if is_packed else hdu.fileinfo()["datLoc"])
                    for number, hdu in enumerate(hdus)
                    if getattr(hdu, "is_image", False) and len(hdu.shape) >= 2
                    for is_packed in (isinstance(hdu, fits.CompImageHDU),)
                ]
    except Exception as error:  # astropy raises almost any exception for damaged headers
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"the mosaic {name} cannot be read: {reason}") from error
    if chosen:
        images = [image for image in images if chosen in {str(image[0]), str(image[1].get("EXTNAME", ""))}]
    if not images:
        raise DataError(f"{name} has no image: a mosaic is a FITS image with a celestial WCS")
    return [ImageHdu(path, *image, alone=len(images) == 1) for image in images]
