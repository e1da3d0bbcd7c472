"""How many predictions each part of the sky has."""

from collections.abc import Callable, Mapping
from typing import Any

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import filter_parameters
from astrodetect.records import PredictionFilters, SkyCell
from astrodetect.sky.healpix import ORDER

Execute = Callable[[str, Parameters], list[Row]]


class SkyCounts:
    """Counts by HEALPix cell, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def cells(self, filters: PredictionFilters, order: int) -> list[SkyCell]:
        """The cells of this order that have predictions with a position which the filters select."""
        parameters: dict[str, Any] = filter_parameters(filters, 0, None) | {"shift": 2 * (ORDER - order)}
        statement = "sky_cells_in_cone" if filters.cone else "sky_cells"
        return [SkyCell(**row) for row in self._execute(self._sql[statement], parameters)]
