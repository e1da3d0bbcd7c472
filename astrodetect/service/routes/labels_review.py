"""People's labels, and the queue of images to label next."""

from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Query

from astrodetect import labels
from astrodetect.anomalies.active_learning import ReviewOrder
from astrodetect.service.authentication import LABEL_NAMES_ROUTE
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.error_handlers import declared
from astrodetect.service.query_params import NO_QUERY, LabelId, LabelName, PredictionId, allow_query
from astrodetect.service.review_queue import MAX_REVIEW_BATCH, space_blocks
from astrodetect.service.review_schemas import (
    LabelNameRequest,
    LabelNameResponse,
    LabelRequest,
    LabelResponse,
    ReviewResponse,
    TagRequest,
    TagsResponse,
)
from astrodetect.service.rows_response import RowsResponse
from astrodetect.service.schemas import CSV, csv_response
from astrodetect.service.services import DatabaseDep, ModelsDep, ReviewQueueDep

router = APIRouter(route_class=DatabaseRoute)


@router.post(
    "/predictions/{id}/label",
    response_model=LabelResponse,
    status_code=201,
    responses=declared(400, 404, 422, 503),
    dependencies=[NO_QUERY],
)
def label(database: DatabaseDep, id: PredictionId, body: LabelRequest) -> Any:  # noqa: A002
    """Labels the image of a prediction; the newest of several labels is its current one."""
    return database.add_label(id, body.label, who=body.who, note=body.note)


@router.post(
    "/predictions/{id}/tag",
    response_model=TagsResponse,
    responses=declared(400, 404, 422, 503),
    dependencies=[NO_QUERY],
)
def tag(database: DatabaseDep, id: PredictionId, body: TagRequest) -> Any:  # noqa: A002
    """Tags the image of a prediction; an image may have many tags, which do not rank."""
    database.tags.add([id], body.tag, who=body.who)
    return database.prediction(id)


@router.post(
    "/predictions/{id}/untag",
    response_model=TagsResponse,
    responses=declared(400, 404, 422, 503),
    dependencies=[NO_QUERY],
)
def untag(database: DatabaseDep, id: PredictionId, body: TagRequest) -> Any:  # noqa: A002
    """Removes a tag from the image of a prediction; a tag that it does not have is no error."""
    database.tags.remove([id], body.tag)
    return database.prediction(id)


@router.get(LABEL_NAMES_ROUTE, response_model=list[LabelNameResponse], responses=declared(503))
def label_names(database: DatabaseDep) -> Any:
    """The names of one's own for labels, in alphabetical order, with their roles and keys."""
    return database.label_names.list()


@router.put(LABEL_NAMES_ROUTE + "/{name}", response_model=LabelNameResponse, responses=declared(400, 409, 422, 503))
def put_label_name(database: DatabaseDep, name: LabelName, body: LabelNameRequest) -> Any:
    """Adds a name of labels, or changes its role and key, for all reviewers; no label is rewritten."""
    new = body.name or name
    database.label_names.save(new, body.key, body.role, instead_of=name)
    return next(known for known in database.label_names.list() if known.name == new)


@router.delete(LABEL_NAMES_ROUTE + "/{name}", status_code=204, responses=declared(409, 422, 503))
def delete_label_name(database: DatabaseDep, name: LabelName) -> None:
    """Removes a name that no label has; one that is not there is no error."""
    if any(known.name == name for known in database.label_names.list()):
        database.label_names.remove(name)


@router.delete("/labels/{id}", response_model=LabelResponse, responses=declared(404, 422, 503))
def unlabel(database: DatabaseDep, id: LabelId) -> Any:  # noqa: A002
    """Deletes a label and returns it."""
    return database.delete_label(id)


@router.get(
    "/labels.csv",
    response_class=RowsResponse,
    responses=declared(400, 503) | csv_response("id, prediction_id, image_name, …"),
    dependencies=[NO_QUERY],
)
def labels_csv(database: DatabaseDep) -> Any:
    """All labels, oldest first, as `python -m astrodetect labels import` reads it."""
    parts = labels.to_csv(database.label_pages())
    first = next(parts)  # before the response starts, so that a database error has its status
    return RowsResponse(chain([first], parts), media_type=CSV)


@router.get(
    "/review/next",
    response_model=ReviewResponse,
    responses=declared(400, 422, 503),
    dependencies=[allow_query("by", "limit", "like", "unknown")],
)
def next_up(
    review_queue: ReviewQueueDep,
    models: ModelsDep,
    by: ReviewOrder = "interest",
    limit: Annotated[int, Query(ge=1, le=MAX_REVIEW_BATCH)] = 1,
    like: Annotated[
        LabelName | None, Query(description="more images of the kind with this label: interest means like these")
    ] = None,
    *,
    unknown: Annotated[bool, Query(description="without images of objects that catalogues know")] = False,
) -> Any:
    """The unlabelled images to label next, each with the reasons."""
    blocks = space_blocks(models.detectors.values(), models.space)
    batch = review_queue.next(
        by, limit=limit, space=models.space, blocks=blocks, like=like, taught=models.taught, unknown=unknown
    )
    return ReviewResponse.of(batch)
