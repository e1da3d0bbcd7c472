"""History: every prediction, newest first, page by page, as the filters in the address want it."""

import re
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from astrodetect.model_store.manifest import Manifest, list_manifests
from astrodetect.records import ANOMALY, NO_ANOMALY, PredictionPage
from astrodetect.service.row_follower import UNUSUAL
from astrodetect.service.web.history_filters import HistoryFilters
from astrodetect.service.web.rendering import render, wants_part

A_PAGE = 48  # predictions
DIGITS = re.compile(r"\d{1,19}", re.ASCII)
router = APIRouter(include_in_schema=False)


@router.get("/history")
def history(request: Request) -> Response:
    """A page of the log; for htmx its rows alone."""
    wanted, part, state = HistoryFilters.of(request.query_params), wants_part(request), request.app.state
    before, after = _edge(request, "before"), _edge(request, "after")
    here = wanted.address(before=before, after=after)
    if "" in request.query_params.values() and not part:  # as a form sends what nobody filled in
        return RedirectResponse(here, 303)
    page = _page(state.database, wanted, before, after)
    images = [row.image_sha256 for row in page.predictions if row.image_sha256]
    values = {
        "wanted": wanted,
        "page": page,
        "edge": before or after,
        "part": part,
        "unusual": UNUSUAL,
        "pictured": state.database.pictured(images),
        "called": state.database.called(page.predictions),
    }
    if part:
        answer = render(request, "_rows.html", **values)
        answer.headers["HX-Push-Url"] = "false" if request.headers.get("hx-current-url", "").endswith(here) else here
        return answer
    choices = _choices(wanted, list_manifests(state.models.folder))
    newest = not (wanted.typed or before or after)
    watched = max((row.id for row in page.predictions), default=0) if newest else None
    return render(request, "history.html", status=422 if wanted.wrong else 200, watched=watched, **choices, **values)


def _page(database: Any, wanted: HistoryFilters, before: int | None, after: int | None) -> PredictionPage:
    """What is on it; where less than a page is newer than `after`, the newest page."""
    if wanted.wrong:
        return PredictionPage([], None, None)
    page: PredictionPage = database.predictions(wanted.filters, limit=A_PAGE, before=before, after=after)
    if after is not None and page.previous_after is None and len(page.predictions) < A_PAGE:
        page = database.predictions(wanted.filters, limit=A_PAGE)
    return page


def _edge(request: Request, name: str) -> int | None:
    """The id that the page lies beside; whatever else stands there is no edge."""
    text = request.query_params.get(name, "")
    return int(text) if DIGITS.fullmatch(text) else None


def _choices(wanted: HistoryFilters, models: Iterable[Manifest]) -> dict[str, list[str]]:
    """What can be chosen from: what the models here are and say, and what was asked for, which may be older."""
    found = {"results": {ANOMALY, NO_ANOMALY}, "labels": set[str](), "models": set[str]()}
    for model in models:
        found["models"].add(model.name)
        found["labels"].update(model.classes)
    for name, choices in found.items():
        choices |= {text for field, text in wanted.typed.items() if f"{field}s" == name}
    return {name: sorted(choices) for name, choices in found.items()}
