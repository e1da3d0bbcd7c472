"""The audit log: who changed or exported what."""

import csv
import io
from collections.abc import Iterator
from dataclasses import astuple, fields
from itertools import chain

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from astrodetect.db.access import AccessTables
from astrodetect.records import AuditEntry
from astrodetect.service.authentication import AUDIT_PREFIX
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.rows_response import RowsResponse
from astrodetect.service.schemas import CSV
from astrodetect.service.services import DatabaseDep
from astrodetect.service.web.rendering import render

SHOWN = 200  # entries on the page
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get(AUDIT_PREFIX)
def show_audit_log(request: Request, database: DatabaseDep) -> HTMLResponse:
    """The newest entries."""
    return render(request, "audit.html", entries=next(database.access.audit_pages())[:SHOWN], shown=SHOWN)


@router.get(AUDIT_PREFIX + ".csv")
def audit_file(database: DatabaseDep) -> RowsResponse:
    """All entries, newest first."""
    parts = _audit_csv(database.access)
    first = next(parts)  # before the response starts, so that a database error has its status
    return RowsResponse(chain([first], parts), media_type=CSV)


def _audit_csv(access: AccessTables) -> Iterator[str]:
    header = [tuple(field.name for field in fields(AuditEntry))]
    for page in access.audit_pages():
        buffer = io.StringIO()
        csv.writer(buffer).writerows([*header, *map(astuple, page)])
        header = []
        yield buffer.getvalue()
