"""Image bytes to a recorded prediction: decoded, scored in a batch with other requests, written to the database."""

import asyncio
import hashlib
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request

from astrodetect import images
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.errors import DatabaseUnavailable, DeadlineExceeded, IdempotencyConflict, ModelUnsuitable, Overloaded
from astrodetect.inference import decision, heat_maps
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import NAME_BASED_UUID, ImageContract, Pixels, Prediction, QueuedPrediction
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.model_registry import ModelRegistry, ServedModel
from astrodetect.service.recorder import Recorder
from astrodetect.service.thumbnails import ThumbnailStore

LARGE_FILE_BYTES = 1_000_000  # larger files share a decoder of their own: each takes 0.1 s and 100 MB
KEY_NAMESPACE = uuid.UUID("6f1b3c52-8d0e-4c39-9a55-0f4e7c1d2a90")  # of the request ids made from Idempotency-Keys

Awaited = TypeVar("Awaited")


class DetectionResult(NamedTuple):
    """A recorded prediction, and the output of the model's anomaly detectors, if it carries any."""

    prediction: Prediction | QueuedPrediction
    novelty: NoveltyResult | None


class _Image(NamedTuple):
    name: str
    request_id: uuid.UUID
    sha256: str
    pixels: Pixels
    thumbnail: Pixels | None  # of the whole frame; None where one is stored


class DetectionService:
    """Scores at most `max_in_flight` images at a time, each within `timeout_s`."""

    def __init__(
        self,
        models: ModelRegistry,
        recorder: Recorder,
        thumbnails: ThumbnailStore,
        metrics: Metrics,
        *,
        max_in_flight: int,
        timeout_s: float,
        max_pixels: int,
        thumbnail_px: int,
    ) -> None:
        self._models, self._recorder, self._thumbnails, self._metrics = models, recorder, thumbnails, metrics
        self._timeout_s, self._max_pixels, self._thumbnail_px = timeout_s, max_pixels, thumbnail_px
        self._slots = asyncio.Semaphore(max_in_flight)
        self._in_flight = 0
        self._decoder, self._large_decoder = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("decoder", "large-decoder")
        )
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
    ) -> Prediction | QueuedPrediction:
        """Scores and records one uploaded image, unless the client disconnects; its request log gets the stages.

        The same idempotency key, image and model give the prediction that was recorded first.
        """
        context = RequestContext.of(request.scope)
        context.stages_s["read"] = time.perf_counter() - context.started
        work = self._detect(name, data, context, model=model, key=key, require_binary=require_binary)
        prediction = await cancel_on_disconnect(request, work)
        logged = "queued" if isinstance(prediction, QueuedPrediction) else "committed"
        if key is not None:
            context.fields["x_request_id"] = context.request_id
        context.fields |= {"request_id": prediction.request_id, "logged": logged}
        return prediction

    async def detect_in_batch(self, serving: ServedModel, name: str, data: bytes) -> DetectionResult:
        """Scores and records one image of a request with many; it waits for a free slot."""
        async with self._slot():
            return await self._decode_and_record(serving, name, data, uuid.uuid4(), RequestContext())

    @asynccontextmanager
    async def use_model(
        self, name: str | None, context: RequestContext, *, require_binary: bool
    ) -> AsyncIterator[ServedModel]:
        """The model of that name, or the default one; ModelUnfit where a binary model is required and it is none."""
        async with self._models.use(name) as serving:
            if require_binary:
                _require_binary(serving.manifest)
            context.fields["model"] = serving.manifest.name
            yield serving

    def in_flight(self) -> int:
        """The number of images being processed."""
        return self._in_flight

    def close(self) -> None:
        """Stops the decoders."""
        self._decoder.shutdown()
        self._large_decoder.shutdown()

    async def _detect(
        self,
        name: str,
        data: bytes,
        context: RequestContext,
        *,
        model: str | None,
        key: str | None,
        require_binary: bool,
    ) -> Prediction | QueuedPrediction:
        if self.full():
            raise Overloaded("too many images are being processed: try again soon")
        request_id = context.request_id if key is None else uuid.uuid5(KEY_NAMESPACE, key)
        async with self._slot(), self.use_model(model, context, require_binary=require_binary) as serving:
            return (await self._decode_and_record(serving, name, data, request_id, context)).prediction

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        async with self._slots:
            self._in_flight += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    yield
            except TimeoutError:
                raise DeadlineExceeded(f"not done within {self._timeout_s:g} seconds: try again soon") from None
            finally:
                self._in_flight -= 1

    async def _decode_and_record(
        self, serving: ServedModel, name: str, data: bytes, request_id: uuid.UUID, context: RequestContext
    ) -> DetectionResult:
        started = time.perf_counter()
        decoder = self._large_decoder if len(data) > LARGE_FILE_BYTES else self._decoder
        contract = serving.manifest.image
        decoded = await asyncio.get_running_loop().run_in_executor(decoder, self._decode, data, contract)
        image = _Image(name, request_id, *decoded)
        context.stages_s["decode"] = time.perf_counter() - started
        if request_id.version != NAME_BASED_UUID:
            result = await self._score_and_record(serving, image, context)
            return _require_same_image(result, image, serving.manifest)
        async with self._key_locks.setdefault(request_id, asyncio.Lock()):  # a repeat waits for the first request
            earlier = await asyncio.to_thread(self._find_recorded, request_id)
            result = (
                DetectionResult(earlier, None) if earlier else await self._score_and_record(serving, image, context)
            )
        return _require_same_image(result, image, serving.manifest)

    def _decode(self, data: bytes, contract: ImageContract) -> tuple[str, Pixels, Pixels | None]:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._thumbnails.needs(sha256):
            return sha256, images.decode(data, contract, max_pixels=self._max_pixels), None
        return sha256, *images.decode_with_frame(data, contract, self._thumbnail_px, max_pixels=self._max_pixels)

    async def _score_and_record(self, serving: ServedModel, image: _Image, context: RequestContext) -> DetectionResult:
        inference = await serving.infer(image.pixels)
        outputs, novelty = inference.network.result, inference.novelty
        scored = decision.decide(
            serving.manifest,
            outputs.probabilities[0].tolist(),
            image_name=image.name,
            image_sha256=image.sha256,
            request_id=image.request_id,
            novelty=novelty,
        )
        recorded = await self._recorder.record(scored)
        heat_map = heat_maps.heat_map(serving.manifest, outputs.probabilities[0], outputs.maps[0], image.sha256)
        self._thumbnails.add(image.sha256, image.thumbnail, heat_map)
        context.stages_s |= {
            "queue": inference.network.queued_s,
            "inference": inference.network.batch_s,
            "commit": recorded.queued_s + recorded.batch_s,
        }
        context.fields["batch"] = inference.network.batch_size
        self._metrics.observe_stages(context.stages_s)
        return DetectionResult(recorded.result, novelty)

    def _find_recorded(self, request_id: uuid.UUID) -> Prediction | QueuedPrediction | None:
        """The prediction recorded under a key; while PostgreSQL is down, only those in the outbox are found."""
        try:
            return self._recorder.find(request_id)
        except DatabaseUnavailable:
            return None


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Awaited]) -> Awaited:
    """Await `work`; cancel it and raise ClientDisconnect if the client disconnects. The body has been read."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watch.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _require_same_image(result: DetectionResult, image: _Image, manifest: Manifest) -> DetectionResult:
    recorded = result.prediction
    if (recorded.image_sha256, recorded.model) != (image.sha256, manifest.name):
        raise IdempotencyConflict(
            "this Idempotency-Key or X-Request-ID was used before with another image or model: use a new one"
        )
    return result


def _require_binary(manifest: Manifest) -> None:
    if manifest.task != "binary":
        raise ModelUnsuitable(
            f"model {manifest.name} has several classes ({', '.join(manifest.classes)}); "
            "/detect needs a binary model. Use /classify."
        )
