"""Many images in one request, as files of a form or in zips: scored together, answered as lines of JSON in order.

A manifest before them, a CSV, says where the images are on the sky.
"""

import asyncio
import contextlib
import csv
import io
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from astrodetect.errors import ArchiveError, AstrodetectError, BodyTooLarge, DataError, Overloaded, RequestError
from astrodetect.records import SkyObject
from astrodetect.service import zip_archives
from astrodetect.service.detection import DetectionService
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.model_registry import ServedModel
from astrodetect.service.schemas import PredictionResponse, error_line
from astrodetect.service.shutdown import Shutdown
from astrodetect.sky.catalogue import Catalogue
from astrodetect.sky.catalogue_columns import CatalogueColumns
from astrodetect.sky.table_readers import read_csv_table

MAX_BATCH_REQUESTS = 2  # at a time; more are refused
MAX_SPOOLED_BODIES = 4  # of the largest size, on disk at a time
IMAGES_IN_FLIGHT = 32  # of one request: enough for full batches of the network
CHUNK_BYTES = 256 * 1024
IN_MEMORY_BYTES = 1_000_000  # of a part of a form; a larger one goes to disk
MAX_UNPACKED_RATIO = 10  # bytes unpacked from a zip, over the largest body of a request
ZIP_SIGNATURE = b"PK\x03\x04"
MAX_ENTRIES_PER_FILE = 3  # of a zip: folders and hidden files have entries too
MANIFEST = "manifest"  # field of the form
NO_FIELDS = "?model=NAME chooses the model, and a manifest, -F manifest=@objects.csv, has the positions"
MAX_MANIFEST_CELLS = 1_000_000


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file of the request: its bytes, or its error."""

    name: str
    data: bytes | AstrodetectError
    sky_object: SkyObject | None = None  # as the manifest says


class BatchDetection:
    """Answers /detect/batch; its images wait for free slots, so that requests with a single image go first."""

    def __init__(
        self, detection: DetectionService, shutdown: Shutdown, *, max_file_bytes: int, max_bytes: int, max_images: int
    ) -> None:
        self._detection, self._shutdown = detection, shutdown
        self._max_file_bytes, self._max_bytes, self._max_images = max_file_bytes, max_bytes, max_images
        self._slots = asyncio.Semaphore(MAX_BATCH_REQUESTS)
        self._spooled_bytes = 0

    def full(self) -> bool:
        """Whether another request would be refused."""
        return self._slots.locked()

    async def lines(self, request: Request, model: str | None, key: str | None = None) -> AsyncIterator[bytes]:
        """A line of JSON for every image: its prediction or its error; one model for all of them.

        The idempotency key of an image is that of the request and its number: a repeated request gets the same
        predictions.
        """
        if self.full():
            raise Overloaded(f"{MAX_BATCH_REQUESTS} batches are being processed: try again soon")
        context = RequestContext.of(request.scope)
        async with (
            self._spooled_body(request) as body,
            self._slots,  # afterwards: a slow body holds none
            self._detection.use_model(model, context, require_binary=True) as serving,
        ):
            files = uploaded_files(
                body,
                request.headers.get("content-type", ""),
                max_files=self._max_images,
                max_file_bytes=self._max_file_bytes,
                max_bytes=self._max_bytes,
            )
            try:
                async for line in self._score(files, serving, context, key):
                    yield line
            finally:
                with contextlib.suppress(ValueError):  # a thread still reads it after a disconnect, and ends it
                    files.close()

    @asynccontextmanager
    async def _spooled_body(self, request: Request) -> AsyncIterator[IO[bytes]]:
        """The body of the request, in a temporary file."""
        size = 0
        try:
            with tempfile.TemporaryFile() as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    self._spooled_bytes += len(chunk)
                    if self._spooled_bytes > MAX_SPOOLED_BODIES * self._max_bytes:
                        raise Overloaded("too many batches are being sent: try again soon")
                    file.write(chunk)
                file.seek(0)
                yield file
        finally:
            self._spooled_bytes -= size

    async def _score(
        self, files: Generator[UploadedFile, None, None], serving: ServedModel, context: RequestContext, key: str | None
    ) -> AsyncIterator[bytes]:
        tasks: deque[asyncio.Task[bytes]] = deque()
        images, failure = 0, None
        try:
            while (file := await asyncio.to_thread(_next_file, files)) and not failure:
                if isinstance(file, AstrodetectError):
                    failure = file
                elif images == self._max_images:
                    failure = RequestError(f"more than {self._max_images:,} images: send the rest in another request")
                else:
                    images += 1
                    tasks.append(asyncio.create_task(self._line(file, serving, key and f"{key}\n{images}")))
                if len(tasks) == IMAGES_IN_FLIGHT:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            context.fields["images"] = images
            for task in tasks:
                task.cancel()
        if not images:
            raise failure or RequestError("no file in the request: curl -F file=@a.jpg -F file=@b.jpg, or a zip")
        if failure:
            yield error_line(failure)

    async def _line(self, file: UploadedFile, serving: ServedModel, key: str | None) -> bytes:
        try:
            self._shutdown.check()
            if isinstance(file.data, AstrodetectError):
                raise file.data
            result = await self._detection.detect_in_batch(serving, file.name, file.data, file.sky_object, key=key)
        except AstrodetectError as error:
            return error_line(error, file.name)
        return PredictionResponse.of(result.prediction).model_dump_json().encode() + b"\n"


def _next_file(files: Iterator[UploadedFile]) -> UploadedFile | AstrodetectError | None:
    """The next file, or the error that keeps it from being read; None at the end."""
    try:
        return next(files, None)
    except AstrodetectError as error:
        return error


def uploaded_files(
    body: IO[bytes], content_type: str, *, max_files: int, max_file_bytes: int, max_bytes: int
) -> Generator[UploadedFile, None, None]:
    """Every file of the form, in order; one in a zip is named ZIP/PATH. The manifest comes first, if there is one."""
    manifest: Catalogue | None = None
    images = 0
    for field, name, part in _parts(body, content_type):
        with part:
            if field == MANIFEST:
                if images or manifest:
                    raise RequestError("one manifest, before the images: curl -F manifest=@objects.csv -F file=@a.jpg")
                manifest = _read_manifest(part, max_file_bytes)
                continue
            images += 1
            signature = part.read(len(ZIP_SIGNATURE))
            size = part.seek(0, 2)
            part.seek(0)
            if signature == ZIP_SIGNATURE:
                for file in _unzip(
                    name,
                    part,
                    max_files=max_files,
                    max_file_bytes=max_file_bytes,
                    max_bytes=max_bytes * MAX_UNPACKED_RATIO,
                ):
                    yield _with_sky_object(file, manifest, file.name.removeprefix(f"{name}/"))
            elif size > max_file_bytes:
                yield UploadedFile(name, BodyTooLarge(f"the file is larger than {max_file_bytes:,} bytes"))
            else:
                yield _with_sky_object(UploadedFile(name, part.read()), manifest, name)


def _read_manifest(part: IO[bytes], max_bytes: int) -> Catalogue:
    """Sky positions by the name of the file; a zip's by the path in it."""
    data = part.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise BodyTooLarge(f"the manifest is larger than {max_bytes:,} bytes")
    try:
        table = read_csv_table(io.BytesIO(data), MAX_MANIFEST_CELLS)
    except DataError as error:
        raise RequestError(f"the manifest {error}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise RequestError(f"the manifest is no CSV in UTF-8: {error}") from error
    manifest = Catalogue()
    try:
        manifest.add_table(table, "the manifest", None, CatalogueColumns())
    except DataError as error:
        raise RequestError(str(error)) from error
    return manifest


def _with_sky_object(file: UploadedFile, manifest: Catalogue | None, name: str) -> UploadedFile:
    return file if manifest is None else replace(file, sky_object=manifest.sky_object(name))


def _unzip(
    name: str, file: IO[bytes], *, max_files: int, max_file_bytes: int, max_bytes: int
) -> Iterator[UploadedFile]:
    entries = max_files * MAX_ENTRIES_PER_FILE
    try:
        for path, data in zip_archives.read_files(
            file, max_entries=entries, max_file_bytes=max_file_bytes, max_bytes=max_bytes
        ):
            yield UploadedFile(f"{name}/{path}", data)
    except ArchiveError as error:
        yield UploadedFile(name, error)


def _parts(body: IO[bytes], content_type: str) -> Iterator[tuple[str, str, IO[bytes]]]:
    """Field, file name and content of every part of the form that is a file."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise RequestError("send the images as a form: curl -F file=@a.jpg -F file=@b.jpg, or -F file=@many.zip")
    form = _FormParts()
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())  # type: ignore[arg-type]
        while chunk := body.read(CHUNK_BYTES):
            parser.write(chunk)
            yield from form.pop_finished()
        parser.finalize()
        yield from form.pop_finished()
    except FormParserError as error:
        raise RequestError(f"the form cannot be read: {error}") from error
    finally:
        form.close()
    if not form.ended:
        raise RequestError("the form is cut short")


class _FormParts:
    """Collects the files of a form from the callbacks of its parser."""

    def __init__(self) -> None:
        self.ended = False
        self._finished: deque[tuple[str, str, IO[bytes]]] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._name: str | None = None
        self._form_field = ""
        self._content: IO[bytes] | None = None

    def callbacks(self) -> dict[str, object]:
        return {
            name: getattr(self, name)
            for name in (
                "on_part_begin", "on_header_field", "on_header_value", "on_header_end", "on_headers_finished",
                "on_part_data", "on_part_end", "on_end",
            )
        }  # fmt: skip

    def pop_finished(self) -> Iterator[tuple[str, str, IO[bytes]]]:
        while self._finished:
            yield self._finished.popleft()

    def close(self) -> None:
        for *_, content in self._finished:
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
            self._form_field = options.get(b"name", b"").decode("utf-8", "replace")
            self._content = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        else:
            name = options.get(b"name", b"").decode("utf-8", "replace")[:255]
            raise RequestError(f"the field {name!r} of the form is no file: {NO_FIELDS}")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._content:
            self._content.write(data[start:end])

    def on_part_end(self) -> None:
        if self._content and self._name is not None:
            self._content.seek(0)
            self._finished.append((self._form_field, self._name, self._content))
        self._content = None

    def on_end(self) -> None:
        self.ended = True
