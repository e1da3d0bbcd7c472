"""Inference over many files: reading ahead of computation, in order, with a bounded number of images in memory."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from astrodetect import images
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.errors import ImageError
from astrodetect.features.central_object import FeatureKind, feature_matrix
from astrodetect.features.extraction import FeatureExtractor, cache_key
from astrodetect.jpeg_thumbnails import reuse_as_thumbnail
from astrodetect.records import (
    BatchRunner,
    Floats,
    ImageContract,
    ImagePath,
    Outputs,
    Pixels,
    SkyObject,
    Thumbnail,
)
from astrodetect.sky.cutouts import Cutout

if TYPE_CHECKING:  # OpenVINO is slow to import: usage errors are reported without it
    from astrodetect.inference.engine import Engine
    from astrodetect.model_store.manifest import Precision

BATCHES_PER_STREAM = 4  # in flight: one computing, one ready, and two for moments when reading is slow
READERS = min(8, max(2, (os.cpu_count() or 1) // 4))  # one decodes some 1,000 images a second

Batch = TypeVar("Batch")
Material = TypeVar("Material")
BatchResult = TypeVar("BatchResult")
Image = TypeVar("Image")  # a path, or what else names an image


class ReadImage(NamedTuple):
    """What is needed of an image file."""

    sha256: str
    pixels: Pixels  # for the network
    thumbnail: Thumbnail | None = None  # to store
    position: SkyObject | None = None  # by the WCS of a FITS file


ImageReader = Callable[[Image, ImageContract], ReadImage]


def read_ahead(
    batches: Iterable[Batch],
    read: Callable[[Batch], Material],
    compute: Callable[[Material], BatchResult],
    streams: int,
) -> Generator[BatchResult]:
    """The BatchRunner of one process: `compute(read(batch))` for each batch, in order, in threads."""
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
    workers = ThreadPoolExecutor(streams, thread_name_prefix="stream")
    in_flight: deque[Future[BatchResult]] = deque()
    try:
        with threadpool_limits(1, user_api="blas"):  # threads for such small products cost three times what they save
            for batch in batches:
                if len(in_flight) == BATCHES_PER_STREAM * streams:
                    yield in_flight.popleft().result()
                in_flight.append(workers.submit(_compute_when_read, compute, readers.submit(read, batch)))
            while in_flight:
                yield in_flight.popleft().result()
    finally:
        for pool in (workers, readers):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (workers, readers):
            pool.shutdown()


def _compute_when_read(compute: Callable[[Material], BatchResult], material: Future[Material]) -> BatchResult:
    return compute(material.result())


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """One file's class probabilities, or the reason why it could not be read."""

    path: str
    sha256: str = ""
    probabilities: tuple[float, ...] = ()
    error: str = ""
    novelty: NoveltyResult | None = None  # of the model's anomaly detectors, if it has any
    thumbnail: Thumbnail | None = None  # if one is to be stored
    position: SkyObject | None = None  # by its WCS
    activation_map: Floats | None = None


def score_files(
    files: Iterator[Image],
    engine: "Engine",
    read: ImageReader[Image],
    novelty: Novelty | None = None,
    *,
    name: Callable[[Image], str] = str,
) -> Generator[list[ScoredFile]]:
    """The network's outputs for each file, batch by batch."""
    batches = iter(lambda: list(islice(files, engine.batch_size)), [])
    yield from score_batches(batches, engine, read, novelty, name=name)


def score_batches(
    batches: Iterable[list[Image]],
    engine: "Engine",
    read: ImageReader[Image],
    novelty: Novelty | None = None,
    *,
    name: Callable[[Image], str] = str,
    run_batches: BatchRunner = read_ahead,
) -> Generator[list[ScoredFile]]:
    """The network's outputs for the images of each batch, unreadable ones included.

    An image's outputs depend on its batch in their last digits: the same batches give the same outputs.
    """
    yield from run_batches(
        batches, lambda batch: _read(batch, engine, read, name), partial(_score, engine, novelty), engine.streams
    )


def network_extractor(engine: "Engine", kind: FeatureKind, version: str) -> FeatureExtractor:
    """Extractor of a network's features, and measured ones if `kind` is "both"; `version` identifies the network."""
    contract = engine.manifest.image

    def compute(pixels: Pixels) -> Floats:
        return feature_matrix(kind, pixels, contract.crop, engine.run(pixels).features)

    key = cache_key(contract, kind, version, engine.precision)
    return FeatureExtractor(kind, contract, compute, key, engine.batch_size, engine.streams, version)


def open_network_extractor(
    models: Path, name: str, precision: "Precision | Literal['auto']", kind: FeatureKind, cores: int | None = 1
) -> FeatureExtractor:
    """The extractor of a published model's features, by default on one core."""
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415 - importing OpenVINO takes a second

    loaded = load_verified(models, name, precision)
    return network_extractor(Engine(loaded, cores=cores), kind, loaded.manifest.version)


def image_reader(max_pixels: int) -> ImageReader[ImagePath]:
    """Reads image files as the service reads uploads."""

    def read(path: ImagePath, contract: ImageContract) -> ReadImage:
        image = decode_image(images.read_bytes(path), contract, max_pixels)
        return image._replace(position=SkyObject(*path.position, str(path))) if isinstance(path, Cutout) else image

    return read


def decode_image(data: bytes, contract: ImageContract, max_pixels: int, thumbnail_px: int = 0) -> ReadImage:
    """What is needed of an image's bytes; with a thumbnail unless its size is 0."""
    sha256 = hashlib.sha256(data).hexdigest()
    thumbnail = reuse_as_thumbnail(sha256, data, thumbnail_px) if thumbnail_px else None
    if thumbnail or not thumbnail_px:
        pixels = images.decode(data, contract, max_pixels=max_pixels)
    else:
        pixels, whole = images.decode_with_frame(data, contract, thumbnail_px, max_pixels=max_pixels)
        thumbnail = images.make_thumbnail(sha256, whole)
    return ReadImage(sha256, pixels, thumbnail, images.sky_object(data, max_pixels=max_pixels))


def _read(
    batch: list[Image], engine: "Engine", read: ImageReader[Image], name: Callable[[Image], str]
) -> tuple[list[ScoredFile], Pixels]:
    """All files of the batch, and the stacked pixels of the readable ones."""
    contract = engine.manifest.image
    pixels = np.empty((len(batch), contract.size, contract.size, 3), dtype=np.uint8)
    files, readable = [], 0
    for image in batch:
        path = name(image)
        try:
            sha256, pixels[readable], thumbnail, position = read(image, contract)
        except ImageError as error:
            files.append(ScoredFile(path, error=str(error)))
        else:
            files.append(ScoredFile(path, sha256, thumbnail=thumbnail, position=position))
            readable += 1
    return files, pixels[:readable]


def _score(engine: "Engine", detectors: Novelty | None, material: tuple[list[ScoredFile], Pixels]) -> list[ScoredFile]:
    files, pixels = material
    if not len(pixels):
        return files
    outputs = engine.run_batch(pixels)
    novelty = detectors.score_images(pixels, engine.manifest.image.crop, outputs.features) if detectors else None
    index = iter(range(len(pixels)))
    return [file if file.error else _with_outputs(file, outputs, novelty, next(index)) for file in files]


def _with_outputs(file: ScoredFile, outputs: Outputs, novelty: NoveltyResult | None, index: int) -> ScoredFile:
    return replace(
        file,
        probabilities=tuple(outputs.probabilities[index].tolist()),
        novelty=novelty[index : index + 1] if novelty else None,
        activation_map=outputs.maps[index],
    )
