"""A body is read no further than the limit, however it comes."""

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from astrodetect.errors import BodyTooLarge
from astrodetect.service.middleware.body_limits import BodyLimit, BodyLimitMiddleware

LIMIT = 100_000
CHUNK = 30_000


class Caller:
    """Sends chunks without end, and keeps what is answered."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered: list[Message] = []

    async def receive(self) -> Message:
        self.sent += CHUNK
        return {"type": "http.request", "body": b"x" * CHUNK, "more_body": True}

    async def send(self, message: Message) -> None:
        self.answered.append(message)


async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that reads on for ever, and, as FastAPI does, makes a 400 of what stops it."""
    try:
        while True:
            await receive()
    except BodyTooLarge:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.parametrize("declared", [None, "10", "nonsense", str(LIMIT)])
def test_an_endless_body_is_cut_at_the_limit_whatever_it_declares(declared: str | None) -> None:
    caller = Caller()
    headers = [(b"content-length", declared.encode())] if declared else []
    asyncio.run(
        BodyLimitMiddleware(greedy, {}, BodyLimit(LIMIT, 60))(
            {"type": "http", "method": "POST", "path": "/", "headers": headers}, caller.receive, caller.send
        )
    )
    assert caller.sent <= LIMIT + CHUNK
    assert caller.answered[0]["status"] == 413
    assert json.loads(caller.answered[1]["body"])["error"]["code"] == "body_too_large"


def test_a_body_that_declares_too_much_is_not_read_at_all() -> None:
    caller = Caller()
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", str(LIMIT + 1).encode())]}
    asyncio.run(BodyLimitMiddleware(greedy, {}, BodyLimit(LIMIT, 60))(scope, caller.receive, caller.send))
    assert caller.sent == 0
    assert caller.answered[0]["status"] == 413
