"""Error responses: the project's errors, the framework's and unexpected ones, as JSON or as a page for browsers."""

import errno
import http
import logging
import time
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from astrodetect.errors import AstrodetectError, TemporaryFilesFull
from astrodetect.service import schemas
from astrodetect.service.middleware import request_log, security

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}
SEND_IMAGE = "send the image as the form field `file`: curl -F file=@x.jpg"
MAX_REASONS = 10  # in the message of a request with many invalid arguments
REPEATED_S = 10.0  # within which the same error is logged once: an outage fails every reading request

log = logging.getLogger("uvicorn.error")
_logged: dict[str, tuple[str, float]] = {}  # text and time of the last one of each code


def add(app: FastAPI) -> None:
    """Registers the handlers of all exceptions."""
    app.add_exception_handler(AstrodetectError, handle_our_error)
    app.add_exception_handler(RequestValidationError, handle_invalid_arguments)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(ClientDisconnect, handle_disconnect)
    app.add_exception_handler(OSError, handle_os_error)
    app.add_exception_handler(Exception, handle_unexpected)


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for the OpenAPI document."""
    return {
        status: {"model": schemas.ErrorResponse, "description": http.HTTPStatus(status).phrase} for status in statuses
    }


async def handle_our_error(request: Request, error: Exception) -> Response:
    """An error of `errors.py`; those with a public message are logged with their own."""
    assert isinstance(error, AstrodetectError)  # noqa: S101 - Starlette's handlers are typed for any exception
    if error.public:
        text, logged_at = _logged.get(error.code, ("", 0.0))
        if str(error) != text or time.monotonic() - logged_at > REPEATED_S:
            _logged[error.code] = str(error), time.monotonic()
            log.error("%s %s: %s", request.method, quote(request.scope["path"]), error)
    return error_response_for(request, error)


def error_response_for(request: Request, error: AstrodetectError, *, close: bool = False) -> Response:
    """The response to an error; `close` the connection where the request's body was not read."""
    headers = schemas.error_headers(error, close=close)
    return _response(request, error.status, error.code, error.public or str(error), headers)


async def handle_invalid_arguments(request: Request, error: Exception) -> Response:
    """Parameters that are missing or invalid."""
    assert isinstance(error, RequestValidationError)  # noqa: S101
    details = error.errors()[:MAX_REASONS]
    if any(detail["loc"] == ("body", "file") for detail in details):
        return _response(request, 422, "file_missing", SEND_IMAGE)
    message = "; ".join(f"{'.'.join(str(part) for part in detail['loc'][1:])}: {detail['msg']}" for detail in details)
    return _response(request, 422, "bad_arguments", message)


async def handle_http_error(request: Request, error: Exception) -> Response:
    """An error of the framework: unknown path, wrong method, a form that cannot be parsed."""
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, OSError):  # of the file that holds a large form
        return await handle_os_error(request, error.__cause__)
    code = http.HTTPStatus(error.status_code).name.lower()
    return _response(request, error.status_code, code, str(error.detail), dict(error.headers or {}))


async def handle_os_error(request: Request, error: Exception) -> Response:
    """A full disk, or no free descriptor, as a request needs a temporary file; any other one is a bug."""
    if not isinstance(error, OSError) or error.errno not in UNWRITABLE:
        raise error
    return await handle_our_error(request, TemporaryFilesFull(f"a temporary file: {error.strerror}"))


async def handle_disconnect(_: Request, __: Exception) -> Response:
    """The client has disconnected: nobody reads this."""
    return Response(status_code=request_log.CLIENT_CLOSED_REQUEST)


async def handle_unexpected(request: Request, error: Exception) -> Response:
    """A bug: Starlette logs its traceback; the response has no details."""
    log.error("%s %s: %s", request.method, quote(request.scope["path"]), type(error).__name__)
    message = "an internal error; see the server log"
    return _response(request, 500, "internal_error", message, security.SECURITY_HEADERS)  # sent outside the middleware


def accepts_html(request: Request) -> bool:
    """Whether the client is a browser that displays the response."""
    return "text/html" in request.headers.get("accept", "")


def _response(
    request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    """JSON, or a page for a browser."""
    if not accepts_html(request):
        return schemas.json_error(status, code, message, headers)
    from astrodetect.service.web import rendering, sections  # noqa: F401, PLC0415 - imported after the start, if at all

    page = rendering.error_page(request, status, code, message)
    page.headers.update(headers or {})
    return page
