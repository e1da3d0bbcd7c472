"""The audit log: every request that changes or exports something is a row of `audit_log` before it is answered."""

import asyncio
import logging
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import DatabaseError
from astrodetect.service.authentication import (
    AUDIT_PREFIX,
    LABEL_NAMES_PATH,
    LABEL_NAMES_ROUTE,
    PREDICTING,
    SAFE_METHODS,
    SIGN_IN_PATH,
    SIGN_OUT_PATH,
    identity_of,
    needed_scope,
)
from astrodetect.service.services import services_of

EXPORTS = ("/predictions.", "/labels.csv", AUDIT_PREFIX + ".csv")
CHANGES_OF_REVIEW = ("/label", "/undo", "/tag", "/untag")  # ends of the paths that store or delete; others turn pages
REQUEST_CHARS = 300

log = logging.getLogger("uvicorn.error")


class AuditMiddleware:
    """Wraps what handles the requests of callers that are known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_audited(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        access, identity, client = (
            services_of(HTTPConnection(scope)).database.access,
            identity_of(scope),
            scope["client"],
        )
        request = f"{scope['method']} {scope['path']}"[:REQUEST_CHARS]
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            entry = await asyncio.to_thread(
                access.add_audit_entry,
                request,
                who=identity.name if identity else None,
                address=client[0] if client else None,
            )
        except DatabaseError as error:  # labels fail too then; a model can still be rolled back
            log.error("not in the audit log: %s: %s", request, error)
            entry = None
        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            if entry is not None:
                try:
                    await asyncio.to_thread(access.end_audit_entry, entry, status)
                except DatabaseError as error:
                    log.error("status %d is not in the audit log: %s: %s", status, request, error)


def is_audited(method: str, path: str) -> bool:
    """Whether this request changes or exports something, besides predictions, which have rows of their own."""
    if method in SAFE_METHODS:
        return path.startswith(EXPORTS)
    if path in PREDICTING:
        return False
    if path in {SIGN_IN_PATH, SIGN_OUT_PATH}:  # anybody may try: they write their entry where they succeed
        return False
    return (
        needed_scope(method, path) == "operate"
        or method == "DELETE"
        or path.endswith(CHANGES_OF_REVIEW)
        or path.startswith((LABEL_NAMES_PATH, LABEL_NAMES_ROUTE))
    )
