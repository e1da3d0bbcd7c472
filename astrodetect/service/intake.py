"""What is settled before a request is parsed, in plain ASGI: how large its body may be, and how a start fails."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astrodetect.errors import BodyTooLarge
from astrodetect.service.answers import error_response


class Intake:
    """Stands before the routes: they parse a body before anything of theirs can refuse it."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._limit = app, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _in_one_line(send))
        elif scope["type"] == "http":
            await self._bounded(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads no more of a body than the limit, whatever its Content-Length says or does not say."""
        declared = Headers(scope=scope).get("content-length", "0")
        taken, exceeded, answering = 0, declared.isdecimal() and int(declared) > self._limit, False

        async def bounded_receive() -> Message:
            nonlocal taken, exceeded
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                exceeded = True
                raise self._refusal()
            return message

        async def watched_send(message: Message) -> None:
            nonlocal answering
            if not exceeded or answering:  # what the routes make of a body cut short is not the answer
                answering = True
                await send(message)

        if not exceeded:
            try:
                await self._app(scope, bounded_receive, watched_send)
            except BodyTooLarge:
                if answering:
                    raise
        if exceeded and not answering:
            await error_response(self._refusal(), close=True)(scope, receive, send)

    def _refusal(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request is larger than {self._limit:,} bytes")


def _in_one_line(send: Send) -> Send:
    """A start that fails is told by its last line: the traceback above it says nothing to who runs the service."""

    async def told(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines()
            message = {**message, "message": lines[-1].partition(": ")[2] or lines[-1] if lines else ""}
        await send(message)

    return told
