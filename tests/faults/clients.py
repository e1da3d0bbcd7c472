"""Callers of a service under fault: raw connections on loopback, many at a time, and every answer kept."""

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

ANSWER_WITHIN_S = 60.0
RECONNECT_AFTER_S = 0.02
BOUNDARY = "astrodetect-faults"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
LOST = (OSError, asyncio.IncompleteReadError)  # the connection went before the answer was whole


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer, and when it was asked for and there (time.monotonic)."""

    status: int
    headers: dict[str, str]
    body: bytes
    began: float
    ended: float

    @property
    def said(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """Of its error."""
        return None if self.status == 200 else self.said["error"]["code"]

    @property
    def took_s(self) -> float:
        return self.ended - self.began


class Line:
    """One connection, with one request at a time on its way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> Answer:
        """Its answer, or one of LOST."""
        began = time.monotonic()
        self.send(request)
        return await self.answer(began)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self, began: float = 0.0) -> Answer:
        """What comes next, whole."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            status, headers = await self.head()
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.chunks()])
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(status, headers, body, began, time.monotonic())

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        named = (line.partition(": ") for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in named}

    async def chunks(self) -> Any:
        """Of a body without a length, to its proper end."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    def drop(self) -> None:
        """Gone at once, whatever is on its way."""
        self._writer.transport.abort()


def together(port: int, requests: Sequence[bytes]) -> list[Answer]:
    """All of them at the same time; their answers in order."""

    async def all_of_them() -> list[Answer]:
        lines = await asyncio.gather(*(Line.open(port) for _ in requests))
        try:
            return await asyncio.gather(*(line.ask(request) for line, request in zip(lines, requests, strict=True)))
        finally:
            for line in lines:
                line.drop()

    return asyncio.run(all_of_them())


def in_turn(port: int, requests: Sequence[bytes], callers: int = 1) -> list[Answer]:
    """By so many callers, each of whom takes the next one as it has its answer; the answers in order."""

    async def all_of_them() -> list[Answer]:
        waiting = iter(enumerate(requests))
        answers: dict[int, Answer] = {}

        async def caller() -> None:
            line = await Line.open(port)
            for number, request in waiting:
                answers[number] = await line.ask(request)
            line.drop()

        await asyncio.gather(*(caller() for _ in range(callers)))
        return [answers[number] for number in range(len(requests))]

    return asyncio.run(all_of_them())


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a crowd that was answered."""

    caller: int
    number: int  # of the caller's own
    answer: Answer


@dataclass
class LoadClients:
    """Callers in a thread of their own: each sends its next request as it has its answer, until the crowd is left.

    Whoever loses the connection makes a new one, and asks once more where it insists, or goes on with the next request.
    """

    port: int  # may change while they call
    request: Callable[[int, int], bytes]  # of which caller, the how manieth
    count: int
    insist: bool = False
    every_s: float = 0.0  # between two requests of one caller, at least
    calls: list[Call] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._leaving = False
        self._thread = ThreadPoolExecutor(1)
        self._done: Future[None] = self._thread.submit(lambda: asyncio.run(self._all()))
        return self

    def __exit__(self, *_: object) -> None:
        """What is on its way is waited for."""
        self._leaving = True
        self._thread.shutdown()
        self._done.result()

    def answers(self, since: float = 0.0, until: float = float("inf")) -> list[Answer]:
        """Those asked for after `since` that were there before `until`."""
        found = [call.answer for call in list(self.calls)]
        return [answer for answer in found if since <= answer.began and answer.ended <= until]

    async def _all(self) -> None:
        await asyncio.gather(*(self._caller(number) for number in range(self.count)))

    async def _caller(self, caller: int) -> None:
        number, line = 0, None  # type: int, Line | None
        due = time.monotonic() + self.every_s * caller / self.count
        while not self._leaving:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.every_s, time.monotonic() - self.every_s)
            try:
                line = line or await Line.open(self.port)
            except OSError:
                await asyncio.sleep(RECONNECT_AFTER_S)
                continue
            try:
                answer = await line.ask(self.request(caller, number))
            except LOST:
                line.drop()
                line = None
                self.lost.append((caller, number))
                number += not self.insist
                continue
            self.calls.append(Call(caller, number, answer))
            number += 1
            if answer.headers.get("connection") == "close":
                line.drop()
                line = None
        if line:
            line.drop()


def upload(name: str, data: bytes, *, key: str | None = None) -> bytes:
    """One image to /detect, as it goes over the wire."""
    return post("/detect", part(name, data) + END, {"Idempotency-Key": key} if key else {})


def uploads(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Many to /detect/batch."""
    return post("/detect/batch", b"".join(part(name, data) for name, data in files) + END)


def part(name: str, data: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def post(path: str, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None) -> bytes:
    """A whole request, or one that claims another length."""
    told = {"Host": "test", "Content-Type": FORM, "Content-Length": str(len(body) if length is None else length)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (told | (headers or {})).items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def picture(seed: int, size: int = 64, kind: str = "JPEG") -> bytes:
    """A small image like no other."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return _encoded(Image.fromarray(pixels).resize((size, size)), kind)


def laborious(seed: int, size: int = 2500) -> bytes:
    """A file of some kilobytes that takes a good part of a tenth of a second to decode."""
    return _encoded(Image.new("RGB", (size, size), (seed % 256, seed // 256 % 256, 128)), "PNG")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def p99(answers: Sequence[Answer]) -> float:
    """Seconds."""
    return sorted(answer.took_s for answer in answers)[int(len(answers) * 0.99)]


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
