"""A form with one file is cut as Starlette's parser cuts it; all others are left to that."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser
from starlette.types import Message, Receive, Scope, Send

from astrodetect.service.authentication import ApiKeys
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.body_limits import BodyLimit
from astrodetect.service.middleware.request_log import RequestLog
from astrodetect.service.middleware.single_image import MAX_BODY_BYTES, SingleImageMiddleware, read_single_file
from astrodetect.service.served_hosts import ServedHosts

BOUNDARY = "----boundary7"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
LOG = RequestLog(Metrics(), is_draining=lambda _: False)
FILE = 'Content-Disposition: form-data; name="file"; filename="{}"\r\nContent-Type: image/jpeg'


def form(*parts: tuple[str, bytes], end: str = "--\r\n") -> bytes:
    body = b"".join(f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode() + data + b"\r\n" for headers, data in parts)
    return body + f"--{BOUNDARY}{end}".encode()


def parsed(body: bytes, content_type: str = TYPE) -> tuple[str, bytes]:
    """By Starlette's parser."""

    async def parse() -> tuple[str, bytes]:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield body

        fields = await MultiPartParser(Headers({"content-type": content_type}), chunks()).parse()
        file = fields["file"]
        assert isinstance(file, UploadFile)
        content = await file.read()
        await fields.close()
        return file.filename or "", content

    return asyncio.run(parse())


@pytest.mark.parametrize("name", ["a.jpg", "é 星.jpg", r"a\"b\\c.jpg", r"C:\sky\a.jpg", "a;b=c.jpg", "", "a" * 300])
@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\r\n--" + BOUNDARY[:-1].encode(), b"\r\n" * 9, bytes(70_000)])
def test_one_file_is_cut_as_by_the_parser(name: str, data: bytes) -> None:
    for end in ("--\r\n", "--"):
        body = form((FILE.format(name), data), end=end)
        assert read_single_file(body, TYPE.encode()) == parsed(body)


def test_other_spellings_are_cut_as_by_the_parser() -> None:
    headers = "content-type: image/png\r\nX-Note: content-disposition: none"
    headers += '\r\ncontent-DISPOSITION:form-data; filename=a.png; name="file"'
    body, content_type = form((headers, b"data")), f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"'
    assert read_single_file(body, content_type.encode()) == parsed(body, content_type) == ("a.png", b"data")


@pytest.mark.parametrize(
    "body",
    [
        form((FILE.format("a.jpg"), b"1"), (FILE.format("b.jpg"), b"2")),
        form((FILE.format("a.jpg"), b"1"), ('Content-Disposition: form-data; name="model"', b"m")),
        form(('Content-Disposition: form-data; name="file"', b"text")),
        form((FILE.format("a.jpg").replace('"file"', '"image"'), b"1")),
        form(("Content-Type: image/jpeg", b"1")),
        form((FILE.format("a.jpg"), b"1"), end="--\r\nepilogue"),
        b"preamble\r\n" + form((FILE.format("a.jpg"), b"1")),
        form((FILE.format("a.jpg"), b"1"))[:-6],
        form((FILE.format("a.jpg") + "\r\nX: " + "x" * 5000, b"1")),
        f"--{BOUNDARY}\r\n{FILE.format('a.jpg')}\r\n\r\n--{BOUNDARY}--".encode(),
        form((FILE.format("é.jpg"), b"1")).replace("é".encode(), b"\xe9"),
        b"",
    ],
)
def test_all_other_forms_are_left_to_the_parser(body: bytes) -> None:
    assert read_single_file(body, TYPE.encode()) is None


@pytest.mark.parametrize("content_type", ["", "multipart/form-data", "image/jpeg", f"text/plain; boundary={BOUNDARY}"])
def test_other_content_types_are_left_to_the_parser(content_type: str) -> None:
    assert read_single_file(form((FILE.format("a.jpg"), b"1")), content_type.encode()) is None


@pytest.mark.parametrize("length", [None, "many", str(MAX_BODY_BYTES + 1)])
def test_no_large_body_is_held_in_memory(length: str | None) -> None:
    passed_on = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        passed_on.append(scope["path"])

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(_message: Message) -> None: ...

    headers = [(b"content-type", TYPE.encode())] + ([(b"content-length", length.encode())] if length else [])
    scope = {"type": "http", "method": "POST", "path": "/detect", "query_string": b"", "headers": headers}
    asyncio.run(
        SingleImageMiddleware(app, LOG, ApiKeys(None), ServedHosts(""), BodyLimit(MAX_BODY_BYTES, 60))(
            scope, receive, send
        )
    )
    assert passed_on == ["/detect"]
