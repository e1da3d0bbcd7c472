"""uvicorn's HTTP protocol, with limits that hold before a request reaches the application, and at the shutdown."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httptools
from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from astrodetect.errors import AstrodetectError, HeadersTooLarge, HeadersTooSlow, MalformedRequest, Overloaded
from astrodetect.service.connection_limits import ConnectionLimits
from astrodetect.service.disconnection import DISCONNECTION, Disconnection
from astrodetect.service.listening import GRACE_S, is_readable
from astrodetect.service.metrics import Metrics
from astrodetect.service.schemas import closing_response

HEADERS_TIMEOUT_S = 10.0  # from the connection, or from the end of uvicorn's --timeout-keep-alive
DISCARD_TIMEOUT_S = 60.0  # of the rest of a body, from an early response
WRITE_TIMEOUT_S = 60.0  # without a byte taken by a client that is to read a response
LINGER_S = 1.0  # after an error or an early response, so that a client that is still sending receives it
LINGER_BYTES = 2**20  # that are read and dropped meanwhile
MAX_HEADERS = 256
MAX_HEADER_BYTES = 65_536  # of the request line and the headers, or of trailers
FRAMING_SHARE = 16  # bytes of a chunked body to one of its framing, beyond MAX_HEADER_BYTES
PIECE_BYTES = 16_384  # of headers or chunks that are parsed at a time: others have their turns in between

RECHECK_S = 0.05

BETWEEN_REQUESTS, IN_HEADERS, IN_BODY = range(3)  # what the parser expects


class ParsedFlowControl(FlowControl):
    """Has reading resumed by the protocol, which parses what has arrived first."""

    def __init__(self, transport: asyncio.Transport, resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resume = resume

    def resume_reading(self) -> None:
        """Called once a body is consumed or a response complete."""
        if self.read_paused:
            self.read_paused = False
            self._resume()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits, self._disconnection = limits, Disconnection()
        self._expected = BETWEEN_REQUESTS
        self._excess = 0  # bytes of the present request that are not its body
        self._body_bytes = 0  # of the present request
        self._unparsed = b""
        self._body: list[bytes] = []  # chunks of the piece that is being parsed
        self._resuming = False
        self._error: AstrodetectError | None = None
        self._refusal: AstrodetectError | None = None  # sent once the requests before it are answered
        self._refused = self._closing = False
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self.flow = ParsedFlowControl(transport, self._resume_soon)
        if len(self.connections) > self._limits.max_connections and not self._limits.make_room():
            self._refuse(Overloaded("too many connections are open: try again soon"), linger=False)
        else:
            self._limits.wait(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._limits.end_wait(self)
        self._end_write_timer()
        super().connection_lost(exc)
        self._disconnection.happen()

    def pause_writing(self) -> None:
        """Called by the transport when a client reads too slowly."""
        super().pause_writing()
        self._check_write()

    def resume_writing(self) -> None:
        """Called by the transport when the client has read most of it."""
        self._end_write_timer()
        super().resume_writing()

    def _check_write(self, earlier: int | None = None) -> None:
        """Closes the connection if none of the bytes that waited WRITE_TIMEOUT_S ago has been taken."""
        waiting = self.transport.get_write_buffer_size()
        if waiting == earlier:
            self.transport.abort()
        else:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self._check_write, waiting)

    def _end_write_timer(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._refused:
            self._excess += len(data)
            if self._excess > LINGER_BYTES:
                self.flow.pause_reading()
        elif len(data) <= PIECE_BYTES and not self._unparsed:
            self._parse(data)
        else:
            self._unparsed += data
            self.transport.pause_reading()
            self._resume_soon()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            self._excess += len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:  # the body was left out: no route serves another protocol
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)  # the other one reads no more after `close`
                continue
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
            break
        self._pass_body()
        if self._excess > MAX_HEADER_BYTES and self._expected != BETWEEN_REQUESTS:
            self._refuse(_headers_too_large())

    def _head_without_upgrade(self) -> bytes:
        """The request line and headers that the parser has just read, without the headers `Upgrade`."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _resume_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Parses a piece of what has arrived, once all requests before it are at work, or goes on reading."""
        self._resuming = False
        if self.transport.is_closing() or self.flow.read_paused or self.pipeline:
            return
        if self._unparsed and not self._refused:
            size = max(PIECE_BYTES, self._missing_bytes())
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._parse(piece)
            self._resume_soon()
        else:
            self.transport.resume_reading()

    def _missing_bytes(self) -> int:
        """Of a body of a declared length; the parser takes them at once."""
        if self._expected != IN_BODY:
            return 0
        return int(dict(self.headers).get(b"content-length", 0)) - self._body_bytes

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        self._expected = IN_HEADERS
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[DISCONNECTION] = self._disconnection

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser with a header, or with a trailer, which would act as a header that proxies let pass."""
        if self._expected != IN_BODY:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser after the last header."""
        too_long = self._excess > MAX_HEADER_BYTES and self._header_bytes() > MAX_HEADER_BYTES
        if too_long or len(self.headers) > MAX_HEADERS:
            self._error = _headers_too_large()
            raise self._error
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):  # the parser reads any that end with it
            self._error = MalformedRequest("the Transfer-Encoding of a request is chunked, or there is none")
            raise self._error
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise MalformedRequest
            return  # it is parsed again
        self._expected = IN_BODY
        self._limits.end_wait(self)
        super().on_headers_complete()
        write, is_closing = self.transport.write, self.transport.is_closing
        cast(Any, self.cycle).transport = SimpleNamespace(write=write, is_closing=is_closing, close=self._close)
        if self._closing and self.cycle:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a chunk, or a part of a body of a declared length."""
        self._body.append(body)

    def _pass_body(self) -> None:
        """Gives the request what was parsed of its body: at once, since a chunk may have a single byte."""
        if body := b"".join(self._body):
            self._body = []
            self._body_bytes += len(body)
            self._excess = max(0, self._excess - len(body) - len(body) // FRAMING_SHARE)
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser after the last byte of a request."""
        self._pass_body()
        self._expected, self._excess, self._body_bytes = BETWEEN_REQUESTS, 0, 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called after the last byte of a response."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self._refused:
            if self._refusal and is_last:
                self._send_refusal(self._refusal)
            return
        if not self.pipeline and not self.transport.is_reading():
            self._resume_soon()
        if self._is_idle() and not self.transport.is_closing():
            self._limits.wait(self)

    def _close(self) -> None:
        """Called after the last response; a client that still sends its body could lose it by a reset."""
        if self._expected == IN_BODY and not self._refused and not self.transport.get_write_buffer_size():
            self._refused = True
            self.pipeline.clear()
            self._linger()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called for what cannot be parsed."""
        self._refuse(self._error or MalformedRequest(msg))

    def check_wait(self, seconds: float) -> None:
        """Closes the connection if it has waited for too long for a request, or for the end of a discarded body."""
        headers_timeout_s = HEADERS_TIMEOUT_S + (self.timeout_keep_alive if self.cycle else 0.0)
        if seconds < (DISCARD_TIMEOUT_S if self._expected == IN_BODY else headers_timeout_s):
            return
        if self._expected == IN_HEADERS:
            self._refuse(HeadersTooSlow("the headers of the request did not arrive in time"))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Called by the server: closes the connection after its response, or after GRACE_S without a request."""
        if self._is_idle():
            if not self._closing:
                self.loop.call_later(GRACE_S, self._close_if_idle)
        else:
            super().shutdown()
        self._closing = True

    def _close_if_idle(self) -> None:
        if self.transport.is_closing() or not self._is_idle():
            return
        if (
            self._expected != BETWEEN_REQUESTS
            or self._unparsed
            or is_readable(self.transport.get_extra_info("socket").fileno())
        ):
            self.loop.call_later(RECHECK_S, self._close_if_idle)
        else:
            self.transport.close()

    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse(self, error: AstrodetectError, *, linger: bool = True) -> None:
        """Answers a request by an error, once those before it are answered, and closes the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._limits.end_wait(self)
        if self._expected == IN_BODY and self.pipeline:
            self.pipeline.popleft()
            self._refusal = error
        elif self._expected != IN_BODY and not self._is_idle():
            self._refusal = error
        else:
            self._send_refusal(error, linger=linger)

    def _send_refusal(self, error: AstrodetectError, *, linger: bool = True) -> None:
        """Sends it, unless a response has begun."""
        if self.transport.is_closing():
            return
        self._limits.refused(self, error.status, error.code)
        if not self._is_idle():
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the application learns of it, and what it sends is dropped
            self.cycle.message_event.set()
            self._disconnection.happen()
        response = closing_response(error)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[error.status], lines, bytes(response.body)))
        if linger:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Closes the connection for writing at once, and for reading once the client has closed it, or soon."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self.transport.close()


def limit_connections(server: Server, limits: ConnectionLimits, metrics: Metrics) -> None:
    """Has a server use HttpProtocol, also under `uvicorn main:app`, whose command line cannot name it."""
    if server.config.http_protocol_class is HttpToolsProtocol:
        server.config.http_protocol_class = cast(Any, partial(HttpProtocol, limits=limits))
        if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):  # it accepts up to the backlog, uvloop one
            server.config.backlog = min(server.config.backlog, max(1, limits.max_connections // 4))
        metrics.add_gauge("connections", "Open connections", lambda: len(server.server_state.connections))


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"more than {MAX_HEADERS} headers, or {MAX_HEADER_BYTES:,} bytes of them or of small chunks")
