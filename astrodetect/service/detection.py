"""Image bytes to a recorded prediction: decoded, scored in a batch with other requests, written to the database."""

import asyncio
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from astrodetect import fits, images
from astrodetect.errors import DatabaseUnavailable, DeadlineExceeded, ImageError, ModelUnsuitable, Overloaded
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import NAME_BASED_UUID, Prediction, QueuedPrediction, SkyObject
from astrodetect.service.disconnection import DISCONNECTION, Disconnection
from astrodetect.service.image_pipeline import DecodedImage, DetectionResult, ImageJob, ImagePipeline, image_conflict
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.model_registry import ModelRegistry, ServedModel
from astrodetect.service.recorder import Recorder

# Large images share a thread that decodes one at a time: each takes 0.1 s and 100 MB.
LARGE_FILE_BYTES, LARGE_PIXELS = 1_000_000, 2**22
SMALL_FILE_BYTES = 50_000  # whose size in pixels is not looked at
KEY_NAMESPACE = uuid.UUID("6f1b3c52-8d0e-4c39-9a55-0f4e7c1d2a90")  # of the request ids made from Idempotency-Keys

Awaited = TypeVar("Awaited")


class DetectionService:
    """Scores at most `max_in_flight` images at a time, each within `timeout_s`."""

    def __init__(
        self,
        models: ModelRegistry,
        pipeline: ImagePipeline,
        recorder: Recorder,
        metrics: Metrics,
        *,
        max_in_flight: int,
        timeout_s: float,
    ) -> None:
        self._models, self._pipeline, self._recorder, self._metrics = models, pipeline, recorder, metrics
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(max_in_flight)
        self._in_flight = 0
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._prober = ThreadPoolExecutor(1, thread_name_prefix="prober")
        self._key_locks: weakref.WeakValueDictionary[uuid.UUID, asyncio.Lock] = weakref.WeakValueDictionary()

    def full(self) -> bool:
        """Whether another image would be refused; if so, this counts as a refusal."""
        if self._slots.locked():
            self._metrics.refused()
            return True
        return False

    async def detect(
        self,
        request: Request,
        name: str,
        data: bytes,
        *,
        model: str | None,
        key: str | None = None,
        require_binary: bool = False,
        sky_object: SkyObject | None = None,
    ) -> Prediction | QueuedPrediction:
        """Scores and records one uploaded image, unless the client disconnects; its request log gets the stages.

        The same idempotency key, image, model and position give the prediction that was recorded first.
        """
        context = RequestContext.of(request.scope)
        context.stages_s["read"] = context.age_s
        if self.full():
            raise Overloaded("too many images are being processed: try again soon")
        request_id = context.request_id if key is None else uuid.uuid5(KEY_NAMESPACE, key)
        job = ImageJob(name, data, request_id, context.stages_s, sky_object)
        work = self._detect(job, context, model=model, require_binary=require_binary)
        prediction = await cancel_on_disconnect(request, self._in_slot(work))
        logged = "queued" if isinstance(prediction, QueuedPrediction) else "committed"
        if key is not None:
            context.fields["x_request_id"] = context.request_id
        context.fields |= {"request_id": prediction.request_id, "logged": logged}
        return prediction

    async def detect_in_batch(
        self,
        serving: ServedModel,
        name: str,
        data: bytes,
        sky_object: SkyObject | None = None,
        *,
        key: str | None = None,
    ) -> DetectionResult:
        """Scores and records one image of a request with many, once under a key; it waits for a free slot."""
        request_id = uuid.uuid4() if key is None else uuid.uuid5(KEY_NAMESPACE, key)
        return await self._in_slot(self._record(serving, ImageJob(name, data, request_id, {}, sky_object)))

    @asynccontextmanager
    async def use_model(
        self, name: str | None, context: RequestContext, *, require_binary: bool
    ) -> AsyncIterator[ServedModel]:
        """The model of that name, or the default one; ModelUnsuitable where it must be binary and is not."""
        serving = await self._models.acquire(name)
        try:
            if require_binary:
                _require_binary(serving.manifest)
            context.fields["model"] = serving.manifest.name
            yield serving
        finally:
            self._models.release(serving)

    def in_flight(self) -> int:
        """The number of images being processed."""
        return self._in_flight

    def close(self) -> None:
        """Stops the threads."""
        self._decoder.shutdown()
        self._prober.shutdown()

    async def _detect(
        self, job: ImageJob, context: RequestContext, *, model: str | None, require_binary: bool
    ) -> Prediction | QueuedPrediction:
        async with self.use_model(model, context, require_binary=require_binary) as serving:
            return (await self._record(serving, job)).prediction

    async def _in_slot(self, work: Coroutine[Any, Any, Awaited]) -> Awaited:
        """Await `work` once a slot is free; DeadlineExceeded if it is not done in time."""
        try:
            async with self._slots:
                self._in_flight += 1
                try:
                    async with asyncio.timeout(self._timeout_s):
                        return await work
                except TimeoutError:
                    raise DeadlineExceeded(f"not done within {self._timeout_s:g} seconds: try again soon") from None
                finally:
                    self._in_flight -= 1
        finally:
            work.close()  # where it was never awaited

    async def _record(self, serving: ServedModel, job: ImageJob) -> DetectionResult:
        """A new prediction, or the one that was recorded under the idempotency key of this request before."""
        if job.request_id.version != NAME_BASED_UUID:
            return await self._score_and_record(serving, job)
        decoded = await self._decode(serving, job)
        async with self._key_locks.setdefault(job.request_id, asyncio.Lock()):  # a repeat waits for the first request
            if earlier := await asyncio.to_thread(self._find_recorded, job.request_id):
                if conflict := image_conflict(earlier, decoded.sha256, serving.manifest, job.sky_object):
                    raise conflict
                return DetectionResult(earlier, None)
            return await self._score_and_record(serving, job)

    async def _decode(self, serving: ServedModel, job: ImageJob) -> DecodedImage:
        """In a thread that decodes one image at a time."""
        contract, loop = serving.manifest.image, asyncio.get_running_loop()
        started = time.perf_counter()
        job.decoded = await loop.run_in_executor(self._decoder, self._pipeline.decode, job.data, contract)
        job.stages_s["decode"], job.queued = time.perf_counter() - started, time.perf_counter()
        return job.decoded

    async def _score_and_record(self, serving: ServedModel, job: ImageJob) -> DetectionResult:
        if job.decoded is None and await self._is_large_image(job.data):
            await self._decode(serving, job)
        result: DetectionResult = await serving.batcher.submit(job)
        return result

    async def _is_large_image(self, data: bytes) -> bool:
        """`_is_large`, in a thread where that reads a header: a hostile one takes a second."""
        if SMALL_FILE_BYTES < len(data) <= LARGE_FILE_BYTES:
            return await asyncio.get_running_loop().run_in_executor(self._prober, _is_large, data)
        return _is_large(data)

    def _find_recorded(self, request_id: uuid.UUID) -> Prediction | QueuedPrediction | None:
        """The prediction recorded under a key; while PostgreSQL is down, only those in the outbox are found."""
        try:
            return self._recorder.find(request_id)
        except DatabaseUnavailable:
            return None


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Awaited]) -> Awaited:
    """Await `work`; cancel it and raise ClientDisconnect if the client disconnects. The body has been read."""
    task, disconnected = asyncio.current_task(), False
    assert task is not None  # noqa: S101 - within a coroutine

    def cancel() -> None:
        nonlocal disconnected
        disconnected = True
        task.cancel()

    stop_watching = _watch(request, cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        stop_watching()


def _watch(request: Request, on_disconnect: Callable[[], object]) -> Callable[[], object]:
    """Has this called when the client disconnects; returns what ends that."""
    disconnection: Disconnection | None = request.scope.get(DISCONNECTION)
    if disconnection:
        disconnection.add(on_disconnect)
        return partial(disconnection.discard, on_disconnect)
    watch = asyncio.create_task(_disconnected(request))  # under another server, or its other protocol

    def done(watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            on_disconnect()

    def stop() -> None:
        watch.remove_done_callback(done)
        watch.cancel()

    watch.add_done_callback(done)
    return stop


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _is_large(data: bytes) -> bool:
    if data.startswith((fits.GZIP, fits.MAGIC)):  # whose size is known once it is unpacked
        return data.startswith(fits.GZIP) or len(data) > LARGE_FILE_BYTES or fits.TILES in data
    if SMALL_FILE_BYTES < len(data) <= LARGE_FILE_BYTES:
        try:
            image = images.probe(data)
        except ImageError:  # as decoding will say
            return False
        return image.width * image.height > LARGE_PIXELS
    return len(data) > LARGE_FILE_BYTES


def _require_binary(manifest: Manifest) -> None:
    if manifest.task != "binary":
        raise ModelUnsuitable(
            f"model {manifest.name} has several classes ({', '.join(manifest.classes)}); "
            "/detect needs a binary model. Use /classify."
        )
