"""The sky around a prediction, by Aladin Lite: the user's own copy, in a frame that is sandboxed from the pages."""

from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from astrodetect.errors import NotFound
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.query_params import PredictionId
from astrodetect.service.services import DatabaseDep, ServicesDep
from astrodetect.service.web.rendering import render

SCRIPT_URL = "/static/aladin/aladin.js"  # needs no key: the frame has no session
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get("/history/{id}/sky")
def show_sky_view(
    request: Request,
    database: DatabaseDep,
    services: ServicesDep,
    id: PredictionId,  # noqa: A002
) -> Response:
    """The document of the frame."""
    row, hips = database.prediction(id), services.settings.aladin_hips
    if row.ra is None or services.settings.aladin is None:
        raise NotFound("this prediction has no view of the sky")
    return render(request, "sky_view.html", policy=_policy(hips), row=row, hips=hips, script=SCRIPT_URL)


@router.get(SCRIPT_URL)
def send_aladin(services: ServicesDep) -> Response:
    """Aladin Lite; the sandboxed frame is another origin."""
    if services.settings.aladin is None:
        raise NotFound("ASTRODETECT_ALADIN names no copy of Aladin Lite")
    headers = {"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=86400"}
    return FileResponse(services.settings.aladin, media_type="text/javascript", headers=headers)


def _policy(hips: str) -> str:
    """Aladin Lite compiles WebAssembly from a data URI, adds styles, and loads tiles in workers from blobs."""
    url = urlsplit(hips)
    tiles = f"{url.scheme}://{url.netloc}"
    return "; ".join(
        (
            "sandbox allow-scripts",
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            f"img-src data: blob: {tiles}",
            f"connect-src data: blob: {tiles}",
            "worker-src blob:",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        )
    )
