"""Paths to scores, in order: reading beside inference, and never more images in memory than a window holds."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from astrodetect import images
from astrodetect.anomalies.novelty import Novelty, NoveltyResult
from astrodetect.errors import ImageError
from astrodetect.records import Floats, ImageContract, Outputs, Pixels, Thumbnail

if TYPE_CHECKING:  # OpenVINO takes its time: what stands in the way of a run is told without it
    from astrodetect.inference.engine import Engine

AHEAD = 4  # batches under way for each stream: one in it, one ready, and two for the moments when reading is slow
DECODERS = min(8, max(2, (os.cpu_count() or 1) // 4))  # a decoder keeps up with some 1,000 images a second
MAX_FILE_BYTES = 512 * 2**20  # a file larger than this is no image, and would fill the memory


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """One file looked at: how probable each class is, or why nobody knows."""

    path: str
    sha256: str = ""
    probabilities: tuple[float, ...] = ()
    error: str = ""
    looked: NoveltyResult | None = None  # by the model's detectors of the unusual, if it carries any
    picture: Thumbnail | None = None  # where it is to be kept
    places: Floats | None = None  # the activation map


Job = TypeVar("Job")
Material = TypeVar("Material")
Work = TypeVar("Work")
# To the sha256 of the bytes, the pixels that the network sees, and a picture where it is to be kept.
Reader = Callable[[str, ImageContract], tuple[str, Pixels, Thumbnail | None]]


def score_files(
    paths: Iterator[str], engine: "Engine", read: Reader, novelty: Novelty | None = None
) -> Generator[list[ScoredFile]]:
    """What the network says of each file, batch by batch.

    A batch is always cut at the same files, bad ones counted, so that a run gives the same scores wherever it began.
    """
    batches = iter(lambda: list(islice(paths, engine.batch)), [])
    score = partial(_score, engine, novelty)
    yield from read_ahead(batches, lambda batch: _read(batch, engine, read), score, engine.streams)


def read_ahead(
    jobs: Iterable[Job], read: Callable[[Job], Material], work: Callable[[Material], Work], streams: int
) -> Generator[Work]:
    """What work makes of what is read, job by job in order: reading goes on beside it, a few jobs ahead."""
    readers = ThreadPoolExecutor(DECODERS, thread_name_prefix="reader")
    workers = ThreadPoolExecutor(streams, thread_name_prefix="stream")
    under_way: deque[Future[Work]] = deque()
    try:
        with threadpool_limits(1, user_api="blas"):  # threads for products so small cost three times what they save
            for job in jobs:
                if len(under_way) == AHEAD * streams:
                    yield under_way.popleft().result()
                under_way.append(workers.submit(_done, work, readers.submit(read, job)))
            while under_way:
                yield under_way.popleft().result()
    finally:
        for pool in (workers, readers):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (workers, readers):
            pool.shutdown()


def _done(work: Callable[[Material], Work], reading: Future[Material]) -> Work:
    return work(reading.result())


def image_reader(max_pixels: int, picture_px: int = 0) -> Reader:
    """Reads image files as the service reads its uploads; makes pictures of this size where there is one."""

    def read(path: str, contract: ImageContract) -> tuple[str, Pixels, Thumbnail | None]:
        data = read_bytes(Path(path))
        sha256 = hashlib.sha256(data).hexdigest()
        if not picture_px:
            return sha256, images.read(data, contract, max_pixels=max_pixels), None
        pixels, whole = images.read_whole(data, contract, picture_px, max_pixels=max_pixels)
        return sha256, pixels, images.picture(sha256, whole)

    return read


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; ImageError where it cannot be read, or is too large to be an image."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"more than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def _read(batch: list[str], engine: "Engine", read: Reader) -> tuple[list[ScoredFile], Pixels]:
    """The good images of the batch one behind the other."""
    contract = engine.manifest.image
    pixels = np.empty((len(batch), contract.size, contract.size, 3), dtype=np.uint8)
    seen, good = [], 0
    for path in batch:
        try:
            sha256, pixels[good], picture = read(path, contract)
        except ImageError as error:
            seen.append(ScoredFile(path, error=str(error)))
        else:
            seen.append(ScoredFile(path, sha256, picture=picture))
            good += 1
    return seen, pixels[:good]


def _score(engine: "Engine", novelty: Novelty | None, read: tuple[list[ScoredFile], Pixels]) -> list[ScoredFile]:
    seen, pixels = read
    if not len(pixels):
        return seen
    outputs = engine.run(pixels)
    looked = novelty.look_at(pixels, engine.manifest.image.crop, outputs.features) if novelty else None
    good = iter(range(len(pixels)))
    return [file if file.error else _found(file, outputs, looked, next(good)) for file in seen]


def _found(file: ScoredFile, outputs: Outputs, looked: NoveltyResult | None, place: int) -> ScoredFile:
    unusual = looked[place : place + 1] if looked else None
    probabilities = tuple(outputs.probabilities[place].tolist())
    return replace(file, probabilities=probabilities, looked=unusual, places=outputs.maps[place])
