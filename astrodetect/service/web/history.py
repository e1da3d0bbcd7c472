"""History: every prediction, newest first, page by page, filtered as the query string says."""

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, get_args
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Request
from pydantic import ValidationError, validate_call
from starlette.datastructures import FormData, QueryParams
from starlette.responses import RedirectResponse, Response

from astrodetect.model_store.manifest import Manifest, list_manifests
from astrodetect.records import (
    ANOMALY,
    NO_ANOMALY,
    UNUSUAL_NOVELTY,
    Cone,
    Prediction,
    PredictionFilters,
    PredictionPage,
    RankedBy,
)
from astrodetect.service.adaptation_job import MAX_ORDINARY_IMAGES
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.middleware.security import SAMP_POLICY
from astrodetect.service.query_params import DATE, MAX_FILTER_CHARS, prediction_filters
from astrodetect.service.services import AdaptationDep, DatabaseDep, ModelsDep, ServiceDatabase
from astrodetect.service.web.rendering import render, shorten, wants_fragment
from astrodetect.sky.healpix import separation
from astrodetect.sky.positions import parse_cone, split_position

PAGE_SIZE = 48  # predictions
PREDICTION_ID = re.compile(r"\d{1,19}", re.ASCII)
CONE_FIELDS = "ra", "dec", "radius"  # of the API
ONE_DAY = dt.timedelta(days=1)
MAX_SHOWN = 40  # characters of a filter's value in messages and chips
DESCRIPTIONS = {  # of each filter, in the order of the form
    "result": "{}",
    "label": "class {}",
    "name": "name contains “{}”",
    "min_score": "score from {}",
    "max_score": "score to {}",
    "min_novelty": "novelty from {}",
    "in_domain": "in domain: {}",
    "known": "known: {}",
    "tag": "tag {}",
    "since": "from {}",
    "until": "to {}",
    "model": "model {}",
    "position": "within {radius}° of {}",
    "radius": "",  # is in that of the position
    "request_id": "request {}",
}
ERRORS = {  # what to enter instead
    "min_score": "is not a score: enter a number from 0 to 1, such as 0.9",
    "max_score": "is not a score: enter a number from 0 to 1, such as 0.9",
    "min_novelty": "is not a novelty: enter a number from 0 to 1, such as 0.99",
    "in_domain": "is neither true nor false",
    "known": "is neither true nor false",
    "tag": "is not a tag: enter letters, digits and . _ -",
    "since": "is not a date: enter one such as 2026-11-21",
    "until": "is not a date: enter one such as 2026-11-21",
    "position": "is not a position: enter RA and Dec, such as 202.47 47.2 or 13:29:52.7 +47:11:43",
    "radius": "is not a radius: enter degrees from 0 to 180, such as 0.02",
    "request_id": "is not a request id",
}
DEFAULT_RADIUS = "0.02"  # degrees around a position
NO_CENTRE = "Sorting by distance needs a position: enter one under More filters."
TOO_LONG = f"is too long: {MAX_FILTER_CHARS} characters at most"
_validate: Callable[..., PredictionFilters] = validate_call(prediction_filters)  # the same rules as the API
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class HistoryFilters:
    """The filters in the query string of a page: as entered, and validated; none apply where one is invalid."""

    entered: Mapping[str, str]
    validated: PredictionFilters
    errors: Mapping[str, str] = field(default_factory=dict)  # by the field, a sentence each
    sort: RankedBy | None = None  # None: the newest first

    @classmethod
    def parse(cls, query: QueryParams | FormData) -> "HistoryFilters":
        """From the query string or a form; an empty field filters nothing."""
        entered = {name: text for name in DESCRIPTIONS if (text := str(query.get(name, "")).strip())}
        if "position" in entered:
            entered.setdefault("radius", DEFAULT_RADIUS)
        else:
            entered.pop("radius", None)
        invalid = _invalid_cone_fields(entered)
        query_of_api = _as_api_query(entered)
        cone = [query_of_api.pop(name, None) for name in CONE_FIELDS]
        try:
            validated = _validate(**query_of_api)
        except ValidationError as error:
            invalid += [str(detail["loc"][0]) for detail in error.errors()]
        sort = next((by for by in get_args(RankedBy) if by == query.get("sort")), None)
        if sort == "distance" and "position" not in entered:
            return cls(entered, PredictionFilters(), {"sort": NO_CENTRE}, sort)
        if not invalid:
            return cls(entered, replace(validated, cone=parse_cone(*cone)), sort=sort)
        errors = {
            name: f"“{shorten(text, MAX_SHOWN)}” {ERRORS.get(name, TOO_LONG)}."
            for name, text in entered.items()
            if name in invalid
        }
        return cls(entered, PredictionFilters(), errors, sort)

    @property
    def chips(self) -> list[tuple[str, str]]:
        """Each filter's description, and the URL of the page without it."""
        return [
            (
                DESCRIPTIONS[name].format(shorten(text, MAX_SHOWN), radius=self.entered.get("radius")),
                self.url(without=name),
            )
            for name, text in self.entered.items()
            if DESCRIPTIONS[name]
        ]

    def url(self, path: str = "/history", *, without: str = "", **edge: int | None) -> str:
        """The URL of a page with these filters except `without`, and with this edge."""
        dropped = {without, "radius"} if without == "position" else {without}
        values = {**self.entered, "sort": self.sort, **edge}
        query = {name: value for name, value in values.items() if name not in dropped and value is not None}
        return f"{path}?{urlencode(query)}" if query else path

    def around(self, cone: Cone) -> "HistoryFilters":
        """These filters around another position; its URL alone counts."""
        position = {"position": f"{cone.ra:.6f} {cone.dec:+.6f}", "radius": f"{cone.radius:.4g}"}
        return replace(self, entered={**self.entered, **position})

    @property
    def table_name(self) -> str:
        """What the table of these predictions is called in other programs."""
        return ", ".join(["astrodetect", *(description for description, _ in self.chips)])

    def export_url(self, kind: str) -> str:
        """The URL of the export of these predictions."""
        return f"/predictions.{kind}?{urlencode(_as_api_query(self.entered))}".rstrip("?")


@router.get("/history")
def show_history(request: Request, database: DatabaseDep, models: ModelsDep) -> Response:
    """A page of predictions; for htmx only its rows."""
    filters, fragment = HistoryFilters.parse(request.query_params), wants_fragment(request)
    before, after = _page_edge(request, "before"), _page_edge(request, "after")
    url = filters.url(before=before, after=after)
    if "" in request.query_params.values() and not fragment:  # forms send empty fields too
        return RedirectResponse(url, 303)
    page = _read_page(database, filters, before, after)
    hashes = [row.image_sha256 for row in page.predictions if row.image_sha256]
    values: dict[str, Any] = {
        "filters": filters,
        "page": page,
        "edge": before or after,
        "fragment": fragment,
        "unusual": UNUSUAL_NOVELTY,
        "adaptable": filters.validated.model or (models.default_name if models.space else ""),
        "max_ordinary": MAX_ORDINARY_IMAGES,
        "with_thumbnail": database.images_with_thumbnails(hashes),
        "labels": database.labels_by_image(page.predictions),
        "roles": database.label_names.roles(),
        "distances": _distances(filters.validated.cone, page.predictions),
    }
    if fragment:
        response = render(request, "_rows.html", **values)
        current = request.headers.get("hx-current-url", "").endswith(url)
        response.headers["HX-Push-Url"] = "false" if current else url
        return response
    newest = not (filters.entered or filters.sort or before or after)
    values["choices"] = _choices(filters, list_manifests(models.folder))
    values["known_tags"] = database.tags.suggested()
    values["newest_id"] = max((row.id for row in page.predictions), default=0) if newest else None
    return render(request, "history.html", status=422 if filters.errors else 200, policy=SAMP_POLICY, **values)


@router.post("/history/ordinary")
async def use_as_ordinary(request: Request, models: ModelsDep, adaptation: AdaptationDep) -> Response:
    """Makes the images that the filters show the ordinary ones of their model, or of the default one."""
    async with request.form() as form:
        filters = HistoryFilters.parse(form)
    if not filters.errors:
        source = ", ".join(description for description, _ in filters.chips)
        model = filters.validated.model or models.default_name
        await asyncio.to_thread(adaptation.start, model, filters.validated, f"log: {source or 'all'}")
    return RedirectResponse(filters.url(), 303)


def _as_api_query(entered: Mapping[str, str]) -> dict[str, str]:
    """The API's query: the form's `until` includes its day, the API's ends before the moment; RA and Dec are two."""
    query = dict(entered)
    with suppress(ValueError):  # no position
        if position := query.pop("position", None):
            query["ra"], query["dec"] = split_position(position)
    try:
        if DATE.fullmatch(query.get("until", "")):
            query["until"] = (dt.date.fromisoformat(query["until"]) + ONE_DAY).isoformat()
    except (ValueError, OverflowError):
        pass  # no date, or the last one representable
    return query


def _invalid_cone_fields(entered: Mapping[str, str]) -> list[str]:
    """Which of position and radius cannot be read."""
    invalid = []
    if "position" in entered:
        for name, position, radius in (("position", entered["position"], "0"), ("radius", "0 0", entered["radius"])):
            try:
                parse_cone(*split_position(position), radius)
            except ValueError:
                invalid.append(name)
    return invalid


def _read_page(
    database: ServiceDatabase, filters: HistoryFilters, before: int | None, after: int | None
) -> PredictionPage:
    """The page beside this edge; the newest page where fewer rows than a page are newer than `after`."""
    if filters.errors:
        return PredictionPage([], None, None)
    if filters.sort:
        return database.ranked.read(filters.validated, filters.sort, limit=PAGE_SIZE, before=before)
    page = database.predictions(filters.validated, limit=PAGE_SIZE, before=before, after=after)
    if after is not None and page.previous_after is None and len(page.predictions) < PAGE_SIZE:
        page = database.predictions(filters.validated, limit=PAGE_SIZE)
    return page


def _distances(cone: Cone | None, rows: Sequence[Prediction]) -> dict[int, float]:
    """The distance of each prediction from the centre of the cone in degrees, by its id."""
    if cone is None:
        return {}
    ra, dec = (np.array([getattr(row, name) for row in rows], float) for name in ("ra", "dec"))
    return dict(zip((row.id for row in rows), separation(cone.ra, cone.dec, ra, dec).tolist(), strict=True))


def _page_edge(request: Request, name: str) -> int | None:
    """The prediction id next to the page; anything else is ignored."""
    text = request.query_params.get(name, "")
    return int(text) if PREDICTION_ID.fullmatch(text) else None


def _choices(filters: HistoryFilters, models: Iterable[Manifest]) -> dict[str, list[str]]:
    """Options of the selects: values of the models on disk, and the entered ones, which may be of older models."""
    choices = {"results": {ANOMALY, NO_ANOMALY}, "labels": set[str](), "models": set[str]()}
    for model in models:
        choices["models"].add(model.name)
        choices["labels"].update(model.classes)
    for name, values in choices.items():
        values |= {text for field, text in filters.entered.items() if f"{field}s" == name}
    return {name: sorted(values) for name, values in choices.items()}
