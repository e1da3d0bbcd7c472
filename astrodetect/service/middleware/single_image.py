"""Requests to /detect and /classify whose form is one image, answered without FastAPI: most requests are such.

FastAPI's routing, dependencies and form parser take more of the interpreter's time than everything else that is done
for such a request (docs/decisions/serving.md). They still handle all other requests to these paths, and declare them.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import AstrodetectError
from astrodetect.service import error_handlers
from astrodetect.service.middleware.request_log import CLIENT_CLOSED_REQUEST
from astrodetect.service.schemas import prediction_json
from astrodetect.service.services import services_of

REQUIRES_BINARY = {"/detect": True, "/classify": False}  # whether the model must be binary, by path
IDEMPOTENCY_KEY = "idempotency-key"
FIELD = b"file"
HEADERS_END, LINE_END, DASHES = b"\r\n\r\n", b"\r\n", b"--"
MAX_PART_HEADER_BYTES = 4096
MAX_BODY_BYTES = 1_000_000
CONTENT_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*([^\r\n]*)", re.IGNORECASE)


class _Route(NamedTuple):
    """What the request log needs of a route."""

    path: str


class SingleImageMiddleware:
    """Answers POST requests whose form is one file and which have no other arguments; passes on all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes: Mapping[str, _Route] = {path: _Route(path) for path in REQUIRES_BINARY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in REQUIRES_BINARY:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["query_string"] or IDEMPOTENCY_KEY in headers or not _is_small(headers):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            body = await request.body()
            file = read_single_file(body, headers.get("content-type", ""))
            if file is None:
                await self._app(scope, _replay(body, receive), send)
                return
            response = await self._response(request, *file)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        await response(scope, receive, send)

    async def _response(self, request: Request, name: str, data: bytes) -> Response:
        path = request.scope["path"]
        request.scope["route"] = self._routes[path]
        detection = services_of(request).detection
        try:
            prediction = await detection.detect(request, name, data, model=None, require_binary=REQUIRES_BINARY[path])
        except AstrodetectError as error:
            return await error_handlers.handle_our_error(request, error)
        return Response(prediction_json(prediction), media_type="application/json")


def read_single_file(body: bytes, content_type: str) -> tuple[str, bytes] | None:
    """Name and content of the only part of a form, if that is the field `file`; None where a parser has to look."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    delimiter = DASHES + boundary
    if kind != b"multipart/form-data" or not boundary or not body.startswith(delimiter + LINE_END):
        return None
    end_of_headers = body.find(HEADERS_END, len(delimiter), MAX_PART_HEADER_BYTES)
    start, end = end_of_headers + len(HEADERS_END), body.find(LINE_END + delimiter, end_of_headers)
    closing = LINE_END + delimiter + DASHES
    if end_of_headers < 0 or end < start or body[end:] not in {closing, closing + LINE_END}:
        return None
    found = CONTENT_DISPOSITION.findall(body, len(delimiter), end_of_headers)
    if len(found) != 1:
        return None
    _, disposition = parse_options_header(found[0])
    if disposition.get(b"name") != FIELD or b"filename" not in disposition:
        return None
    try:
        return disposition[b"filename"].decode(), body[start:end]
    except UnicodeDecodeError:
        return None


def _is_small(headers: Headers) -> bool:
    """Whether the body may be held in memory: FastAPI's parser writes larger ones to disk while they arrive."""
    length = headers.get("content-length", "")
    return length.isdecimal() and int(length) <= MAX_BODY_BYTES


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives this body first."""
    sent = False

    async def receive_again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
