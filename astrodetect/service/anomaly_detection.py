"""Novelty of many images in one request, uploaded or fetched from URLs; each image has its own result or error."""

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
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.errors import AstrodetectError, BodyTooLarge, ModelUnsuitable, Overloaded, RequestError
from astrodetect.records import UNUSUAL_NOVELTY
from astrodetect.service.detection import DetectionService, cancel_on_disconnect
from astrodetect.service.fetch import Fetcher
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.model_registry import ServedModel
from astrodetect.service.schemas import AnomalyResponse, FailedResponse, PredictionResponse
from astrodetect.service.shutdown import Shutdown

MAX_ANOMALY_REQUESTS = 4  # at a time; more are refused
FETCHES_IN_FLIGHT = 4  # images of one request that are fetched or held in memory at a time
MIN_JSON_BYTES, JSON_BYTES_PER_URL = 100_000, 4_000  # the largest body: it is parsed on the event loop


class ImageUrls(BaseModel):
    """The JSON body of a request: the URLs of its images."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_paths: Annotated[list[str], FailFast()]


class _ImageSource(NamedTuple):
    name: str
    read: Callable[[], Awaitable[bytes]]


class AnomalyDetection:
    """Answers /detect-anomalies; its images wait for free slots, so that requests with a single image go first."""

    def __init__(
        self,
        detection: DetectionService,
        shutdown: Shutdown,
        fetcher: Fetcher,
        *,
        max_images: int,
        max_file_bytes: int,
    ) -> None:
        self._detection, self._shutdown, self._fetcher = detection, shutdown, fetcher
        self._max_images, self._max_file_bytes = max_images, max_file_bytes
        self._slots = asyncio.Semaphore(MAX_ANOMALY_REQUESTS)

    def full(self) -> bool:
        """Whether another request would be refused."""
        return self._slots.locked()

    async def detect(self, request: Request, model: str | None) -> list[AnomalyResponse | FailedResponse]:
        """The novelty or the error of every image, in order; one model for all of them."""
        if self.full():
            raise Overloaded(f"{MAX_ANOMALY_REQUESTS} such requests are being processed: try again soon")
        context = RequestContext.of(request.scope)
        async with self._sources(request) as sources, self._slots:  # a slow body holds no slot
            context.fields["images"] = len(sources)
            async with self._detection.use_model(model, context, require_binary=False) as serving:
                if serving.novelty is None:
                    name = serving.manifest.name
                    raise ModelUnsuitable(
                        f"model {name} carries no detectors: python -m astrodetect anomalies NORMAL --attach {name}"
                    )
                return await cancel_on_disconnect(request, self._detect_all(sources, serving))

    @asynccontextmanager
    async def _sources(self, request: Request) -> AsyncIterator[list[_ImageSource]]:
        """The images of the request, whose body is read to its end."""
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            async with request.form(max_files=self._max_images) as form:
                if others := [name for name, part in form.multi_items() if isinstance(part, str)]:
                    raise RequestError(
                        f"the field {others[0][:255]!r} of the form is no file: ?model=NAME chooses the model, and "
                        "/detect and /detect/batch take positions"
                    )
                files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                if not files:
                    raise RequestError("no file in the form: curl -F file=@a.jpg -F file=@b.jpg")
                yield [_ImageSource(file.filename or "", partial(self._read_upload, file)) for file in files]
        else:
            urls = await self._read_urls(request)
            yield [_ImageSource(url, partial(self._fetcher.get, url)) for url in urls]

    async def _read_urls(self, request: Request) -> list[str]:
        body, max_bytes = bytearray(), max(MIN_JSON_BYTES, JSON_BYTES_PER_URL * self._max_images)
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise BodyTooLarge(f"more than {max_bytes:,} bytes of JSON")
        try:
            urls = ImageUrls.model_validate_json(body).image_paths
        except ValidationError as error:
            errors = [{**detail, "loc": ("body", *(detail["loc"] or ("body",)))} for detail in error.errors()]
            raise RequestValidationError(errors) from error
        if not urls:
            raise RequestError("image_paths is empty: it lists the URLs of the images")
        if len(urls) > self._max_images:
            raise RequestError(f"more than {self._max_images:,} images: send the rest in another request")
        return urls

    async def _read_upload(self, file: UploadFile) -> bytes:
        if (file.size or 0) > self._max_file_bytes:
            raise BodyTooLarge(f"the file is larger than {self._max_file_bytes:,} bytes")
        return await file.read()

    async def _detect_all(
        self, sources: list[_ImageSource], serving: ServedModel
    ) -> list[AnomalyResponse | FailedResponse]:
        slots = asyncio.Semaphore(FETCHES_IN_FLIGHT)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._detect_one(source, serving, slots)) for source in sources]
        return [task.result() for task in tasks]

    async def _detect_one(
        self, source: _ImageSource, serving: ServedModel, slots: asyncio.Semaphore
    ) -> AnomalyResponse | FailedResponse:
        try:
            async with slots:
                self._shutdown.check()
                data = await source.read()
                prediction, novelty = await self._detection.detect_in_batch(serving, source.name, data)
        except AstrodetectError as error:
            return FailedResponse.of(source.name, error)
        assert novelty is not None  # noqa: S101 - this model carries detectors
        loss, anomaly = loss_and_flag(novelty)
        row = PredictionResponse.of(prediction)
        return AnomalyResponse(
            filename=source.name,
            loss=loss,
            anomaly=anomaly,
            novelty=float(novelty.novelty[0]),
            id=row.id,
            logged=row.logged,
            request_id=row.request_id,
        )


def loss_and_flag(novelty: NoveltyResult) -> tuple[float, bool]:
    """Of one image: the autoencoder's loss, and whether all detectors call it an anomaly, as in the published study.

    Without an autoencoder: the strength by which images are ranked, and whether novelty reaches UNUSUAL_NOVELTY.
    """
    if Autoencoder.name in novelty.scores:
        return float(novelty.scores[Autoencoder.name][0]), bool(novelty.consensus[0])
    return float(novelty.strength[0]), bool(novelty.novelty[0] >= UNUSUAL_NOVELTY)
