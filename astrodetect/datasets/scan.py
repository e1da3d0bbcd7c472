"""One pass over images: what each file is, how bright, and what tells whether two are the same, or of a class."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from astrodetect import images
from astrodetect.datasets.dataset import ListedImage
from astrodetect.datasets.near_duplicates import ImageSignatures, sketch
from astrodetect.errors import ImageError
from astrodetect.features import cutout
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, Pixels

SEEN_AS = ImageContract(size=128, stretch="asinh")
AT_ONCE = 256  # images; of 50 kB each
AHEAD = 2  # such batches being read beside the one at work


@dataclass(frozen=True, slots=True)
class ScannedImage:
    """What one good image is."""

    item: ListedImage
    sha256: str  # of the file
    pixels_sha256: str  # of what is seen, however it was packed
    kind: str
    width: int
    height: int
    brightness: float  # mean, of 1
    contrast: float  # standard deviation, of 1


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file that is listed as an image and is none, and why."""

    item: ListedImage
    reason: str


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What the good images are, in the order in which they were listed, and which files are none."""

    seen: list[ScannedImage]
    unreadable: list[UnreadableFile]
    sketches: ImageSignatures
    shapes: Floats  # (n, d); no columns where they were not asked for

    def __len__(self) -> int:
        return len(self.seen)


def scan(items: Sequence[ListedImage], *, title: str, crop: float | None = None) -> ScanResult:
    """Looks at every file once; where a `crop` is given, measures the shapes in this central share."""
    seen: list[ScannedImage] = []
    unreadable: list[UnreadableFile] = []
    sketches: list[ImageSignatures] = [sketch(np.zeros((0, SEEN_AS.size, SEEN_AS.size, 3), np.uint8))]
    measured: list[Floats] = []
    with Bar(title, len(items)) as bar:
        for batch in _batches(items):
            good = [found for found in batch if isinstance(found, tuple)]
            bad = [found for found in batch if isinstance(found, UnreadableFile)]
            unreadable += bad
            if good:
                seen += [look for look, _ in good]
                pixels = np.stack([picture for _, picture in good])
                sketches.append(sketch(pixels))
                measured.append(
                    np.zeros((len(pixels), 0), np.float32) if crop is None else cutout.describe(pixels, crop)
                )
            bar.step(len(batch), f"{len(unreadable)} cannot be read" if unreadable else "")
    found = np.concatenate(measured) if measured else np.zeros((0, 0), np.float32)
    return ScanResult(seen, unreadable, ImageSignatures.joined(sketches), found)


def _batches(items: Sequence[ListedImage]) -> Iterator[list[tuple[ScannedImage, Pixels] | UnreadableFile]]:
    """The images batch by batch, the next ones being read meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        coming = (items[at : at + AT_ONCE] for at in range(0, len(items), AT_ONCE))
        waiting: deque[list[Future[tuple[ScannedImage, Pixels] | UnreadableFile]]] = deque()
        try:
            for batch in islice(coming, AHEAD):
                waiting.append([pool.submit(_look, item) for item in batch])
            while waiting:
                found = [future.result() for future in waiting.popleft()]
                waiting.extend([pool.submit(_look, item) for item in batch] for batch in islice(coming, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)


def _look(item: ListedImage) -> tuple[ScannedImage, Pixels] | UnreadableFile:
    try:
        data = item.path.read_bytes()
        probe = images.probe(data)
        pixels = images.read(data, SEEN_AS)
    except ImageError as error:
        return UnreadableFile(item, str(error))
    except OSError as error:
        return UnreadableFile(item, f"cannot be read: {error.strerror}")
    values = pixels.astype(np.float32) / np.float32(255)
    look = ScannedImage(
        item=item,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        kind=probe.kind,
        width=probe.width,
        height=probe.height,
        brightness=float(values.mean()),
        contrast=float(values.std()),
    )
    return look, pixels
