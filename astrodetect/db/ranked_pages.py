"""Pages of predictions by score or novelty, the highest first, or by distance, the nearest first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from astrodetect.db.connections import Parameters, Row
from astrodetect.db.statements import filter_parameters, read_prediction
from astrodetect.records import PredictionFilters, PredictionPage, RankedBy

NEARNESS = "-sky_separation(ra, dec, %(ra)s, %(dec)s)"  # the nearest are the highest
FIRST_RADIUS_DEG, GROWTH = 0.02, 8.0  # of the cones that are searched for the nearest rows
FEW_ROWS = 5_000  # that are read and sorted at once


class RankedPages:
    """Reads the table `predictions`, part of `database.Database`."""

    def __init__(self, execute: Callable[[str, Parameters], list[Row]], statements: Mapping[str, str]) -> None:
        self._execute, self._sql = execute, statements

    def read(
        self, filters: PredictionFilters, by: RankedBy, *, limit: int, before: int | None = None
    ) -> PredictionPage:
        """The highest predictions that have this value, or those that follow the prediction `before`.

        By distance the filters have a cone, whose centre it is from; what lies within a smaller cone comes first.
        """
        key = NEARNESS if by == "distance" else by
        where = "_of_tag" if filters.tag else "_in_cone" if filters.cone else ""
        if not where and self._are_few(filters.known):
            where = "_of_few"
        statement = self._sql[f"highest{where}"].format(key=key)
        rows: list[Row] = []
        for tried in _growing_cones(filters) if by == "distance" else (filters,):
            rows = self._execute(statement, filter_parameters(tried, limit, before))
            if len(rows) > limit:
                break
        page = [read_prediction(row) for row in rows[:limit]]
        return PredictionPage(page, page[-1].id if len(rows) > limit else None, None)

    def _are_few(self, known: bool | None) -> bool:
        """Whether the filter leaves few rows: then the index of values finds them too late."""
        if known is None:
            return False
        return bool(self._execute(self._sql["are_few"], {"known": known, "most": FEW_ROWS})[0]["few"])


def _growing_cones(filters: PredictionFilters) -> Iterator[PredictionFilters]:
    """The filters with smaller cones around the same centre, and at last with their own."""
    assert filters.cone  # noqa: S101 - for the type checker: HistoryFilters refuses it
    radius = FIRST_RADIUS_DEG
    while radius < filters.cone.radius:
        yield replace(filters, cone=replace(filters.cone, radius=radius))
        radius *= GROWTH
    yield filters
