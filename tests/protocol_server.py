"""A uvicorn server with the protocol of the service, its limits and a small application, and clients of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from astrodetect.service.connection_limits import ConnectionLimits
from astrodetect.service.detection import cancel_on_disconnect
from astrodetect.service.disconnection import DISCONNECTION
from astrodetect.service.http_protocol import HttpProtocol
from astrodetect.service.metrics import Metrics

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
WAIT_S = 30.0


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def status(self, *parts: bytes) -> int:
        """The status of the response to a request that is sent in these parts."""
        for part in parts:
            self.writer.write(part)
            with suppress(ConnectionError):
                await self.writer.drain()
            await asyncio.sleep(0.01)
        async with asyncio.timeout(WAIT_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length: "))
            await self.reader.readexactly(int(length.split()[1]))
        return int(head.split()[1])

    async def closed(self) -> bool:
        """Waits for the end of the connection."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


class Server:
    """The server, its limits, and how often the application was called."""

    def __init__(self) -> None:
        self.metrics, self.calls = Metrics(), 0
        self.observe: Callable[[], object] = lambda: None
        self.at_work, self.cancelled = asyncio.Event(), asyncio.Event()
        self._clients: list[Client] = []

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the size of the body."""
        self.calls += 1
        self.observe()
        body = b"" if scope["path"] == "/unread" else await Request(scope, receive).body()
        if scope["path"].startswith("/wait"):
            await self._work(scope, receive)
        if scope["path"] == "/large":
            body = bytes(20_000_000)  # more than the system's buffers hold
        content = body if scope["path"] == "/large" else str(len(body))
        await PlainTextResponse(content)(scope, receive, send)

    def connections(self) -> list[HttpProtocol]:
        return cast(list[HttpProtocol], list(self._server.server_state.connections))

    async def _work(self, scope: Scope, receive: Receive) -> None:
        """For ever, unless the client disconnects."""
        if scope["path"] == "/wait-under-another-server":
            del scope[DISCONNECTION]
        self.at_work.set()
        with pytest.raises(ClientDisconnect):
            await cancel_on_disconnect(Request(scope, receive), asyncio.Event().wait())
        self.cancelled.set()

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    @asynccontextmanager
    async def run(self, max_connections: int) -> AsyncIterator["Server"]:
        limits = ConnectionLimits(self.metrics, max_connections)
        config = uvicorn.Config(
            self.app,
            port=0,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=60,
            http=cast(Any, partial(HttpProtocol, limits=limits)),
        )
        server = self._server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            limits.close()
            for client in self._clients:
                client.writer.transport.abort()
            await server.shutdown()
