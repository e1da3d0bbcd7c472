"""Pages of predictions by score or novelty, the highest first."""

from collections.abc import Callable, Mapping

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import filter_parameters, read_prediction
from astrodetect.records import PredictionFilters, PredictionPage, RankedBy


class RankedPages:
    """Reads the table `predictions`, part of `database.Database`."""

    def __init__(self, execute: Callable[[str, Parameters], list[Row]], statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def read(
        self, filters: PredictionFilters, by: RankedBy, *, limit: int, before: int | None = None
    ) -> PredictionPage:
        """The highest predictions that have this value, or those that follow the prediction `before`."""
        statement = self._sql["highest_in_cone" if filters.cone else "highest"].format(key=by)
        rows = self._execute(statement, filter_parameters(filters, limit, before))
        page = [read_prediction(row) for row in rows[:limit]]
        return PredictionPage(page, page[-1].id if len(rows) > limit else None, None)
