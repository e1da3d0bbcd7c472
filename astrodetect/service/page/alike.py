"""The neighbours of an image in the log, for the pages that show them when they come into sight."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from astrodetect.errors import AstrodetectError, VectorMissing, VectorsOff
from astrodetect.records import Neighbour
from astrodetect.service.page.shown import shown, wants_part
from astrodetect.storable import BIGINT_MAX

MOST = 6  # neighbours
WHY_NOT: dict[type[AstrodetectError], str] = {
    VectorMissing: "Nobody can tell what it is like: its model carried no detectors when it was scored.",
    VectorsOff: "The database cannot tell which images are alike: it lacks pgvector, as python setup_db.py says.",
}
router = APIRouter(include_in_schema=False)


@router.get("/history/{id}/alike")
def alike(request: Request, id: Annotated[int, Path(ge=1, le=BIGINT_MAX)]) -> Response:  # noqa: A002
    """The images of the log that are most like this one; for htmx the list alone."""
    database, why_not = request.app.state.database, None
    row = database.prediction(id)
    similar: list[Neighbour] = []
    try:
        similar = database.similar(row, limit=MOST)
    except (VectorMissing, VectorsOff) as error:
        why_not = WHY_NOT[type(error)]
    images = [near.prediction.image_sha256 for near in similar]
    return shown(
        request,
        "_alike.html" if wants_part(request) else "alike.html",
        row=row,
        similar=similar,
        why_not=why_not,
        pictured=database.pictured(images),
        called=database.called([near.prediction for near in similar]),
    )
