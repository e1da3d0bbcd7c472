"""From the bytes of a batch of images to recorded predictions: scored in one thread, recorded by one at a time."""

import hashlib
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np

from astrodetect import images
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.errors import AstrodetectError, IdempotencyConflict
from astrodetect.inference import decision, heat_maps
from astrodetect.inference.engine import Engine
from astrodetect.jpeg_thumbnails import reuse_as_thumbnail
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import (
    Floats,
    ImageContract,
    Outputs,
    Pixels,
    Prediction,
    QueuedPrediction,
    ScoredImage,
    SkyObject,
    Thumbnail,
)
from astrodetect.service.metrics import Metrics
from astrodetect.service.recorder import Recorder, is_same_request
from astrodetect.service.thumbnails import ThumbnailStore

NO_FEATURES: Floats = np.empty(0, np.float32)
NOVELTY_THREADS = 2
MEASURED_BESIDE = 2  # images: so few are measured beside the network's pass; more have the other cores busy themselves


class DecodedImage(NamedTuple):
    """What the pipeline needs of an image."""

    sha256: str
    pixels: Pixels
    thumbnail: Thumbnail | Pixels | None  # or its pixels, of the whole frame; None where one is stored


@dataclass(slots=True)
class ImageJob:
    """An image to be scored and recorded."""

    name: str
    data: bytes
    request_id: uuid.UUID
    stages_s: dict[str, float]  # to which the durations of the stages are added
    sky_object: SkyObject | None = None  # as the caller says; else as the image does
    decoded: DecodedImage | None = None  # of a large file, which was decoded before
    queued: float = field(default_factory=time.perf_counter)


class ScoredJob(NamedTuple):
    """What the network and the detectors say of an image, to be recorded."""

    job: ImageJob
    image: DecodedImage
    manifest: Manifest
    probabilities: Floats
    activation_map: Floats
    novelty: NoveltyResult | None
    scored: float  # time.perf_counter()


class DetectionResult(NamedTuple):
    """A recorded prediction, and the output of the model's anomaly detectors, if it carries any."""

    prediction: Prediction | QueuedPrediction
    novelty: NoveltyResult | None


Scores: TypeAlias = ScoredJob | Exception
JobResult: TypeAlias = DetectionResult | Exception


class ImagePipeline:
    """Decodes, scores and records batches of images, for many threads."""

    def __init__(
        self, recorder: Recorder, thumbnails: ThumbnailStore, metrics: Metrics, *, max_pixels: int, thumbnail_px: int
    ) -> None:
        self._recorder, self._thumbnails, self._metrics = recorder, thumbnails, metrics
        self._max_pixels, self._thumbnail_px = max_pixels, thumbnail_px
        self._recording = threading.Lock()
        self._novelty_threads = ThreadPoolExecutor(NOVELTY_THREADS, thread_name_prefix="novelty")

    def decode(self, data: bytes, contract: ImageContract) -> DecodedImage:
        """The digest, the network's pixels and, unless one is stored, the thumbnail or the frame for it."""
        sha256 = hashlib.sha256(data).hexdigest()
        needed = self._thumbnails.needs(sha256)
        thumbnail = reuse_as_thumbnail(sha256, data, self._thumbnail_px) if needed else None
        if thumbnail or not needed:
            return DecodedImage(sha256, images.decode(data, contract, max_pixels=self._max_pixels), thumbnail)
        frame = images.decode_with_frame(data, contract, self._thumbnail_px, max_pixels=self._max_pixels)
        return DecodedImage(sha256, *frame)

    def score(self, engine: Engine, novelty: Novelty | None, jobs: Sequence[ImageJob]) -> list[Scores]:
        """The scores of each image, or its error."""
        contract = engine.manifest.image
        results: list[Scores | None] = [None] * len(jobs)
        decoded: dict[int, DecodedImage] = {}
        for index, job in enumerate(jobs):
            started = time.perf_counter()
            job.stages_s["queue"] = started - job.queued
            try:
                decoded[index] = job.decoded or self.decode(job.data, contract)
                job.sky_object = images.sky_object(job.data, job.sky_object, max_pixels=self._max_pixels)
            except AstrodetectError as error:
                results[index] = error
            job.stages_s["decode"] = job.stages_s.get("decode", 0.0) + time.perf_counter() - started
        if decoded:
            scored = self._score(engine, novelty, [(jobs[index], image) for index, image in decoded.items()])
            for index, result in zip(decoded, scored, strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    def record(self, scored: Sequence[ScoredJob]) -> list[JobResult]:
        """The recorded prediction of each image, or its error; all are recorded in one commit."""
        with self._recording:  # rows are stored in the order of their times
            predictions = self._recorder.record([_decide(item) for item in scored])
        recorded = time.perf_counter()
        results: list[JobResult] = []
        for item, prediction in zip(scored, predictions, strict=True):
            sha256, manifest = item.image.sha256, item.manifest
            if isinstance(prediction, Exception):
                results.append(prediction)
            else:
                if self._thumbnails.enabled:
                    heat_map = heat_maps.heat_map(manifest, item.probabilities, item.activation_map, sha256)
                    fits_file = item.job.data if images.detect_format(item.job.data) == images.FITS else None
                    self._thumbnails.add(sha256, item.image.thumbnail, heat_map, fits_file)
                conflict = image_conflict(prediction, sha256, manifest, item.job.sky_object)
                results.append(conflict or DetectionResult(prediction, item.novelty))
            item.job.stages_s["commit"] = recorded - item.scored
            self._metrics.observe_stages(item.job.stages_s)
        return results

    def close(self) -> None:
        """Stops the threads."""
        self._novelty_threads.shutdown()

    def _score(
        self, engine: Engine, novelty: Novelty | None, batch: Sequence[tuple[ImageJob, DecodedImage]]
    ) -> list[ScoredJob]:
        started = time.perf_counter()
        outputs, measured = self._infer(engine, novelty, np.stack([image.pixels for _, image in batch]))
        scored = time.perf_counter()
        for start in range(0, len(batch), engine.batch_size):
            self._metrics.observe_batch(min(engine.batch_size, len(batch) - start))
        results = []
        for index, (job, image) in enumerate(batch):
            job.stages_s["inference"] = scored - started
            novelty_result = measured[index : index + 1] if measured else None
            results.append(
                ScoredJob(
                    job,
                    image,
                    engine.manifest,
                    outputs.probabilities[index],
                    outputs.maps[index],
                    novelty_result,
                    scored,
                )
            )
        return results

    def _infer(self, engine: Engine, novelty: Novelty | None, pixels: Pixels) -> tuple[Outputs, NoveltyResult | None]:
        """The network and the detectors; side by side for a few images, unless these need the network's features."""
        if novelty is None:
            return engine.run_all(pixels), None
        crop = engine.manifest.image.crop
        if novelty.feature_kind != "shapes" or len(pixels) > MEASURED_BESIDE:
            outputs = engine.run_all(pixels)
            return outputs, novelty.score_images(pixels, crop, outputs.features)
        measured = self._novelty_threads.submit(novelty.score_images, pixels, crop, NO_FEATURES)
        return engine.run_beside(pixels), measured.result()


def _decide(item: ScoredJob) -> ScoredImage:
    return decision.decide(
        item.manifest,
        item.probabilities.tolist(),
        image_name=item.job.name,
        image_sha256=item.image.sha256,
        request_id=item.job.request_id,
        novelty=item.novelty,
        sky_object=item.job.sky_object,
    )


def image_conflict(
    recorded: Prediction | QueuedPrediction, sha256: str, manifest: Manifest, given: SkyObject | None
) -> IdempotencyConflict | None:
    """The error of a request whose id has a row of another image or model, or not the position or object given now."""
    row = recorded.scored if isinstance(recorded, QueuedPrediction) else recorded
    if is_same_request(row, sha256, manifest.name, given or SkyObject()):
        return None
    return IdempotencyConflict(
        "this Idempotency-Key or X-Request-ID was used before with another image, model, position or object_id: "
        "use a new one"
    )
