"""Sky: where the predictions of History's filters are, on the whole sky or around a position."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.records import UNUSUAL_NOVELTY, Cone, SkyCell
from astrodetect.reports.sky_map import SkyMark, cell_cones, draw_sky_map, format_angle, map_order
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import DatabaseDep
from astrodetect.service.web.history import PAGE_SIZE, HistoryFilters
from astrodetect.service.web.rendering import render
from astrodetect.sky.archives import format_position

SKY_PATH = "/map/sky"
LISTED_CELLS = 12
MIN_FIELD_DEG = 0.005  # cells to this radius have no map of their own: their predictions are listed
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get(SKY_PATH)
def show_sky(request: Request, database: DatabaseDep) -> Response:
    """The page; cells lead to a map of their part of the sky, and from there to their predictions."""
    filters = HistoryFilters.parse(request.query_params)
    if "" in request.query_params.values():  # forms send empty fields too
        return RedirectResponse(filters.url(SKY_PATH), 303)
    cone = filters.validated.cone
    cells = [] if filters.errors else database.sky.cells(filters.validated, map_order(cone))

    several = sorted((cell for cell in cells if cell.count > 1), key=lambda cell: -cell.count)
    single = [cell for cell in cells if cell.count == 1]

    def url(cell: SkyCell, around: Cone) -> str:
        zoom = cell.count > PAGE_SIZE and around.radius > MIN_FIELD_DEG
        return filters.around(around).url(SKY_PATH if zoom else "/history")

    listed = several[:LISTED_CELLS]
    return render(
        request,
        "sky_map.html",
        status=422 if filters.errors else 200,
        filters=filters,
        count=sum(cell.count for cell in cells),
        sky_map=draw_sky_map(several, cone, marks=[_mark(cell) for cell in single], cell_url=url),
        radius=format_angle(cone.radius) if cone else "",
        densest=[
            (cell.count, format_position(around.ra, around.dec), url(cell, around))
            for cell, around in zip(listed, cell_cones(listed, map_order(cone)), strict=True)
        ],
    )


def _mark(cell: SkyCell) -> SkyMark:
    unusual = cell.novelty is not None and cell.novelty >= UNUSUAL_NOVELTY
    title = format_position(cell.ra, cell.dec) + (", unusual" if unusual else "")
    return SkyMark(cell.ra, cell.dec, f"/history/{cell.id}", title, unusual)
