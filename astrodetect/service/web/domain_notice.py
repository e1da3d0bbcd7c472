"""The notice on every page: most of the latest images are out of domain, or a model is being adapted."""

from contextlib import suppress

from fastapi import APIRouter, Request
from starlette.responses import Response

from astrodetect.anomalies.domain import LATEST_IMAGES, LatestImages
from astrodetect.errors import DatabaseError
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.services import AdaptationDep, DatabaseDep, ModelsDep
from astrodetect.service.web.rendering import render

router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get("/domain")
def show_domain_notice(
    request: Request, database: DatabaseDep, models: ModelsDep, adaptation: AdaptationDep
) -> Response:
    """The notice, or nothing; nothing where the database does not answer, which the page says itself."""
    latest, update, state, name = LatestImages(0, 0), None, None, models.default_name
    with suppress(DatabaseError):
        state = adaptation.state
        name = state.model if state else name
        if models.space or state:
            novelty = database.description_log.latest_novelty(models.space or "", limit=LATEST_IMAGES)
            latest = LatestImages.of(novelty)
            update = database.description_log.update(name)
    if state and update and update.space != state.space:  # the new detectors are being loaded
        update = None
    busy = bool(state and not state.error and update is None) or bool(update and update.running)
    return render(
        request,
        "_domain.html",
        warning=latest.warning(models.default_name) if latest.mostly_out_of_domain else "",
        busy=busy,
        state=state,
        update=update if update and (update.running or state) else None,
        default=models.default_name,
        model=name,
    )
