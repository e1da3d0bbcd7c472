"""Request bodies are read up to the limit, whatever they declare."""

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from astrodetect.errors import BodyTooLarge, BodyTooSlow
from astrodetect.service.middleware import body_limits
from astrodetect.service.middleware.body_limits import BodyLimit, BodyLimitMiddleware

LIMIT = 100_000
CHUNK = 30_000


class Client:
    """Sends chunks without end, and keeps the response."""

    def __init__(self) -> None:
        self.sent = 0
        self.response: list[Message] = []

    async def receive(self) -> Message:
        self.sent += CHUNK
        return {"type": "http.request", "body": b"x" * CHUNK, "more_body": True}

    async def send(self, message: Message) -> None:
        self.response.append(message)


async def endless_reader(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that reads for ever, and, like FastAPI, responds 400 to an exception."""
    try:
        while True:
            await receive()
    except (BodyTooLarge, BodyTooSlow):
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.parametrize("declared", [None, "10", "nonsense", str(LIMIT)])
def test_an_endless_body_is_cut_at_the_limit(declared: str | None) -> None:
    client = Client()
    headers = [(b"content-length", declared.encode())] if declared else []
    asyncio.run(
        BodyLimitMiddleware(endless_reader, {}, BodyLimit(LIMIT, 60))(
            {"type": "http", "method": "POST", "path": "/", "headers": headers}, client.receive, client.send
        )
    )
    assert client.sent <= LIMIT + CHUNK
    assert client.response[0]["status"] == 413
    assert json.loads(client.response[1]["body"])["error"]["code"] == "body_too_large"


def test_a_stream_whose_request_has_an_endless_body_ends_as_if_its_client_had_left() -> None:
    received: list[Message] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not received or received[-1]["type"] == "http.request":
            received.append(await receive())

    client, scope = Client(), {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(BodyLimitMiddleware(stream, {}, BodyLimit(LIMIT, 60))(scope, client.receive, client.send))
    assert received[-1] == {"type": "http.disconnect"}
    assert [message.get("status") for message in client.response] == [200]


def test_a_body_that_declares_too_much_is_not_read() -> None:
    client = Client()
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", str(LIMIT + 1).encode())]}
    asyncio.run(BodyLimitMiddleware(endless_reader, {}, BodyLimit(LIMIT, 60))(scope, client.receive, client.send))
    assert client.sent == 0
    assert client.response[0]["status"] == 413


def test_a_body_slower_than_the_least_rate_is_cut_before_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limits, "GRACE_S", 0.1)
    monkeypatch.setattr(body_limits, "MIN_BYTES_PER_S", CHUNK * 20)

    class SlowClient(Client):
        pause_s = 0.01

        async def receive(self) -> Message:
            await asyncio.sleep(self.pause_s)
            return await super().receive()

    async def send(client: Client) -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        limited = BodyLimitMiddleware(endless_reader, {}, BodyLimit(100 * CHUNK, 60))
        await limited(scope, client.receive, client.send)

    fast, slow = SlowClient(), SlowClient()
    slow.pause_s = 0.09
    for client, code in ((fast, "body_too_large"), (slow, "body_too_slow")):
        asyncio.run(send(client))
        assert json.loads(client.response[1]["body"])["error"]["code"] == code
    assert 0 < slow.sent < 10 * CHUNK
