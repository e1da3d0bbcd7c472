"""astropy's reader of FITS files, kept from headers that it would read without end."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError

MAX_COUNT = 999  # axes, or columns of a table: the standard has no more
COUNTED = {"NAXIS": "axes", "TFIELDS": "columns"}  # astropy makes an object of each, before it looks for their sizes


@cache
def fits_reader() -> Any:
    """`astropy.io.fits`, which raises a DataError for such headers."""
    from astropy.io import fits  # noqa: PLC0415 - takes most of a second
    from astropy.io.fits.hdu.base import _BaseHDU  # noqa: PLC0415

    class ExcessiveHdu(_BaseHDU):  # type: ignore[misc]
        """What they are read as."""

        def __init__(self, data: object = None, header: Any = None) -> None:  # noqa: ARG002 - as of other HDUs
            raise DataError(_problem(header))

        @classmethod
        def match_header(cls, header: Any) -> bool:
            return bool(_problem(header))

    ExcessiveHdu.__name__ = "~"  # the classes of HDUs are tried by their names, the last one first
    fits.register_hdu(ExcessiveHdu)
    return fits


class _TrueZero(int):
    """A zero whose truth value is true."""

    def __bool__(self) -> bool:
        return True


def read_section(hdu: Any, index: Any) -> NDArray[Any]:
    """Values of an image; where it has integers and BLANK, undefined ones are NaN."""
    if hdu._blank == 0:  # astropy takes a BLANK of 0 for none
        hdu._blank = _TrueZero()
    return np.asarray(hdu.section[index])


def _problem(header: Any) -> str:
    """What would take astropy without end: counts beyond the standard, and texts, which it multiplies by numbers."""
    for card, what in COUNTED.items():
        if isinstance(count := header.get(card), int) and count > MAX_COUNT:
            return f"has more than {MAX_COUNT} {what}"
    axes = header.get("NAXIS")
    lengths = (f"NAXIS{axis}" for axis in range(1, axes + 1)) if isinstance(axes, int) else ()
    for card in ("BITPIX", "PCOUNT", "GCOUNT", *lengths):
        if isinstance(header.get(card), str):
            return f"has a {card} that is no number"
    return ""
