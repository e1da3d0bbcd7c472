"""The id, the log line and the metrics of every request."""

import asyncio
import contextlib
import datetime as dt
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TextIO, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import ShuttingDown
from astrodetect.service.authentication import identity_of
from astrodetect.service.metrics import Metrics
from astrodetect.service.schemas import closing_response

log = logging.getLogger("astrodetect.requests")
CLIENT_CLOSED_REQUEST = 499  # the status of a request whose client disconnected before the response
POLLED = {"/training"}  # paths that every open page requests every second: logged only where they fail
REQUEST_ID_HEADER = b"x-request-id"
UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", re.ASCII)
REQUEST_CONTEXT = "astrodetect.request_context"  # key in the ASGI scope
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]  # with lower-case names

_encode = json.JSONEncoder(default=str).encode  # `json.dumps` would make an encoder for each line


@dataclass(slots=True)
class RequestContext:
    """What the handling of a request adds to its log line."""

    request_id: uuid.UUID = field(default_factory=uuid.uuid4)
    started: float = field(default_factory=time.perf_counter)
    stages_s: dict[str, float] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def age_s(self) -> float:
        """Since the request began."""
        return time.perf_counter() - self.started

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """The context that RequestLogMiddleware put into the scope."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        return context


class RequestLog:
    """Gives requests their ids, and logs and measures them once they are answered."""

    def __init__(self, metrics: Metrics, is_draining: Callable[[Scope], bool]) -> None:
        self._metrics, self.is_draining = metrics, is_draining

    def begin(self, scope: Scope) -> RequestContext:
        """The context of this request, put into its scope unless it is there."""
        context: RequestContext | None = scope.get(REQUEST_CONTEXT)
        if context is None:
            context = scope[REQUEST_CONTEXT] = RequestContext(_forwarded_id(scope) or uuid.uuid4())
        return context

    def headers(self, scope: Scope, context: RequestContext) -> RawHeaders:
        """What its response says beside the answer: the id, and during a drain that the connection closes."""
        headers = [(REQUEST_ID_HEADER, str(context.request_id).encode())]
        if self.is_draining(scope):
            headers.append((b"connection", b"close"))  # the client's next request goes to another process
        return headers

    def end(self, scope: Scope, context: RequestContext, route: str, status: int) -> None:
        """Logs and measures it; CLIENT_CLOSED_REQUEST where it got no response."""
        seconds = context.age_s
        self._metrics.observe_request(route, status, seconds)
        if scope["path"] not in POLLED or status >= HTTPStatus.BAD_REQUEST:
            log.info("%s", _LogLine(scope, status, seconds, context))


class RequestLogMiddleware:
    """Logs and measures requests, and answers with their id; it wraps the middleware that may refuse one."""

    def __init__(self, app: ASGIApp, log: RequestLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_CLOSED_REQUEST
        context = self._log.begin(scope)

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._log.headers(scope, context):
                    headers[name.decode()] = value.decode()
            await send(message)

        try:
            await self._app(scope, receive, send_noting_status)
        except asyncio.CancelledError:
            if not self._log.is_draining(scope):
                raise
            if status == CLIENT_CLOSED_REQUEST:  # no response has begun, and the shutdown waits no longer
                await shutting_down_response()(scope, receive, send_noting_status)
        except Exception:  # Starlette's outermost handler makes the response
            status = HTTPStatus.INTERNAL_SERVER_ERROR if status == CLIENT_CLOSED_REQUEST else status
            raise
        finally:
            self._log.end(scope, context, getattr(scope.get("route"), "path", "other"), status)


def shutting_down_response() -> Response:
    """For a request that a shutdown waits for no longer."""
    return closing_response(ShuttingDown("the service is shutting down"))


class _LogLine:
    """Formatted only if a handler writes it."""

    def __init__(self, scope: Scope, status: int, seconds: float, context: RequestContext) -> None:
        self._scope, self._status, self._seconds, self._context = scope, status, seconds, context

    def __str__(self) -> str:
        client = self._scope.get("client")
        stages = {f"{name}_ms": _ms(seconds) for name, seconds in self._context.stages_s.items()}
        fields = {
            "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
            "event": "request",
            "method": self._scope["method"],
            "path": self._scope["path"],
            "status": self._status,
            "ms": _ms(self._seconds),
            "client": client[0] if client else None,
            "request_id": self._context.request_id,
        }
        if identity := identity_of(self._scope):
            fields["key"] = identity.name
        return _encode(fields | stages | self._context.fields)


def log_refusal(client: tuple[str, int] | None, status: int, code: str) -> None:
    """Logs a request that was refused before it was parsed."""
    time_ = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    fields = {
        "time": time_,
        "event": "refusal",
        "status": status,
        "code": code,
        "client": client[0] if client else None,
    }
    log.info("%s", json.dumps(fields))


def _forwarded_id(scope: Scope) -> uuid.UUID | None:
    """The UUID that a trusted proxy has given the request.

    uvicorn believes the X-Forwarded headers of the addresses in --forwarded-allow-ips alone; where it has taken the
    client from them, the client's port is 0, which no connection has.
    """
    if (client := scope.get("client")) and not client[1]:
        text = Headers(scope=scope).get(REQUEST_ID_HEADER.decode(), "")
        if UUID_PATTERN.fullmatch(text):
            return uuid.UUID(text)
    return None


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the event loop together: those of the requests of a batch, for example."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `handle`, which holds the lock."""
        try:
            self._lines.append(self.format(record) + self.terminator)
            if len(self._lines) == 1:
                self._flush_soon()
        except Exception:  # noqa: BLE001 - as other handlers do
            self.handleError(record)

    def flush(self) -> None:
        """Writes what waits."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _flush_soon(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread, or no service runs
            self.flush()
        else:
            loop.call_soon(self.flush)


def configure_logging() -> None:
    """Replaces uvicorn's access log by JSON lines on stdout; where our log has handlers already, they stay."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the response says what is wrong with a form
    access_log = logging.getLogger("uvicorn.access")
    if access_log.handlers:
        access_log.handlers.clear()
        access_log.propagate = False
        handler = LineHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
