"""Sending tables and positions to TOPCAT, Aladin and others by SAMP's Web Profile: samp.js speaks to their hub.

Its programs fetch a table by its URL, without the session of the browser. Where reading needs a key, the URL has a
token instead, which is for this URL alone and ends soon.
"""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from astrodetect.errors import InvalidApiKey
from astrodetect.service.authentication import LINK_PARAMETER, LINK_PATH, identity_of
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import DatabaseDep
from astrodetect.service.web.history import HistoryFilters

LINK_S = 600.0  # the hub may ask its user first, and the program fetches the table afterwards
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.post(LINK_PATH)
def make_link(request: Request, database: DatabaseDep) -> JSONResponse:
    """A link to the VOTable of the predictions that the filters of the query string show."""
    identity = identity_of(request.scope)
    if identity is None:
        raise InvalidApiKey("a link stands for an API key, and this service asks for none")
    url = HistoryFilters.parse(request.query_params).export_url("vot")
    url += "&" if "?" in url else "?"
    token = database.access.start_link(identity.key_sha256, url, seconds=LINK_S)
    return JSONResponse({"url": f"{url}{LINK_PARAMETER}={token}"})
