"""Many images in one request: the parts of a form, and the files in the zips among them, one at a time."""

import tempfile
import zipfile
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import IO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from astrodetect.errors import ArchiveError, AstrodetectError, BodyTooLarge, RequestError

CHUNK_BYTES = 256 * 1024
IN_MEMORY_BYTES = 1_000_000  # of a part; what is larger goes to the disk
MOST_UNPACKED = 10  # times the bytes that a request may have: a zip that holds more is no folder of images
ZIP = b"PK\x03\x04"
HIDDEN = ("__MACOSX/", ".")  # what computers add to zips


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of the request: its bytes, or why there are none."""

    name: str
    data: bytes | AstrodetectError


async def spooled(request: Request) -> IO[bytes]:
    """The body on disk: how long it is costs no memory."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's to close
    try:
        async for chunk in request.stream():
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def entries(
    body: IO[bytes], content_type: str, *, max_file_bytes: int, max_bytes: int
) -> Generator[UploadedFile, None, None]:
    """Every file in the form, in order; those in a zip go by its name and their own."""
    for name, part in _parts(body, content_type):
        with part:
            start = part.read(len(ZIP))
            size = part.seek(0, 2)
            part.seek(0)
            if start == ZIP:
                yield from _unzipped(name, part, max_file_bytes=max_file_bytes, max_bytes=max_bytes * MOST_UNPACKED)
            elif size > max_file_bytes:
                yield UploadedFile(name, BodyTooLarge(f"the file is larger than {max_file_bytes:,} bytes"))
            else:
                yield UploadedFile(name, part.read())


def _unzipped(name: str, file: IO[bytes], *, max_file_bytes: int, max_bytes: int) -> Iterator[UploadedFile]:
    unpacked = 0
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        yield UploadedFile(name, ArchiveError(f"the zip cannot be read: {error}"))
        return
    for member in archive.infolist():
        path = f"{name}/{member.filename}"
        hidden = any(part.startswith(HIDDEN[1]) for part in member.filename.split("/"))
        if member.is_dir() or hidden or member.filename.startswith(HIDDEN[0]):
            continue
        unpacked += member.file_size
        if member.file_size > max_file_bytes:
            yield UploadedFile(path, BodyTooLarge(f"the file is larger than {max_file_bytes:,} bytes"))
        elif unpacked > max_bytes:
            yield UploadedFile(path, BodyTooLarge(f"the zip unpacks to more than {max_bytes:,} bytes"))
            return
        else:
            try:
                yield UploadedFile(path, archive.read(member))
            except Exception as error:  # noqa: BLE001 - damaged zips make zipfile raise almost anything
                yield UploadedFile(path, ArchiveError(f"cannot be unpacked: {error}"))


def _parts(body: IO[bytes], content_type: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The name and the content of every part of the form that is a file."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise RequestError("send the images as a form: curl -F file=@a.jpg -F file=@b.jpg, or -F file=@many.zip")
    form = _Form()
    parser = MultipartParser(options[b"boundary"], form.callbacks())  # type: ignore[arg-type]
    try:
        while chunk := body.read(CHUNK_BYTES):
            parser.write(chunk)
            yield from form.taken()
        parser.finalize()
        yield from form.taken()
    except MultipartParseError as error:
        raise RequestError(f"the form cannot be read: {error}") from error
    finally:
        form.close()
    if not form.ended:
        raise RequestError("the form is cut short")


class _Form:
    """Collects what the parser says."""

    def __init__(self) -> None:
        self.ended = False
        self._done: deque[tuple[str, IO[bytes]]] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._name: str | None = None
        self._content: IO[bytes] | None = None

    def callbacks(self) -> dict[str, object]:
        return {
            name: getattr(self, name)
            for name in (
                "on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_headers_finished",
                "on_part_data", "on_part_end", "on_end",
            )
        }  # fmt: skip

    def taken(self) -> Iterator[tuple[str, IO[bytes]]]:
        while self._done:
            yield self._done.popleft()

    def close(self) -> None:
        for _, content in self._done:
            content.close()
        if self._content:
            self._content.close()

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" in options:
            self._name = options[b"filename"].decode("utf-8", "replace")
            self._content = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._content:
            self._content.write(data[start:end])

    def on_part_end(self) -> None:
        if self._content and self._name is not None:
            self._content.seek(0)
            self._done.append((self._name, self._content))
        self._content = None

    def on_end(self) -> None:
        self.ended = True
