"""What is settled before a request is parsed, in plain ASGI: how large and slow a body may be, and who is let in."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import AstrodetectError, BodyTooLarge, BodyTooSlow, Overloaded
from astrodetect.service import error_handlers


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """What may come in by one path."""

    max_body_bytes: int
    body_timeout_s: float  # from the request's first line to its body's last byte
    full: Callable[[Scope], bool] = lambda _: False  # whether to refuse at once, unread


class BodyLimitMiddleware:
    """Stands before the routes: they parse a body before anything of theirs can refuse it."""

    def __init__(self, app: ASGIApp, doors: Mapping[str, BodyLimit], other: BodyLimit) -> None:
        self._app, self._doors, self._other = app, doors, other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _in_one_line(send))
        elif scope["type"] == "http":
            await self._through(self._doors.get(scope["path"], self._other), scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _through(self, door: BodyLimit, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads no more of a body than the limit, whatever its Content-Length says or does not say."""
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = BodyTooLarge(f"the request is larger than {door.max_body_bytes:,} bytes")
        if scope["method"] == "POST" and door.full(scope):  # the server throws the body away: the connection stays good
            busy = Overloaded("too many requests are at work: try again soon")
            await error_handlers.answer(Request(scope), busy)(scope, receive, send)
            return
        if declared.isdecimal() and int(declared) > door.max_body_bytes:
            await error_handlers.answer(Request(scope), too_large, close=True)(scope, receive, send)
            return

        give_up = asyncio.get_running_loop().time() + door.body_timeout_s
        taken, whole, answering = 0, False, False
        refusal: AstrodetectError | None = None

        async def bounded_receive() -> Message:
            nonlocal taken, whole, refusal
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(give_up):
                    message = await receive()
            except TimeoutError:
                refusal = BodyTooSlow(f"the request took longer than {door.body_timeout_s:g} seconds to come in")
                raise refusal from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > door.max_body_bytes:
                refusal = too_large
                raise refusal
            return message

        async def watched_send(message: Message) -> None:
            nonlocal answering
            if refusal is None or answering:  # what the routes make of a body cut short is not the answer
                answering = True
                await send(message)

        try:
            await self._app(scope, bounded_receive, watched_send)
        except (BodyTooLarge, BodyTooSlow):
            if answering:
                raise
        if refusal and not answering:
            await error_handlers.answer(Request(scope), refusal, close=True)(scope, receive, send)


def _in_one_line(send: Send) -> Send:
    """A start that fails is told by its last line: the traceback above it says nothing to who runs the service."""

    async def told(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines()
            message = {**message, "message": lines[-1].partition(": ")[2] or lines[-1] if lines else ""}
        await send(message)

    return told
