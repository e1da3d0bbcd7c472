"""Pixels and positions: the celestial WCS of an image, in degrees, ICRS."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.sky.healpix import separation

Doubles = NDArray[np.float64]

NEAR_ICRS = ("ICRS", "FK5")  # FK5 of J2000 differs from ICRS by less than 0.03″
DEGREE_ARCSEC = 3600.0
RADIUS_MARGIN = 1.1  # of the circle around an image, outside of which positions are not projected

_warnings_lock = Lock()  # warnings can only be silenced for all threads at once


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress astropy's warnings of unusual headers, and what it logs of them: a dozen lines for one image."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from astropy import log  # noqa: PLC0415 - slow to import

        log.setLevel("ERROR")
        yield


def is_icrs(wcs: Any) -> bool:
    """Whether the world coordinates of a celestial WCS are RA and Dec, ICRS."""
    from astropy.wcs.utils import wcs_to_celestial_frame  # noqa: PLC0415 - slow to import

    frame = wcs_to_celestial_frame(wcs)
    is_near = frame.name.upper() in NEAR_ICRS and getattr(frame, "equinox", "J2000") == "J2000"
    return bool(is_near and wcs.wcs.lng == 0)


def icrs_positions(wcs: Any, x: Any, y: Any, *, direct: bool) -> tuple[Doubles, Doubles]:
    """RA and Dec of pixels; `direct` says that `is_icrs` holds."""
    if direct:
        ra, dec = wcs.all_pix2world(x, y, 0)
    else:
        icrs = wcs.pixel_to_world(x, y).icrs
        ra, dec = icrs.ra.deg, icrs.dec.deg
    return np.asarray(ra % 360), np.asarray(dec)


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """The pixels of an image on the sky."""

    width: int
    height: int
    arcsec_per_pixel: float
    _wcs: Any
    _direct: bool  # whether its world coordinates are RA and Dec, ICRS
    _centre: tuple[float, float]  # RA, Dec
    _radius: float  # degrees, of a circle around it

    @classmethod
    def of_header(cls, header: Any, width: int, height: int, name: str) -> "PixelGrid":
        """The grid of an image; DataError without a celestial WCS."""
        with quiet():
            from astropy.wcs import WCS  # noqa: PLC0415 - slow to import
            from astropy.wcs.utils import proj_plane_pixel_area  # noqa: PLC0415

            try:
                full = WCS(header)
                wcs = full.celestial
                direct = is_icrs(wcs)
                scale = math.sqrt(proj_plane_pixel_area(wcs)) * DEGREE_ARCSEC
            except Exception as error:  # astropy raises almost any exception for unusual headers
                raise DataError(f"the mosaic {name} has no celestial WCS") from error
        if {full.wcs.lng, full.wcs.lat} != {0, 1}:
            raise DataError(f"the mosaic {name} has another axis before those of the sky, which must be the first two")
        grid = cls(width, height, scale, wcs, direct, (0.0, 0.0), 180.0)
        middle = grid.positions([(width - 1) / 2], [(height - 1) / 2])
        # with the middles of the edges, which are farther than the corners in a map of the whole sky
        edges = np.meshgrid([-0.5, (width - 1) / 2, width - 0.5], [-0.5, (height - 1) / 2, height - 0.5])
        outline = grid.positions(*(places.ravel() for places in edges))
        if not np.isfinite(middle).all():
            raise DataError(f"the mosaic {name} has no celestial WCS in its middle")
        ra, dec = float(middle[0][0]), float(middle[1][0])
        reach = separation(ra, dec, *outline)
        radius = float(reach.max()) * RADIUS_MARGIN if np.isfinite(reach).all() else 180.0
        return cls(width, height, scale, wcs, direct, (ra, dec), radius)

    def pixels(self, ra: Any, dec: Any) -> tuple[Doubles, Doubles]:
        """x and y of positions, counted from 0 at the centre of the first pixel; NaN far outside of the image."""
        ra, dec = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
        x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
        near = separation(*self._centre, ra, dec) <= self._radius
        if near.any():
            with quiet():
                if self._direct:
                    x[near], y[near] = self._wcs.all_world2pix(ra[near], dec[near], 0, quiet=True)
                else:
                    from astropy.coordinates import SkyCoord  # noqa: PLC0415 - slow to import

                    x[near], y[near] = self._wcs.world_to_pixel(SkyCoord(ra[near], dec[near], unit="deg"))
        return x, y

    def positions(self, x: Any, y: Any) -> tuple[Doubles, Doubles]:
        """RA and Dec of pixels."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        with quiet():
            return icrs_positions(self._wcs, x, y, direct=self._direct)

    def shares_pixels(self, left: int, bottom: int, width: int, height: int) -> bool:
        """Whether any pixel of a window is in the image."""
        return left < self.width and bottom < self.height and left + width > 0 and bottom + height > 0

    def contains(self, x: Doubles, y: Doubles) -> NDArray[np.bool_]:
        """Whether these are places in the image; not if they are NaN."""
        return (x > -0.5) & (x < self.width - 0.5) & (y > -0.5) & (y < self.height - 0.5)
