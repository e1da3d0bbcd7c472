"""What is asked for in a query string, the same of the API and of the pages."""

import datetime as dt
import uuid
from typing import Annotated, TypeAlias

from fastapi import Depends, Query

from astrodetect.records import Filters

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
) -> Filters:
    """The filters in the query string."""
    return Filters(result, min_score, max_score, name, since, until, request_id, model, label, min_novelty)


AskedFilters: TypeAlias = Annotated[Filters, Depends(asked_filters)]
