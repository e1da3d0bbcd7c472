"""What a request is refused with: our errors, the framework's and faults, all in the one shape."""

import http
import logging
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from astrodetect.errors import AstrodetectError
from astrodetect.service import schemas
from astrodetect.service.middleware import request_log, security_headers
from astrodetect.service.web.rendering import accepts_html, error_page

log = logging.getLogger("uvicorn.error")


def add(app: FastAPI) -> None:
    """Has every error of these routes answered in the one shape."""
    app.add_exception_handler(AstrodetectError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_arguments)
    app.add_exception_handler(HTTPException, refuse_http)
    app.add_exception_handler(ClientDisconnect, let_go)
    app.add_exception_handler(Exception, fail)


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides, for the OpenAPI document."""
    return {
        status: {"model": schemas.ErrorResponse, "description": http.HTTPStatus(status).phrase} for status in statuses
    }


async def refuse(request: Request, error: Exception) -> Response:
    """One of our errors, in the one shape, or as a page for a person."""
    assert isinstance(error, AstrodetectError)  # noqa: S101 - Starlette's handlers are typed for any exception
    if error.public:
        log.error("%s %s: %s", request.method, request.url.path, error)
    return answer(request, error)


def answer(request: Request, error: AstrodetectError, *, close: bool = False) -> Response:
    """The same where no route was reached; `close`: the connection is of no more use, as its body was not read."""
    said, headers = error.public or str(error), schemas.error_headers(error, close=close)
    return told(request, error.status, error.code, said, headers)


async def refuse_arguments(request: Request, error: Exception) -> Response:
    """Arguments that are missing or out of bounds."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    said = "; ".join(f"{'.'.join(str(part) for part in found['loc'][1:])}: {found['msg']}" for found in error.errors())
    if any(found["loc"] == ("body", "file") for found in error.errors()):
        return told(request, 422, "file_missing", "send the image as the form field `file`: curl -F file=@x.jpg")
    return told(request, 422, "bad_arguments", said)


async def refuse_http(request: Request, error: Exception) -> Response:
    """What the framework refuses: no such path, another method, a form that cannot be parsed."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = http.HTTPStatus(error.status_code).name.lower()
    return told(request, error.status_code, code, str(error.detail), dict(error.headers or {}))


async def let_go(_: Request, __: Exception) -> Response:
    """The caller has left: nobody reads this."""
    return Response(status_code=request_log.CLIENT_CLOSED_REQUEST)


async def fail(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it (Starlette raises it again), the caller learns no more."""
    log.error("%s %s: %s", request.method, request.url.path, type(error).__name__)
    said = "a fault of the service; its log says more"
    return told(request, 500, "internal_error", said, security_headers.HEADERS)  # made outside of all that adds them


def told(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal in the one shape, or as a page for a person."""
    if not accepts_html(request):
        return schemas.plain_error(status, code, message, headers)
    page = error_page(request, status, code, message)
    page.headers.update(headers or {})
    return page
