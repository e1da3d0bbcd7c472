"""Many images in one request: all at work together, answered one by one in the order in which they came."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator

from starlette.requests import Request

from astrodetect.errors import AstrodetectError, Overloaded, RequestError
from astrodetect.service.detection import DetectionService
from astrodetect.service.middleware.request_log import REQUEST_CONTEXT, RequestContext
from astrodetect.service.model_registry import ServedModel
from astrodetect.service.schemas import PredictionResponse, error_line
from astrodetect.service.shutdown import Shutdown
from astrodetect.service.uploads import UploadedFile, entries, spooled

AT_ONCE = 2  # requests; more are refused
AT_WORK = 32  # images of one request: enough for full passes of the network


class BatchDetection:
    """The way in for folders; single images go before, as each of these waits for its turn."""

    def __init__(
        self, detector: DetectionService, drain: Shutdown, *, max_file_bytes: int, max_bytes: int, max_images: int
    ) -> None:
        self._detector, self._drain = detector, drain
        self._max_file_bytes, self._max_bytes, self._max_images = max_file_bytes, max_bytes, max_images
        self._running = asyncio.Semaphore(AT_ONCE)

    def full(self) -> bool:
        """Whether another request would be refused."""
        return self._running.locked()

    async def lines(self, request: Request, model: str | None) -> AsyncIterator[bytes]:
        """A line of JSON for every image: its verdict, or what is wrong with it; one model for all of them."""
        if self.full():
            raise Overloaded(f"{AT_ONCE} batches are at work: try again soon")
        trail = request.scope[REQUEST_CONTEXT]
        async with self._running, self._detector.using(model, trail, anomalies=True) as serving:
            with await spooled(request) as body:
                found = entries(
                    body,
                    request.headers.get("content-type", ""),
                    max_file_bytes=self._max_file_bytes,
                    max_bytes=self._max_bytes,
                )
                try:
                    async for line in self._answered(found, serving, trail):
                        yield line
                finally:
                    with contextlib.suppress(ValueError):  # a caller left while a thread reads on: it ends by itself
                        found.close()

    async def _answered(
        self, found: Generator[UploadedFile, None, None], serving: ServedModel, trail: RequestContext
    ) -> AsyncIterator[bytes]:
        at_work: deque[asyncio.Task[bytes]] = deque()
        taken, wrong = 0, None
        try:
            while (entry := await asyncio.to_thread(_next, found)) and not wrong:
                if isinstance(entry, AstrodetectError):
                    wrong = entry
                elif taken == self._max_images:
                    wrong = RequestError(f"more than {self._max_images:,} images: send the rest in another request")
                else:
                    taken += 1
                    at_work.append(asyncio.create_task(self._line(entry, serving)))
                if len(at_work) == AT_WORK:
                    yield await at_work.popleft()
            while at_work:
                yield await at_work.popleft()
        finally:
            trail.said["images"] = taken
            for task in at_work:
                task.cancel()
        if not taken:
            raise wrong or RequestError("no file in the request: curl -F file=@a.jpg -F file=@b.jpg, or a zip")
        if wrong:
            yield error_line(wrong)

    async def _line(self, entry: UploadedFile, serving: ServedModel) -> bytes:
        try:
            self._drain.check()
            if isinstance(entry.data, AstrodetectError):
                raise entry.data
            judged = await self._detector.one_of_many(serving, entry.name, entry.data)
        except AstrodetectError as error:
            return error_line(error, entry.name)
        return PredictionResponse.of(judged.verdict).model_dump_json().encode() + b"\n"


def _next(found: Iterator[UploadedFile]) -> UploadedFile | AstrodetectError | None:
    """The next one, or what keeps it from being read; None at the end."""
    try:
        return next(found, None)
    except AstrodetectError as error:
        return error
