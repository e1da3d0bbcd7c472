"""Parameters of query strings and paths that several routes and pages share."""

import datetime as dt
import re
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from inspect import signature
from typing import Annotated, Any, TypeAlias

from fastapi import Depends, Form, Header, Path, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BeforeValidator

from astrodetect.errors import RequestError
from astrodetect.labels import LabelValue, parse_label, parse_tag
from astrodetect.model_store.manifest import MODEL_NAME_PATTERN
from astrodetect.records import BIGINT_MAX, Cone, PredictionFilters, SkyObject
from astrodetect.sky.positions import MAX_ID_CHARS, parse_cone, parse_sky_object

MAX_FILTER_CHARS = 255
MAX_MODEL_NAME_CHARS = 100
OPTIONAL_MODEL_NAME_PATTERN = rf"{MODEL_NAME_PATTERN}|^$"
FIELDS_OF_AN_IMAGE = ("file", "ra", "dec", "object_id")
DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
VERSION_PATTERN = r"^[0-9a-f]{12}$"  # of a model: the first digits of its SHA-256

LabelName: TypeAlias = Annotated[str, AfterValidator(parse_label)]  # built in, or one's own
TagName: TypeAlias = Annotated[str, AfterValidator(parse_tag)]
PostedTag: TypeAlias = Annotated[TagName, Form()]


def _require_date(text: str) -> str:
    if not DATE.match(text):  # a number is a Unix time to pydantic, also where it is meant as a date: 2026, 20261121
        raise ValueError("a time begins with a date such as 2026-11-21")
    return text


Timestamp: TypeAlias = Annotated[dt.datetime, BeforeValidator(_require_date)]


def prediction_filters(
    *,
    result: Annotated[
        str | None, Query(max_length=MAX_FILTER_CHARS, description="Anomaly Detected, No Anomaly, or a label")
    ] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    max_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    name: Annotated[str | None, Query(max_length=MAX_FILTER_CHARS, description="part of the image's name")] = None,
    since: Annotated[Timestamp | None, Query(description="from this time on; UTC unless it has a time zone")] = None,
    until: Annotated[Timestamp | None, Query(description="before this time")] = None,
    request_id: Annotated[uuid.UUID | None, Query(description="of a response, also of a queued one")] = None,
    model: Annotated[str | None, Query(max_length=MAX_FILTER_CHARS, description="the model's name")] = None,
    label: Annotated[str | None, Query(max_length=MAX_FILTER_CHARS, description="the predicted class")] = None,
    min_novelty: Annotated[float | None, Query(ge=0, le=1)] = None,
    in_domain: Annotated[
        bool | None, Query(description="whether the image is like those that the detectors were fitted on")
    ] = None,
    known: Annotated[bool | None, Query(description="whether a known object is at the position")] = None,
    tag: Annotated[TagName | None, Query(description="a tag of the image")] = None,
) -> PredictionFilters:
    """The filters in the query string."""
    return PredictionFilters(
        result,
        min_score,
        max_score,
        name,
        since,
        until,
        request_id,
        model,
        label,
        min_novelty,
        in_domain,
        known=known,
        tag=tag,
    )


def chosen_label(label: Annotated[str, Form()] = "", own: Annotated[str, Form()] = "") -> LabelValue:
    """The label of a form: that of the button, or the name in the field `own`."""
    try:
        return parse_label(label or own)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("body", "label"), "msg": str(error)}]) from error


ChosenLabel: TypeAlias = Annotated[LabelValue, Depends(chosen_label)]


def cone_of_query(
    *,
    ra: Annotated[str | None, Query(description="of the centre of a cone: degrees, or sexagesimal hours")] = None,
    dec: Annotated[str | None, Query(description="of the centre: degrees, or sexagesimal degrees")] = None,
    radius: Annotated[str | None, Query(description="of the cone in degrees, to 180")] = None,
) -> Cone | None:
    """The cone in the query string."""
    try:
        return parse_cone(ra, dec, radius)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("query", "cone"), "msg": str(error)}]) from error


def filters_with_cone(
    filters: Annotated[PredictionFilters, Depends(prediction_filters)],
    cone: Annotated[Cone | None, Depends(cone_of_query)],
) -> PredictionFilters:
    """The filters in the query string, with the cone."""
    return replace(filters, cone=cone) if cone else filters


def sky_object_of_request(
    *,
    ra: Annotated[str | None, Form(description="right ascension, ICRS: degrees, or sexagesimal hours")] = None,
    dec: Annotated[str | None, Form(description="declination, ICRS: degrees, or sexagesimal degrees")] = None,
    object_id: Annotated[str | None, Form(description=f"of at most {MAX_ID_CHARS} characters")] = None,
    ra_of_query: Annotated[str | None, Query(alias="ra", description="as the form field `ra`")] = None,
    dec_of_query: Annotated[str | None, Query(alias="dec", description="as the form field `dec`")] = None,
    id_of_query: Annotated[str | None, Query(alias="object_id", description="as the form field `object_id`")] = None,
) -> SkyObject | None:
    """What the form, or else the query string, says of the object of an image."""
    try:
        return parse_sky_object(ra or ra_of_query, dec or dec_of_query, object_id or id_of_query)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("body", "position"), "msg": str(error)}]) from error


def check_names(kind: str, given: Iterable[tuple[str, object]], taken: Collection[str]) -> None:
    """RequestError for names that a route does not take, which FastAPI ignores, or that are given twice."""
    seen = set[str]()
    for name, _ in given:
        if name not in taken:
            others = f", but {', '.join(taken)}" if taken else ""
            raise RequestError(f"no {kind} {name[:MAX_FILTER_CHARS]!r} is taken here{others}")
        if name in seen:
            raise RequestError(f"the {kind} {name!r} is given twice")
        seen.add(name)


def allow_query(*names: str) -> Any:
    """A dependency that refuses other query parameters, and repeated ones."""

    async def check(request: Request) -> None:
        check_names("query parameter", request.query_params.multi_items(), names)

    return Depends(check)


async def read_single_file(request: Request, file: UploadFile) -> tuple[str, bytes]:
    """Name and content of the file of a form.

    RequestError if there are several, of which FastAPI takes the last, or other or repeated fields.
    """
    form = await request.form()
    if len(form.getlist("file")) > 1:
        raise RequestError("one image in a request: /detect/batch takes many")
    check_names("field of the form", form.multi_items(), FIELDS_OF_AN_IMAGE)
    return file.filename or "", await file.read()


@dataclass(frozen=True, slots=True)
class PageEdge:
    """The position of a page of predictions: just below an id, just above one, or at the newest."""

    before: int | None
    after: int | None


def page_edge(
    *,
    before: Annotated[int | None, Query(ge=1, le=BIGINT_MAX, description="only ids below this one")] = None,
    after: Annotated[int | None, Query(ge=0, lt=BIGINT_MAX, description="only the next ids above this one")] = None,
) -> PageEdge:
    """The edge in the query string."""
    if before is not None and after is not None:
        raise RequestValidationError([{"loc": ("query", "after"), "msg": "give before or after, not both"}])
    return PageEdge(before, after)


NO_QUERY = allow_query()
FILTER_NAMES = (*signature(prediction_filters).parameters, *signature(cone_of_query).parameters)
SkyObjectParam: TypeAlias = Annotated[SkyObject | None, Depends(sky_object_of_request)]
PredictionId: TypeAlias = Annotated[int, Path(ge=1, le=BIGINT_MAX)]
LabelId: TypeAlias = PredictionId
FiltersParam: TypeAlias = Annotated[PredictionFilters, Depends(filters_with_cone)]
PageEdgeParam: TypeAlias = Annotated[PageEdge, Depends(page_edge)]
ModelPath: TypeAlias = Annotated[str, Path(pattern=MODEL_NAME_PATTERN, max_length=MAX_MODEL_NAME_CHARS)]
IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="a request repeated with the same key, image, model and position gets the first response again",
    ),
]
ModelName: TypeAlias = Annotated[
    str | None,
    Query(
        pattern=MODEL_NAME_PATTERN,
        max_length=MAX_MODEL_NAME_CHARS,
        description="a name from /models; the default model if none is given",
    ),
]
