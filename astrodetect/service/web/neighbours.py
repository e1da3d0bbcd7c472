"""The neighbours of an image in the log, for the pages that show them when they come into sight."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from astrodetect.errors import AstrodetectError, VectorMissing, VectorsOff
from astrodetect.records import Neighbour, Prediction
from astrodetect.service.query_params import PredictionId
from astrodetect.service.web.rendering import render, wants_part

MOST = 6  # neighbours
WHY_NOT: dict[type[AstrodetectError], str] = {
    VectorMissing: "Nobody can tell what it is like: its model carried no detectors when it was scored.",
    VectorsOff: "The database cannot tell which images are alike: it lacks pgvector, as python setup_db.py says.",
}
router = APIRouter(include_in_schema=False)


@router.get("/history/{id}/alike")
def alike(request: Request, id: PredictionId) -> Response:  # noqa: A002
    """The images of the log that are most like this one; for htmx the list alone."""
    database = request.app.state.database
    row = database.prediction(id)
    similar, pictured, why_not = neighbours(database, row)
    return render(
        request,
        "_alike.html" if wants_part(request) else "alike.html",
        row=row,
        similar=similar,
        why_not=why_not,
        pictured=pictured,
        called=database.called([near.prediction for near in similar]),
    )


def neighbours(database: Any, row: Prediction) -> tuple[list[Neighbour], set[str], str | None]:
    """The images of the log that are most like this one, those of them that have a picture, and why there are none."""
    try:
        similar = database.similar(row, limit=MOST)
    except (VectorMissing, VectorsOff) as error:
        return [], set(), WHY_NOT[type(error)]
    return similar, database.pictured([near.prediction.image_sha256 for near in similar]), None
