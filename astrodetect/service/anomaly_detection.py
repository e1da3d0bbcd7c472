"""How unusual images are, by their URLs or their bytes: many in one request, each for itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, FailFast, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.errors import AstrodetectError, BodyTooLarge, ModelUnfit, Overloaded, RequestError
from astrodetect.service.detection import DetectionService
from astrodetect.service.disconnect import cancel_on_disconnect
from astrodetect.service.fetch import Fetcher
from astrodetect.service.middleware.request_log import REQUEST_CONTEXT
from astrodetect.service.model_registry import ServedModel
from astrodetect.service.schemas import AnomalyResponse, FailedResponse, PredictionResponse
from astrodetect.service.shutdown import Shutdown

AT_ONCE = 4  # requests; more are refused
AT_WORK = 4  # images of one request, from their first byte to their row: what is fetched at a time, and held in memory
MOST_JSON_BYTES = 4_000_000
UNUSUAL = 0.99  # novelty from which an image is an anomaly, where no autoencoder is there to agree with


class Asked(BaseModel):
    """The images of a request, by their URLs."""

    model_config = ConfigDict(strict=True)

    image_paths: Annotated[list[str], FailFast()]


class _Wanted(NamedTuple):
    name: str
    data: Callable[[], Awaitable[bytes]]


class AnomalyDetection:
    """The way in for images that are looked at for what is unusual; each waits for its turn as those in batches do."""

    def __init__(
        self, detector: DetectionService, drain: Shutdown, fetcher: Fetcher, *, max_images: int, max_file_bytes: int
    ) -> None:
        self._detector, self._drain, self._fetcher = detector, drain, fetcher
        self._max_images, self._max_file_bytes = max_images, max_file_bytes
        self._running = asyncio.Semaphore(AT_ONCE)

    def full(self) -> bool:
        """Whether another request would be refused."""
        return self._running.locked()

    async def answers(self, request: Request, model: str | None) -> list[AnomalyResponse | FailedResponse]:
        """For every image how unusual it is, or what is wrong with it, in order; one model for all of them."""
        if self.full():
            raise Overloaded(f"{AT_ONCE} such requests are at work: try again soon")
        trail = request.scope[REQUEST_CONTEXT]
        async with self._running, self._detector.using(model, trail, anomalies=False) as serving:
            if serving.looker is None:
                name = serving.manifest.name
                raise ModelUnfit(
                    f"model {name} carries no detectors: python -m astrodetect anomalies NORMAL --attach {name}"
                )
            async with self._wanted(request) as wanted:
                trail.said["images"] = len(wanted)
                return await cancel_on_disconnect(request, self._all(wanted, serving))

    def close(self) -> None:
        """Nothing is at work any more."""
        self._fetcher.close()

    @asynccontextmanager
    async def _wanted(self, request: Request) -> AsyncIterator[list[_Wanted]]:
        """The images of a request that has been read to its end."""
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            async with request.form(max_files=self._max_images) as form:
                files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                if not files:
                    raise RequestError("no file in the form: curl -F file=@a.jpg -F file=@b.jpg")
                yield [_Wanted(file.filename or "", partial(self._uploaded, file)) for file in files]
        else:
            urls = await self._urls(request)
            yield [_Wanted(url, partial(self._fetcher.get, url)) for url in urls]

    async def _urls(self, request: Request) -> list[str]:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_JSON_BYTES:
                raise BodyTooLarge(f"more than {MOST_JSON_BYTES:,} bytes of JSON")
        try:
            urls = Asked.model_validate_json(body).image_paths
        except ValidationError as error:
            wrong = [{**one, "loc": ("body", *(one["loc"] or ("body",)))} for one in error.errors()]
            raise RequestValidationError(wrong) from error
        if not urls:
            raise RequestError("image_paths is empty: it lists the URLs of the images")
        if len(urls) > self._max_images:
            raise RequestError(f"more than {self._max_images:,} images: send the rest in another request")
        return urls

    async def _uploaded(self, file: UploadFile) -> bytes:
        if (file.size or 0) > self._max_file_bytes:
            raise BodyTooLarge(f"the file is larger than {self._max_file_bytes:,} bytes")
        return await file.read()

    async def _all(self, wanted: list[_Wanted], serving: ServedModel) -> list[AnomalyResponse | FailedResponse]:
        places = asyncio.Semaphore(AT_WORK)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(one, serving, places)) for one in wanted]
        return [task.result() for task in tasks]

    async def _one(
        self, wanted: _Wanted, serving: ServedModel, places: asyncio.Semaphore
    ) -> AnomalyResponse | FailedResponse:
        try:
            async with places:
                self._drain.check()
                data = await wanted.data()
                verdict, looked = await self._detector.one_of_many(serving, wanted.name, data)
        except AstrodetectError as error:
            return FailedResponse.of(wanted.name, error)
        assert looked is not None  # noqa: S101 - this model carries detectors
        loss, anomaly = loss_and_flag(looked)
        row = PredictionResponse.of(verdict)
        return AnomalyResponse(
            filename=wanted.name,
            loss=loss,
            anomaly=anomaly,
            novelty=float(looked.novelty[0]),
            id=row.id,
            logged=row.logged,
            request_id=row.request_id,
        )


def loss_and_flag(looked: NoveltyResult) -> tuple[float, bool]:
    """Of one image, as in the study where there is its autoencoder: that one's loss, and whether all detectors agree.

    Elsewhere what the ranking sorts by, and whether at least 99 % of the images learnt from are less unusual.
    """
    if Autoencoder.name in looked.scores:
        return float(looked.scores[Autoencoder.name][0]), bool(looked.consensus[0])
    return float(looked.strength[0]), bool(looked.novelty[0] >= UNUSUAL)
