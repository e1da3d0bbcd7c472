"""HTTP clients for fault tests: raw connections on loopback, many at a time, which keep every response."""

import asyncio
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from PIL import Image

RESPONSE_TIMEOUT_S = 60.0
RECONNECT_DELAY_S = 0.02
BOUNDARY = "astrodetect-faults"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CONNECTION_ERRORS = (OSError, asyncio.IncompleteReadError)  # before the response was complete


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response, and when its request was sent and it was received (time.monotonic)."""

    status: int
    headers: dict[str, str]
    body: bytes
    started: float
    ended: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error_code(self) -> str | None:
        """The code of an error response."""
        return None if self.status == 200 else self.json["error"]["code"]

    @property
    def seconds(self) -> float:
        return self.ended - self.started


class Connection:
    """A connection with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(self, request: bytes) -> Response:
        """The response, or one of CONNECTION_ERRORS."""
        started = time.monotonic()
        self.send(request)
        return await self.response(started)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def response(self, started: float = 0.0) -> Response:
        """The next response."""
        async with asyncio.timeout(RESPONSE_TIMEOUT_S):
            status, headers = await self.read_head()
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.read_chunks()])
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Response(status, headers, body, started, time.monotonic())

    async def read_head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        fields = (line.partition(": ") for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in fields}

    async def read_chunks(self) -> Any:
        """The chunks of a chunked body."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    def abort(self) -> None:
        """Closes the connection at once."""
        self._writer.transport.abort()


def send_at_once(port: int, requests: Sequence[bytes]) -> list[Response]:
    """Sends all requests at the same time; the responses in order."""

    async def run() -> list[Response]:
        connections = await asyncio.gather(*(Connection.open(port) for _ in requests))
        try:
            return await asyncio.gather(
                *(connection.request(request) for connection, request in zip(connections, requests, strict=True))
            )
        finally:
            for connection in connections:
                connection.abort()

    return asyncio.run(run())


def send_in_turn(port: int, requests: Sequence[bytes], client_count: int = 1) -> list[Response]:
    """Sends the requests by so many clients, each with one at a time; the responses in order."""

    async def run() -> list[Response]:
        waiting = iter(enumerate(requests))
        responses: dict[int, Response] = {}

        async def client() -> None:
            connection = await Connection.open(port)
            for number, request in waiting:
                responses[number] = await connection.request(request)
            connection.abort()

        await asyncio.gather(*(client() for _ in range(client_count)))
        return [responses[number] for number in range(len(requests))]

    return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Call:
    """A request of LoadClients and its response."""

    client: int
    number: int  # among the client's requests
    response: Response


@dataclass
class LoadClients:
    """Clients in a thread of their own: each sends a request as soon as it has the response to its last one.

    After a lost connection a client reconnects, and repeats the request if `repeat_lost`, or goes on with the next.
    """

    port: int  # may change meanwhile
    request: Callable[[int, int], bytes]  # from the numbers of the client and of its request
    count: int
    repeat_lost: bool = False
    interval_s: float = 0.0  # between two requests of a client, at least
    calls: list[Call] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopping = False
        self._thread = ThreadPoolExecutor(1)
        self._done: Future[None] = self._thread.submit(lambda: asyncio.run(self._all()))
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the responses that are due."""
        self._stopping = True
        self._thread.shutdown()
        self._done.result()

    def responses(self, since: float = 0.0, until: float = float("inf")) -> list[Response]:
        """The responses to requests sent after `since` that were received before `until`."""
        responses = [call.response for call in list(self.calls)]
        return [response for response in responses if since <= response.started and response.ended <= until]

    async def _all(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self.count)))

    async def _client(self, client: int) -> None:
        number, connection = 0, None  # type: int, Connection | None
        due = time.monotonic() + self.interval_s * client / self.count
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.interval_s, time.monotonic() - self.interval_s)
            try:
                connection = connection or await Connection.open(self.port)
            except OSError:
                await asyncio.sleep(RECONNECT_DELAY_S)
                continue
            try:
                response = await connection.request(self.request(client, number))
            except CONNECTION_ERRORS:
                connection.abort()
                connection = None
                self.lost.append((client, number))
                number += not self.repeat_lost
                continue
            self.calls.append(Call(client, number, response))
            number += 1
            if response.headers.get("connection") == "close":
                connection.abort()
                connection = None
        if connection:
            connection.abort()


def upload_request(name: str, data: bytes, *, key: str | None = None) -> bytes:
    """A request to /detect."""
    return post_request("/detect", form_part(name, data) + END, {"Idempotency-Key": key} if key else {})


def batch_request(files: Sequence[tuple[str, bytes]]) -> bytes:
    """A request to /detect/batch."""
    return post_request("/detect/batch", b"".join(form_part(name, data) for name, data in files) + END)


def form_part(name: str, data: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def post_request(path: str, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None) -> bytes:
    """A POST request, with a true Content-Length or another one."""
    base = {"Host": "localhost", "Content-Type": FORM, "Content-Length": str(len(body) if length is None else length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (base | (headers or {})).items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def small_image(seed: int, size: int = 64, kind: str = "JPEG") -> bytes:
    """A small image, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return _encode(Image.fromarray(pixels).resize((size, size)), kind)


def slow_image(seed: int, size: int = 2500) -> bytes:
    """A file of some kilobytes that takes nearly a tenth of a second to decode."""
    return _encode(Image.new("RGB", (size, size), (seed % 256, seed // 256 % 256, 128)), "PNG")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def p99(responses: Sequence[Response]) -> float:
    """99th percentile of the response times, in seconds."""
    return sorted(response.seconds for response in responses)[int(len(responses) * 0.99)]


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
