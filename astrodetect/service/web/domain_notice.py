"""The notice on every page that most of the latest images are out of the default model's domain."""

from contextlib import suppress

from fastapi import APIRouter, Request
from starlette.responses import Response

from astrodetect.anomalies.domain import LATEST_IMAGES, LatestImages
from astrodetect.errors import DatabaseError
from astrodetect.service.services import DatabaseDep, ModelsDep
from astrodetect.service.web.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/domain")
def show_domain_notice(request: Request, database: DatabaseDep, models: ModelsDep) -> Response:
    """The notice, or nothing; nothing where the database does not answer, which the page says itself."""
    warning = ""
    if models.space:
        with suppress(DatabaseError):
            latest = LatestImages.of(database.latest_novelty(models.space, limit=LATEST_IMAGES))
            warning = latest.warning(models.default_name) if latest.mostly_out_of_domain else ""
    return render(request, "_domain.html", warning=warning, model=models.default_name)
