"""Requests to /detect and /classify whose form is one image, answered without FastAPI: most requests are such.

FastAPI's routing, dependencies and form parser, and a chain of middleware around them, take more of the interpreter's
time than everything else that is done for such a request (docs/decisions/serving.md). They still handle all other
requests to these paths, declare them, and refuse what is to be refused unread.
"""

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import AstrodetectError
from astrodetect.service import error_handlers
from astrodetect.service.authentication import ApiKeys
from astrodetect.service.middleware.body_limits import MAX_CONTENT_TYPE, BodyLimit
from astrodetect.service.middleware.request_log import (
    CLIENT_CLOSED_REQUEST,
    RawHeaders,
    RequestContext,
    RequestLog,
    shutting_down_response,
)
from astrodetect.service.middleware.security import RAW_SECURITY_HEADERS, add_security_headers, check_access
from astrodetect.service.schemas import prediction_json
from astrodetect.service.served_hosts import ServedHosts
from astrodetect.service.services import services_of

REQUIRES_BINARY = {"/detect": True, "/classify": False}  # whether the model must be binary, by path
FIELD = b"file"
HEADERS_END, LINE_END, DASHES = b"\r\n\r\n", b"\r\n", b"--"
MAX_PART_HEADER_BYTES = 4096
MAX_BODY_BYTES = 1_000_000  # of what is held in memory: FastAPI's parser writes larger bodies to disk as they arrive
CONTENT_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*([^\r\n]*)", re.IGNORECASE)
JSON_HEADER = (b"content-type", b"application/json")


class SingleImageMiddleware:
    """Answers POST requests whose form is one file and which have no other arguments; passes on all others.

    It is the outermost: it does for these requests what the middleware inside does for all.
    """

    def __init__(self, app: ASGIApp, log: RequestLog, keys: ApiKeys, hosts: ServedHosts, limit: BodyLimit) -> None:
        self._app, self._log, self._keys, self._hosts, self._limit = app, log, keys, hosts, limit
        self._max_bytes = min(MAX_BODY_BYTES, limit.max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in REQUIRES_BINARY or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._is_plain(scope, headers) or await check_access(scope, self._keys, self._hosts):
            await self._app(scope, receive, send)
            return
        context, status, passed_on = self._log.begin(scope), int(CLIENT_CLOSED_REQUEST), False
        message: Message | None = None
        try:
            message = await self._first_message(receive)
            file = _file_of(message, headers.get(b"content-type", b""))
            if file is None:
                passed_on = True
            else:
                status, response_headers, body = await self._answer(Request(scope, receive), context, *file)
                await _send(send, status, response_headers, body)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not self._log.is_draining(scope):
                raise
            if status == CLIENT_CLOSED_REQUEST:
                status, response_headers, body = self._of_error(scope, context, shutting_down_response())
                await _send(send, status, response_headers, body)
        except Exception:  # Starlette's outermost handler makes the response
            status = HTTPStatus.INTERNAL_SERVER_ERROR if status == CLIENT_CLOSED_REQUEST else status
            raise
        finally:
            if not passed_on:
                self._log.end(scope, context, scope["path"], status)
        if passed_on:
            await self._app(scope, _replay(message, receive), send)

    def _is_plain(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether it may be an image of a moderate size and nothing else."""
        length = headers.get(b"content-length", b"")
        return (
            not scope["query_string"]
            and b"idempotency-key" not in headers
            and len(headers) == len(scope["headers"])  # none is repeated
            and len(headers.get(b"content-type", b"")) <= MAX_CONTENT_TYPE
            and length.isdigit()
            and int(length) <= self._max_bytes
        )

    async def _first_message(self, receive: Receive) -> Message | None:
        """With all of a small body, usually; None where it does not arrive in time."""
        try:
            async with asyncio.timeout(self._limit.allowed_s(0)):
                return await receive()
        except TimeoutError:
            return None

    async def _answer(
        self, request: Request, context: RequestContext, name: str, data: bytes
    ) -> tuple[int, RawHeaders, bytes]:
        """Status, headers and body."""
        scope, detection = request.scope, services_of(request).detection
        try:
            prediction = await detection.detect(
                request, name, data, model=None, require_binary=REQUIRES_BINARY[scope["path"]]
            )
        except AstrodetectError as error:
            return self._of_error(scope, context, await error_handlers.handle_our_error(request, error))
        body = prediction_json(prediction).encode()
        length = (b"content-length", str(len(body)).encode())
        return HTTPStatus.OK, [JSON_HEADER, length, *RAW_SECURITY_HEADERS, *self._log.headers(scope, context)], body

    def _of_error(self, scope: Scope, context: RequestContext, response: Response) -> tuple[int, RawHeaders, bytes]:
        add_security_headers(response.headers)
        return response.status_code, response.raw_headers + self._log.headers(scope, context), bytes(response.body)


async def _send(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _file_of(message: Message | None, content_type: bytes) -> tuple[str, bytes] | None:
    """The only file of a form that has arrived as a whole."""
    if message is None or message.get("more_body"):
        return None
    return read_single_file(message.get("body", b""), content_type)


def read_single_file(body: bytes, content_type: bytes) -> tuple[str, bytes] | None:
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
    headers = CONTENT_DISPOSITION.findall(body, len(delimiter), end_of_headers)
    if len(headers) != 1:
        return None
    _, disposition = parse_options_header(headers[0])
    if disposition.get(b"name") != FIELD or b"filename" not in disposition:
        return None
    try:
        return disposition[b"filename"].decode(), body[start:end]
    except UnicodeDecodeError:
        return None


def _replay(message: Message | None, receive: Receive) -> Receive:
    """A `receive` that gives this message first, if there is one."""
    messages = [] if message is None else [message]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
