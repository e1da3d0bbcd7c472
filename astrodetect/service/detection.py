"""Bytes to a logged verdict: decoded, scored in a batch with others, recorded."""

import asyncio
import hashlib
import time
import uuid
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import NamedTuple

from astrodetect import images
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.errors import DatabaseUnavailable, Expired, KeyConflict, ModelUnfit, Overloaded
from astrodetect.inference import decision
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import KEYED, ImageContract, Pixels, Prediction, QueuedPrediction
from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.request_log import RequestContext
from astrodetect.service.model_registry import ModelRegistry, ServedModel
from astrodetect.service.recorder import Recorder
from astrodetect.service.thumbnails import ThumbnailStore

LARGE_BYTES = 1_000_000  # files beyond this have a decoder of their own: one takes a tenth of a second and 100 MB
KEYS = uuid.UUID("6f1b3c52-8d0e-4c39-9a55-0f4e7c1d2a90")  # callers' keys become request ids under this name


class DetectionResult(NamedTuple):
    """A logged verdict, and what the model's detectors say, if it carries any and was asked."""

    verdict: Prediction | QueuedPrediction
    looked: NoveltyResult | None


class _Image(NamedTuple):
    name: str
    request_id: uuid.UUID
    sha256: str
    pixels: Pixels
    picture: Pixels | None  # of the whole frame, where it is new


class DetectionService:
    """The one request path: at most `most` images at work, each within `timeout_s` or not at all."""

    def __init__(
        self,
        models: ModelRegistry,
        recorder: Recorder,
        album: ThumbnailStore,
        meters: Metrics,
        *,
        most: int,
        timeout_s: float,
        max_pixels: int,
        picture_px: int,
    ) -> None:
        self._models, self._recorder, self._album, self._meters = models, recorder, album, meters
        self._timeout_s, self._max_pixels, self._picture_px = timeout_s, max_pixels, picture_px
        self._turns = asyncio.Semaphore(most)
        self._at_work = 0
        self._decoder, self._large_decoder = (
            ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("decoder", "large-decoder")
        )
        self._keys: weakref.WeakValueDictionary[uuid.UUID, asyncio.Lock] = weakref.WeakValueDictionary()

    def full(self) -> bool:
        """Whether another image would be refused; asking counts as a refusal where it would."""
        if self._turns.locked():
            self._meters.shed()
            return True
        return False

    async def one(
        self,
        name: str,
        data: bytes,
        trail: RequestContext,
        *,
        model: str | None,
        anomalies: bool,
        key: str | None = None,
    ) -> Prediction | QueuedPrediction:
        """The verdict on one image; refused where too many are at work. The same key again is the same verdict."""
        if self.full():
            raise Overloaded("too many images are at work: try again soon")
        request_id = uuid.uuid4() if key is None else uuid.uuid5(KEYS, key)
        async with self._turn(), self.using(model, trail, anomalies=anomalies) as serving:
            return (await self._judge(serving, name, data, request_id, trail)).verdict

    @asynccontextmanager
    async def using(self, model: str | None, trail: RequestContext, *, anomalies: bool) -> AsyncIterator[ServedModel]:
        """The model that was named, or the default one; ModelUnfit where it knows of no `anomalies` and is to."""
        async with self._models.use(model) as serving:
            if anomalies:
                _require_binary(serving.manifest)
            trail.said["model"] = serving.manifest.name
            yield serving

    async def one_of_many(self, serving: ServedModel, name: str, data: bytes) -> DetectionResult:
        """The verdict on an image that can wait for its turn."""
        async with self._turn():
            return await self._judge(serving, name, data, uuid.uuid4(), RequestContext())

    def at_work(self) -> int:
        """How many images are between their arrival and their answer."""
        return self._at_work

    def close(self) -> None:
        """Nothing is at work any more."""
        self._decoder.shutdown()
        self._large_decoder.shutdown()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._turns:
            self._at_work += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    yield
            except TimeoutError:
                raise Expired(f"not done within {self._timeout_s:g} seconds: try again soon") from None
            finally:
                self._at_work -= 1

    async def _judge(
        self, serving: ServedModel, name: str, data: bytes, request_id: uuid.UUID, trail: RequestContext
    ) -> DetectionResult:
        began = time.perf_counter()
        decoder = self._large_decoder if len(data) > LARGE_BYTES else self._decoder
        contract = serving.manifest.image
        decoded = await asyncio.get_running_loop().run_in_executor(decoder, self._decode, data, contract)
        image = _Image(name, request_id, *decoded)
        trail.stages_s["decode"] = time.perf_counter() - began
        if request_id.version != KEYED:
            return await self._record(serving, image, trail)
        async with self._keys.setdefault(request_id, asyncio.Lock()):  # a repeat waits for the first, then finds it
            known = await asyncio.to_thread(self._known, request_id)
            judged = DetectionResult(known, None) if known else await self._record(serving, image, trail)
        kept = judged.verdict
        if (kept.image_sha256, kept.model) != (image.sha256, serving.manifest.name):
            raise KeyConflict("this Idempotency-Key came before with another image or model: use a new one")
        return judged

    def _decode(self, data: bytes, contract: ImageContract) -> tuple[str, Pixels, Pixels | None]:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._album.wants(sha256):
            return sha256, images.read(data, contract, max_pixels=self._max_pixels), None
        return sha256, *images.read_whole(data, contract, self._picture_px, max_pixels=self._max_pixels)

    async def _record(self, serving: ServedModel, image: _Image, trail: RequestContext) -> DetectionResult:
        passed, looked = await serving.see(image.pixels)
        scored = decision.decide(
            serving.manifest,
            passed.result.probabilities[0].tolist(),
            image_name=image.name,
            image_sha256=image.sha256,
            request_id=image.request_id,
            novelty=looked,
        )
        recorded = await self._recorder.record(scored)
        result = passed.result
        heat = decision.heat_map(serving.manifest, result.probabilities[0], result.maps[0], image.sha256)
        self._album.keep(image.sha256, image.picture, heat)
        trail.stages_s |= {
            "queue": passed.queued_s,
            "inference": passed.batch_s,
            "commit": recorded.queued_s + recorded.batch_s,
        }
        trail.said["batch"] = passed.batch_size
        self._meters.detected(trail.stages_s)
        return DetectionResult(recorded.result, looked)

    def _known(self, request_id: uuid.UUID) -> Prediction | QueuedPrediction | None:
        """What this key gave before; while PostgreSQL is away only what this service still holds is known."""
        try:
            return self._recorder.find(request_id)
        except DatabaseUnavailable:
            return None


def _require_binary(manifest: Manifest) -> None:
    if manifest.task != "binary":
        classes = ", ".join(manifest.classes)
        raise ModelUnfit(f"model {manifest.name} tells apart {classes}: send images to /classify")
