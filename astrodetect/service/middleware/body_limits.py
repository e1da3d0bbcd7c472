"""Limits on the size and the duration of request bodies, enforced before a body is parsed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, BodyTooLarge, BodyTooSlow, Overloaded, RequestError
from astrodetect.service import error_handlers
from astrodetect.service.middleware.request_log import REQUEST_CONTEXT, RequestContext

GRACE_S, MIN_BYTES_PER_S = 30.0, 16_384  # a body that is slower than that, after so many seconds, is cut
MAX_CONTENT_TYPE = 1_000  # characters: it is parsed on the event loop, in time that grows with their square


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """The limits of one path."""

    max_body_bytes: int
    body_timeout_s: float  # from the request line to the last byte of the body
    full: Callable[[Scope], bool] = lambda _: False  # whether to refuse the request unread

    def allowed_s(self, received_bytes: int) -> float:
        """By when the next part must have arrived, seconds from the request line."""
        return min(self.body_timeout_s, GRACE_S + received_bytes / MIN_BYTES_PER_S)


class BodyLimitMiddleware:
    """A middleware, as routes parse the body before their own code can refuse it."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, BodyLimit], default: BodyLimit) -> None:
        self._app, self._limits, self._default = app, limits, default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _shorten_startup_error(send))
        elif scope["type"] == "http":
            await self._limited(self._limits.get(scope["path"], self._default), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _limited(self, limit: BodyLimit, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads at most the limit, whatever Content-Length declares."""
        headers = Headers(scope=scope)
        content_type, declared = headers.get("content-type", ""), headers.get("content-length", "0")
        hint = ""
        if limit is not self._default and "urlencoded" in content_type.lower():  # as of curl --data-binary
            limit, hint = self._default, f": {error_handlers.SEND_IMAGE}"
        too_large = BodyTooLarge(f"the request is larger than {limit.max_body_bytes:,} bytes{hint}")
        refusal: AstrodetectError | None = None
        if scope["method"] in {"POST", "PUT"} and len(content_type) > MAX_CONTENT_TYPE:
            refusal = RequestError(f"the Content-Type has more than {MAX_CONTENT_TYPE:,} characters")
        elif scope["method"] == "POST" and limit.full(scope):
            refusal = Overloaded("too many requests are being processed: try again soon")
        elif declared.isdecimal() and int(declared) > limit.max_body_bytes:
            refusal = too_large
        if refusal:
            close = not isinstance(refusal, Overloaded)  # uvicorn discards the body, so the connection can stay open
            await error_handlers.error_response_for(Request(scope), refusal, close=close)(scope, receive, send)
            return

        context: RequestContext | None = scope.get(REQUEST_CONTEXT)
        started = asyncio.get_running_loop().time() - (context.age_s if context else 0)
        received_bytes, complete, responding = 0, False, False
        error: AstrodetectError | None = None

        def cut(why: AstrodetectError) -> Message:
            nonlocal error
            error = why
            if responding:  # as to a stream, which can no longer be answered by an error
                return {"type": "http.disconnect"}
            raise why

        async def limited_receive() -> Message:
            nonlocal received_bytes, complete
            if complete:
                return await receive()
            allowed_s = limit.allowed_s(received_bytes)
            try:
                async with asyncio.timeout_at(started + allowed_s):
                    message = await receive()
            except TimeoutError:
                return cut(BodyTooSlow(f"the request took longer than {allowed_s:.3g} seconds to arrive"))
            received_bytes += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received_bytes > limit.max_body_bytes:
                return cut(too_large)
            return message

        async def guarded_send(message: Message) -> None:
            nonlocal responding
            if error is None or responding:  # drops what the routes respond to a truncated body
                responding = True
                await send(message)

        try:
            await self._app(scope, limited_receive, guarded_send)
        except (BodyTooLarge, BodyTooSlow):
            if responding:
                raise
        if error and not responding:
            await error_handlers.error_response_for(Request(scope), error, close=True)(scope, receive, send)


def _shorten_startup_error(send: Send) -> Send:
    """Reduces the traceback of a failed start-up to its last line, the message for the operator."""

    async def send_last_line(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines()
            message = {**message, "message": lines[-1].partition(": ")[2] or lines[-1] if lines else ""}
        await send(message)

    return send_last_line
