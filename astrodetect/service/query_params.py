"""What is asked for in a query string, the same of the API and of the pages."""

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from fastapi import Depends, Path, Query
from fastapi.exceptions import RequestValidationError

from astrodetect.db.values import BIGINT_MAX
from astrodetect.records import PredictionFilters

LONGEST_NAME = 255  # characters, of what is asked for by name


def asked_filters(
    *,
    result: Annotated[
        str | None, Query(max_length=LONGEST_NAME, description="Anomaly Detected, No Anomaly, or a label")
    ] = None,
    min_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    max_score: Annotated[float | None, Query(ge=0, le=1)] = None,
    name: Annotated[str | None, Query(max_length=LONGEST_NAME, description="part of the image's name")] = None,
    since: Annotated[dt.datetime | None, Query(description="from this time on; UTC where it names no zone")] = None,
    until: Annotated[dt.datetime | None, Query(description="before this time")] = None,
    request_id: Annotated[uuid.UUID | None, Query(description="of an answer, queued ones too")] = None,
    model: Annotated[str | None, Query(max_length=LONGEST_NAME, description="the model's name")] = None,
    label: Annotated[str | None, Query(max_length=LONGEST_NAME, description="the class that it was taken for")] = None,
    min_novelty: Annotated[float | None, Query(ge=0, le=1)] = None,
) -> PredictionFilters:
    """The filters in the query string."""
    return PredictionFilters(result, min_score, max_score, name, since, until, request_id, model, label, min_novelty)


@dataclass(frozen=True, slots=True)
class PageEdge:
    """Where a page of the log lies: just below an id, just above one, or at the newest."""

    before: int | None
    after: int | None


def asked_edge(
    *,
    before: Annotated[int | None, Query(ge=1, le=BIGINT_MAX, description="only ids below this one")] = None,
    after: Annotated[int | None, Query(ge=0, lt=BIGINT_MAX, description="only the next ids above this one")] = None,
) -> PageEdge:
    """The edge in the query string."""
    if before is not None and after is not None:
        raise RequestValidationError([{"loc": ("query", "after"), "msg": "a page lies before an id or after one"}])
    return PageEdge(before, after)


PredictionId: TypeAlias = Annotated[int, Path(ge=1, le=BIGINT_MAX)]
LabelId: TypeAlias = PredictionId
FiltersParam: TypeAlias = Annotated[PredictionFilters, Depends(asked_filters)]
PageEdgeParam: TypeAlias = Annotated[PageEdge, Depends(asked_edge)]
