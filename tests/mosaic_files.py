"""Mosaics made with astropy: round and elliptical galaxies at known positions, and planted oddities among them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RA, DEC = 150.0, 2.0  # of the middle
PIXEL_ARCSEC = 0.25
SPACING_PX = 44
STAMP_PX = 40
COLOURS = (0.7, 1.0, 1.2)  # of ordinary galaxies in the three bands
ODD_COLOURS = (1.6, 1.0, 0.5)
NOISE = 1.0


@dataclass(frozen=True, slots=True)
class MosaicSky:
    """Objects on a jittered grid, of which some are odd: rings beside a knot, of another colour."""

    side: int  # objects along each axis
    odd: frozenset[int] = frozenset()
    seed: int = 0
    positions: list[tuple[float, float]] = field(default_factory=list)  # RA, Dec

    @property
    def pixels(self) -> int:
        """The side of the mosaic."""
        return self.side * SPACING_PX

    def header(self, *, scale: float = 1.0, rotation_deg: float = 0.0) -> Any:
        """A celestial WCS around the middle, in pixels of so many times PIXEL_ARCSEC."""
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [RA, DEC]
        wcs.wcs.crpix = [self.pixels / scale / 2 + 0.5] * 2
        step, angle = PIXEL_ARCSEC * scale / 3600, np.radians(rotation_deg)
        wcs.wcs.cd = step * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return wcs.to_header()

    def bands(self) -> NDArray[np.float32]:
        """(3, pixels, pixels) values; fills `positions`."""
        from astropy.wcs import WCS

        random = np.random.default_rng(self.seed)
        sky = random.normal(0, NOISE, (3, self.pixels, self.pixels)).astype(np.float32)
        y, x = np.mgrid[:STAMP_PX, :STAMP_PX] - (STAMP_PX - 1) / 2
        centres = []
        for number in range(self.side**2):
            shift = random.uniform(-2, 2, 2)
            row, column = divmod(number, self.side)
            left, bottom = (at * SPACING_PX + (SPACING_PX - STAMP_PX) // 2 for at in (column, row))
            dx, dy = x - shift[0], y - shift[1]
            angle, ratio, width = random.uniform(0, np.pi), random.uniform(0.55, 1), random.uniform(2.5, 3.5)
            along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
            shape = np.exp(-np.sqrt(along**2 + (across / ratio) ** 2) / width)
            colours = COLOURS
            if number in self.odd:
                radius = np.hypot(dx, dy)
                shape = np.exp(-((radius - 7) ** 2) / 3) + 0.8 * np.exp(-((dx - 5) ** 2 + (dy - 5) ** 2) / 4)
                shape += 0.5 * np.exp(-(radius**2) / 4)
                colours = ODD_COLOURS
            brightness = random.uniform(40, 80)
            stamp = (slice(bottom, bottom + STAMP_PX), slice(left, left + STAMP_PX))
            for band, colour in zip(sky, colours, strict=True):
                band[stamp] += (brightness * colour * random.normal(1, 0.05) * shape).astype(np.float32)
            middle = (STAMP_PX - 1) / 2
            centres.append((left + middle + shift[0], bottom + middle + shift[1]))
        ra, dec = WCS(self.header()).all_pix2world(*np.array(centres).T, 0)
        self.positions.extend(zip(ra.tolist(), dec.tolist(), strict=True))
        return sky


def write_image(path: Path, values: NDArray[Any], header: Any, **cards: object) -> Path:
    """A FITS image."""
    from astropy.io import fits

    fits.PrimaryHDU(values, header=header).writeto(path)
    with fits.open(path, "update") as hdus:
        hdus[0].header.update(cards)
    return path


def write_catalogue(path: Path, sky: MosaicSky) -> Path:
    """The objects, in a FITS table."""
    from astropy.table import Table

    ra, dec = zip(*sky.positions, strict=True)
    names = [f"G{number:05}" for number in range(len(ra))]
    Table({"ID": names, "RAJ2000": ra, "DEJ2000": dec, "mag": np.linspace(17, 20, len(ra))}).write(path)
    return path
