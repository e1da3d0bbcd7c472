"""Paths to scores, in order: reading beside inference, and never more images in memory than a window holds."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from astrodetect import images
from astrodetect.errors import ImageError
from astrodetect.records import ImageContract, Pixels

if TYPE_CHECKING:  # OpenVINO takes its time: what stands in the way of a run is told without it
    from astrodetect.inference.engine import Engine

AHEAD = 4  # batches under way for each stream: one in it, one ready, and two for the moments when reading is slow
DECODERS = min(8, max(2, (os.cpu_count() or 1) // 4))  # a decoder keeps up with some 1,000 images a second
MAX_FILE_BYTES = 512 * 2**20  # a file larger than this is no image, and would fill the memory


@dataclass(frozen=True, slots=True)
class Seen:
    """One file looked at: how probable each class is, or why nobody knows."""

    path: str
    sha256: str = ""
    probabilities: tuple[float, ...] = ()
    error: str = ""


Job = TypeVar("Job")
Material = TypeVar("Material")
Work = TypeVar("Work")
Reader = Callable[[str, ImageContract], tuple[str, Pixels]]  # to the sha256 of the bytes, and the pixels


def look(paths: Iterator[str], engine: "Engine", read: Reader) -> Generator[list[Seen]]:
    """What the network says of each file, batch by batch.

    A batch is always cut at the same files, bad ones counted, so that a run gives the same scores wherever it began.
    """
    batches = iter(lambda: list(islice(paths, engine.batch)), [])
    yield from ahead(batches, lambda batch: _read(batch, engine, read), partial(_score, engine), engine.streams)


def ahead(
    jobs: Iterable[Job], read: Callable[[Job], Material], work: Callable[[Material], Work], streams: int
) -> Generator[Work]:
    """What work makes of what is read, job by job in order: reading goes on beside it, a few jobs ahead."""
    readers = ThreadPoolExecutor(DECODERS, thread_name_prefix="reader")
    workers = ThreadPoolExecutor(streams, thread_name_prefix="stream")
    under_way: deque[Future[Work]] = deque()
    try:
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


def reader(max_pixels: int) -> Reader:
    """Reads image files as the service reads its uploads."""

    def read(path: str, contract: ImageContract) -> tuple[str, Pixels]:
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error
        if len(data) > MAX_FILE_BYTES:
            raise ImageError(f"more than {MAX_FILE_BYTES // 2**20} MiB")
        return hashlib.sha256(data).hexdigest(), images.read(data, contract, max_pixels=max_pixels)

    return read


def _read(batch: list[str], engine: "Engine", read: Reader) -> tuple[list[Seen], Pixels]:
    """The good images of the batch one behind the other."""
    contract = engine.manifest.image
    pixels = np.empty((len(batch), contract.size, contract.size, 3), dtype=np.uint8)
    seen, good = [], 0
    for path in batch:
        try:
            sha256, pixels[good] = read(path, contract)
        except ImageError as error:
            seen.append(Seen(path, error=str(error)))
        else:
            seen.append(Seen(path, sha256))
            good += 1
    return seen, pixels[:good]


def _score(engine: "Engine", read: tuple[list[Seen], Pixels]) -> list[Seen]:
    seen, pixels = read
    found = iter(engine.run(pixels).probabilities.tolist() if len(pixels) else ())
    return [file if file.error else Seen(file.path, file.sha256, tuple(next(found))) for file in seen]
