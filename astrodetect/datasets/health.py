"""The state of labelled images: what cannot be read, what is there twice, what leaks, what seems to be mislabelled."""

import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets import mislabels, near_duplicates
from astrodetect.datasets.dataset import PARTS, Dataset, ListedImage, list_dataset
from astrodetect.datasets.near_duplicates import ImageSignatures, compute_signatures
from astrodetect.errors import DataError, ImageError
from astrodetect.features import cutout
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, Pixels

SCAN_CONTRACT = ImageContract(size=128, stretch="asinh")
AT_ONCE = 256  # images; of 50 kB each
AHEAD = 2  # such batches being read beside the one at work
SAME_FILE, SAME_PIXELS, NEARLY = "the same file", "the same pixels", "nearly the same"
CROP = 0.5  # central share in which shapes are measured


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

    images: list[ScannedImage]
    unreadable: list[UnreadableFile]
    signatures: ImageSignatures
    features: Floats  # (n, d); no columns where they were not asked for

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that show the same, by their places."""

    indices: tuple[int, ...]
    kind: str  # SAME_FILE, SAME_PIXELS or NEARLY


@dataclass(frozen=True, slots=True)
class Leak:
    """A test image that shows what a training image shows."""

    train: Path
    test: Path
    kind: str


@dataclass(frozen=True, slots=True)
class DoubtfulLabel:
    """An image whose label is doubted."""

    image: ScannedImage
    suggested: str
    probability: float  # of the suggested class
    label_probability: float  # of its label


@dataclass(frozen=True, slots=True)
class DatasetHealth:
    """What was found; `examine` makes it."""

    path: Path
    scan: ScanResult
    duplicate_groups: list[DuplicateGroup]
    doubtful_labels: list[DoubtfulLabel]

    @property
    def classes(self) -> list[str]:
        """Their names, of images that can be read or not."""
        return sorted({item.label for item in self._items()})

    @property
    def parts(self) -> list[str]:
        """In the order of their use; where there are none, the whole is one without a name."""
        found = {item.part for item in self._items()}
        return [part for part in ("", *PARTS) if part in found]

    @property
    def unreadable(self) -> list[UnreadableFile]:
        """Files that are no usable images."""
        return self.scan.unreadable

    @property
    def leaks(self) -> list[DuplicateGroup]:
        """Copies that are in several parts."""
        return [
            copies for copies in self.duplicate_groups if len({look.item.part for look in self.members(copies)}) > 1
        ]

    @property
    def conflicts(self) -> list[DuplicateGroup]:
        """Copies that have several labels."""
        return [
            copies for copies in self.duplicate_groups if len({look.item.label for look in self.members(copies)}) > 1
        ]

    @property
    def duplicates(self) -> list[DuplicateGroup]:
        """Copies that have one label in one part."""
        alike = [
            (copies, {(look.item.part, look.item.label) for look in self.members(copies)})
            for copies in self.duplicate_groups
        ]
        return [copies for copies, kinds in alike if len(kinds) == 1]

    def members(self, copies: DuplicateGroup) -> list[ScannedImage]:
        """The images that show the same."""
        return [self.scan.images[place] for place in copies.indices]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many good images each (part, class) has."""
        return Counter((look.item.part, look.item.label) for look in self.scan.images)

    def _items(self) -> list[ListedImage]:
        return [look.item for look in self.scan.images] + [file.item for file in self.scan.unreadable]


def examine(
    place: Path, *, crop: float = CROP, features: Callable[[ScanResult], Floats] | None = None
) -> DatasetHealth:
    """Looks at every image of a data set once and says what state they are in.

    Labels are judged by shapes in the central `crop`, or by the `features` of the images if given, a row each.
    """
    seen = scan_dataset(place, crop=None if features else crop)
    groups, found = group_duplicates(seen)
    return DatasetHealth(place, seen, found, _doubts(seen, groups, features(seen) if features else seen.features))


def scan_dataset(place: Path, *, crop: float | None = None) -> ScanResult:
    """Every image of a data set; that none can be read is an error."""
    seen = scan_images(list_dataset(place), title=f"looking at {place.name or place}", crop=crop)
    if not seen.images:
        first = seen.unreadable[0]
        raise DataError(f"none of the files in {place} is an image: the first, {first.item.path.name}, {first.reason}")
    return seen


def scan_images(items: Sequence[ListedImage], *, title: str, crop: float | None = None) -> ScanResult:
    """Looks at every file once; where a `crop` is given, measures the shapes in this central share."""
    seen: list[ScannedImage] = []
    unreadable: list[UnreadableFile] = []
    sketches: list[ImageSignatures] = [
        compute_signatures(np.zeros((0, SCAN_CONTRACT.size, SCAN_CONTRACT.size, 3), np.uint8))
    ]
    measured: list[Floats] = []
    with Bar(title, len(items)) as bar:
        for batch in _batches(items):
            good = [found for found in batch if isinstance(found, tuple)]
            bad = [found for found in batch if isinstance(found, UnreadableFile)]
            unreadable += bad
            if good:
                seen += [look for look, _ in good]
                pixels = np.stack([picture for _, picture in good])
                sketches.append(compute_signatures(pixels))
                measured.append(
                    np.zeros((len(pixels), 0), np.float32) if crop is None else cutout.measure_images(pixels, crop)
                )
            bar.step(len(batch), f"{len(unreadable)} cannot be read" if unreadable else "")
    found = np.concatenate(measured) if measured else np.zeros((0, 0), np.float32)
    return ScanResult(seen, unreadable, ImageSignatures.joined(sketches), found)


def group_duplicates(seen: ScanResult) -> tuple[NDArray[np.int64], list[DuplicateGroup]]:
    """The number of each image's group, alone or with its copies, and the groups of more than one."""
    first: dict[str, int] = {}
    for place, look in enumerate(seen.images):
        first.setdefault(look.pixels_sha256, place)
    different = np.array(list(first.values()), dtype=np.int64)
    sketches = near_duplicates.ImageSignatures(seen.signatures.signatures[different], seen.signatures.planes[different])
    number = near_duplicates.connected_groups(len(different), near_duplicates.find_pairs(sketches))
    of_pixels = {look: int(group) for look, group in zip(first, number, strict=True)}
    groups = np.array([of_pixels[look.pixels_sha256] for look in seen.images], dtype=np.int64)
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    return groups, [_copies(seen, places) for places in members.values() if len(places) > 1]


def find_leaks(train: Dataset, test: Dataset) -> list[Leak]:
    """Test images that show what is learnt from: reads every image once, a second or two for a thousand of them."""
    items = [
        ListedImage(path, catalogue.classes[label], part)
        for part, catalogue in (("train", train), ("test", test))
        for path, label in zip(catalogue.paths, catalogue.labels.tolist(), strict=True)
    ]
    seen = scan_images(items, title="looking for leaks")
    found = []
    for copies in group_duplicates(seen)[1]:
        members = [seen.images[place] for place in copies.indices]
        learnt = [look for look in members if look.item.part == "train"]
        for look in members:
            if look.item.part == "test" and learnt:
                twin, kind = _nearest(look, learnt)
                found.append(Leak(twin.item.path, look.item.path, kind))
    return found


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
        pixels = images.read(data, SCAN_CONTRACT)
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


def _doubts(seen: ScanResult, groups: NDArray[np.int64], features: Floats) -> list[DoubtfulLabel]:
    """Labels that these features, a row an image, speak against, the surest first."""
    names = sorted({look.item.label for look in seen.images})
    labels = np.array([names.index(look.item.label) for look in seen.images], dtype=np.int64)
    return [
        DoubtfulLabel(seen.images[found.index], names[found.suggested], found.probability, found.label_probability)
        for found in mislabels.find_mislabels(features, labels, groups)
    ]


def _nearest(look: ScannedImage, others: Sequence[ScannedImage]) -> tuple[ScannedImage, str]:
    """Its closest copy among others."""
    for other in others:
        if other.sha256 == look.sha256:
            return other, SAME_FILE
    for other in others:
        if other.pixels_sha256 == look.pixels_sha256:
            return other, SAME_PIXELS
    return others[0], NEARLY


def _copies(seen: ScanResult, places: Sequence[int]) -> DuplicateGroup:
    members = [seen.images[place] for place in places]
    if len({look.sha256 for look in members}) == 1:
        return DuplicateGroup(tuple(places), SAME_FILE)
    return DuplicateGroup(tuple(places), SAME_PIXELS if len({look.pixels_sha256 for look in members}) == 1 else NEARLY)
