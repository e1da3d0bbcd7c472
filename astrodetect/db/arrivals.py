"""New predictions with a position, compared with the catalogues by HEALPix cells."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from astrodetect.db.connections import Parameters, Row
from astrodetect.sky.crossmatch import DEFAULT_RADIUS_ARCSEC
from astrodetect.sky.healpix import cells_around, first_cells

ROWS_PER_STEP = 500
Execute = Callable[[str, Parameters], list[Row]]


class Arrivals:
    """Matches what was recorded since the last comparison, part of `database.Database`."""

    def __init__(self, execute: Execute, statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def newest(self) -> tuple[int, int] | None:
        """The newest prediction, and the newest one that was compared; None where there is nothing to do."""
        for row in self._execute(self._sql["newest_arrival"], {}):
            return row["newest"], row["matched"]
        return None

    def match(self, after: int, newest: int) -> int:
        """Compare the first predictions of these ids, and return the last of them."""
        [rows] = self._execute(self._sql["arrivals"], {"after": after, "newest": newest, "most": ROWS_PER_STEP})
        if rows["ids"]:
            ids, ra, dec = (np.array(rows[name]) for name in ("ids", "ra", "dec"))
            cells, order, position = cells_around(ra, dec, DEFAULT_RADIUS_ARCSEC / 3600)
            columns = {"ids": ids, "ra": ra, "dec": dec}
            values: dict[str, Any] = {name: column[position].tolist() for name, column in columns.items()}
            values["first"] = first_cells(cells, order).tolist()
            values["last"] = (first_cells(cells + 1, order) - 1).tolist()
            self._execute(self._sql["match_arrivals"], values | {"radius": DEFAULT_RADIUS_ARCSEC})
        return newest if rows["last"] is None else int(rows["last"])
