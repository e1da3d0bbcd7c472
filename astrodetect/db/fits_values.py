"""The table `fits_values`: the values of FITS images, which are deleted with their thumbnails."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

from astrodetect.db.connections import Parameters, Row
from astrodetect.fits_values import FitsValues

Execute = Callable[[str, Parameters], list[Row]]


class FitsValuesTable:
    """The table `fits_values`, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def save(self, values: FitsValues) -> None:
        """Insert those of an image that has a thumbnail, unless they are there."""
        self._execute(self._sql["save_fits_values"], asdict(values))

    def read(self, image_sha256: str) -> FitsValues | None:
        """The values of an image, if there are any."""
        for row in self._execute(self._sql["fits_values"], {"image": image_sha256}):
            return FitsValues(**row | {"content": bytes(row["content"])})
        return None
