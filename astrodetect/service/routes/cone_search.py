"""Simple Cone Search 1.03 of the IVOA: TOPCAT, Aladin and pyvo read the recorded predictions around a position."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response, StreamingResponse

from astrodetect.errors import DatabaseError
from astrodetect.labels import TAG_SEPARATOR
from astrodetect.records import Cone, Prediction, PredictionFilters
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import DatabaseDep
from astrodetect.sky import votable
from astrodetect.sky.positions import parse_cone
from astrodetect.sky.votable import VOField

MAX_ROWS = 20_000  # of one response
MINIMAL, USUAL, ALL = 1, 2, 3  # values of VERB
TITLE = "Predictions of astrodetect, newest first"
# Of the first list of UCDs, which the standard asks for in the first three.
FIELDS = {
    MINIMAL: [
        VOField("id", "char", "ID_MAIN", description="of the prediction"),
        VOField("ra", "double", "POS_EQ_RA_MAIN", "deg", "right ascension, ICRS"),
        VOField("dec", "double", "POS_EQ_DEC_MAIN", "deg", "declination, ICRS"),
    ],
    USUAL: [
        VOField("object_id", ucd="meta.id", description="what the object is called"),
        VOField("image_name", ucd="meta.id;meta.file", description="file name as the caller sent it"),
        VOField("score", "double", "stat.probability", description="probability of an anomaly, or of the label"),
        VOField("result", ucd="meta.code.class", description="Anomaly Detected or No Anomaly, or the label"),
        VOField("label", ucd="meta.code.class", description="predicted class"),
        VOField("novelty", "double", "stat.value", description="share of the training images that are less unusual"),
        VOField("known", "boolean", description="whether a catalogue has an object there"),
        VOField("known_name", ucd="meta.id", description="what the nearest known object is called"),
        VOField("timestamp", "char", "time.processing", description="when the image was scored, UTC"),
    ],
    ALL: [
        VOField("request_id", "char"),
        VOField("image_sha256", "char"),
        VOField("threshold", "double"),
        VOField("model"),
        VOField("model_version", "char"),
        VOField("probabilities", description="of each class, as JSON"),
        VOField("space", "char", description="detectors of the novelty"),
        VOField("in_domain", "boolean", description="whether the image is like those of the detectors"),
        VOField("novelty_view", "char", description="what of the image is the most unusual"),
        VOField("known_type", ucd="src.class", description="of the known object, in its catalogue's words"),
        VOField("known_arcsec", "double", "pos.angDistance", "arcsec", "separation of the known object"),
        VOField("known_references", "long", "meta.bib", description="publications about the known object"),
        VOField("known_catalogue", ucd="meta.title", description="the catalogue that has it"),
        VOField("tags", description="of the image, by people, separated by ;"),
    ],
}
DOCUMENT: dict[int | str, dict[str, Any]] = {
    status: {"content": {votable.MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": description}
    for status, description in ((200, "a VOTable; of an error, one with INFO name=Error"), (503, "a VOTable"))
}
router = APIRouter(route_class=DatabaseRoute)


@router.get("/scs", response_class=Response, responses=DOCUMENT)
def cone_search(
    database: DatabaseDep,
    *,
    ra: Annotated[str | None, Query(alias="RA", description="of the centre, in degrees, ICRS")] = None,
    dec: Annotated[str | None, Query(alias="DEC", description="of the centre, in degrees")] = None,
    radius: Annotated[str | None, Query(alias="SR", description="in degrees; 0: the columns only")] = None,
    verbosity: Annotated[str | None, Query(alias="VERB", description="1 to 3: from few columns to all")] = None,
) -> Any:
    """The predictions in a cone, as a VOTable, by Simple Cone Search 1.03."""
    try:
        cone = _parse_required_cone(ra, dec, radius)
        verbose = _parse_verbosity(verbosity)
        limit = MAX_ROWS if cone.radius else 0
        page = database.predictions(PredictionFilters(cone=cone), limit=limit + 1).predictions if limit else []
    except ValueError as error:
        return _error(str(error), 200)  # the standard names no status: clients look into the document
    except DatabaseError as error:
        return _error(error.public or str(error), error.status)
    fields = [field for level, added in FIELDS.items() if level <= verbose for field in added]
    rows = ([_value(prediction, field.name) for field in fields] for prediction in page[:MAX_ROWS])
    document = votable.votable(fields, rows, title=TITLE, version=votable.OLD_UCDS, overflow=len(page) > MAX_ROWS)
    return StreamingResponse(document, media_type=votable.MEDIA_TYPE)


def _parse_required_cone(ra: str | None, dec: str | None, radius: str | None) -> Cone:
    cone = parse_cone(ra, dec, radius)
    if cone is None:
        raise ValueError("a cone needs RA, DEC and SR, in degrees")
    return cone


def _parse_verbosity(text: str | None) -> int:
    if not (text or "").strip():
        return USUAL
    if text not in {"1", "2", "3"}:
        raise ValueError(f"VERB is 1, 2 or 3, not {text}")
    return int(text)


def _value(prediction: Prediction, name: str) -> object:
    value = getattr(prediction, name)
    if isinstance(value, tuple):
        return TAG_SEPARATOR.join(value)
    if name == "timestamp":
        return value.isoformat()
    if name == "known_references" and value is None:
        return votable.NO_INTEGER  # an empty cell of integers came with VOTable 1.3
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def _error(message: str, status: int) -> Response:
    return Response(votable.votable_error(message, votable.OLD_UCDS), status, media_type=votable.MEDIA_TYPE)
