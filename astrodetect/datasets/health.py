"""Quality control of labelled images: unreadable files, duplicates, leaks between parts, doubtful labels."""

import hashlib
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from astrodetect import images
from astrodetect.datasets import mislabels, near_duplicates
from astrodetect.datasets.class_folders import list_dataset
from astrodetect.datasets.dataset import Dataset
from astrodetect.datasets.near_duplicates import ImageSignatures
from astrodetect.datasets.tables import PARTS, ListedImage
from astrodetect.errors import DataError, ImageError
from astrodetect.features import cutout
from astrodetect.progress import ProgressBar
from astrodetect.records import BatchRunner, Floats, ImageContract, ImagePath, Pixels
from astrodetect.storage.references import base_name

SCAN_CONTRACT = ImageContract(size=128, stretch="asinh")
BATCH_SIZE = 256  # images, of 50 kB each
PREFETCHED_BATCHES = 2
SAME_FILE, SAME_PIXELS, NEARLY = "the same file", "the same pixels", "nearly the same"
CROP = 0.5  # central share of the frame in which shape features are measured


@dataclass(frozen=True, slots=True)
class ScannedImage:
    """Properties of one readable image."""

    item: ListedImage
    sha256: str  # of the file
    pixels_sha256: str  # of the decoded pixels, whatever the file format
    kind: str
    width: int
    height: int
    brightness: float  # mean, 0 to 1
    contrast: float  # standard deviation, 0 to 1


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file listed as an image that cannot be used, and why."""

    item: ListedImage
    reason: str


ScannedFile = tuple[ScannedImage, Pixels] | UnreadableFile


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The readable images in the order in which they were listed, and the unreadable files."""

    images: list[ScannedImage]
    unreadable: list[UnreadableFile]
    signatures: ImageSignatures
    features: Floats  # (n, d) shape features; d = 0 if they were not measured

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Indices of images that are copies of each other."""

    indices: tuple[int, ...]
    kind: str  # SAME_FILE, SAME_PIXELS or NEARLY


@dataclass(frozen=True, slots=True)
class Leak:
    """A test image that is a copy of a training image."""

    train: ImagePath
    test: ImagePath
    kind: str


@dataclass(frozen=True, slots=True)
class DoubtfulLabel:
    """An image whose label is probably wrong."""

    image: ScannedImage
    suggested: str
    probability: float  # of the suggested class
    label_probability: float


@dataclass(frozen=True, slots=True)
class DatasetHealth:
    """The result of `examine`."""

    path: ImagePath
    scan: ScanResult
    duplicate_groups: list[DuplicateGroup]
    doubtful_labels: list[DoubtfulLabel]
    bands: str = ImageContract.RGB  # of FITS

    @property
    def classes(self) -> list[str]:
        """Class names, including those of unreadable files."""
        return sorted({item.label for item in self._items()})

    @property
    def parts(self) -> list[str]:
        """Parts in the order of PARTS; a data set without parts has one part named ''."""
        present = {item.part for item in self._items()}
        return [part for part in ("", *PARTS) if part in present]

    @property
    def unreadable(self) -> list[UnreadableFile]:
        """Files that are not usable images."""
        return self.scan.unreadable

    @property
    def leaks(self) -> list[DuplicateGroup]:
        """Duplicate groups that span several parts."""
        return [group for group in self.duplicate_groups if len({image.item.part for image in self.members(group)}) > 1]

    @property
    def conflicts(self) -> list[DuplicateGroup]:
        """Duplicate groups with several labels."""
        return [
            group for group in self.duplicate_groups if len({image.item.label for image in self.members(group)}) > 1
        ]

    @property
    def duplicates(self) -> list[DuplicateGroup]:
        """Duplicate groups with one label in one part."""
        return [
            group
            for group in self.duplicate_groups
            if len({(image.item.part, image.item.label) for image in self.members(group)}) == 1
        ]

    def members(self, group: DuplicateGroup) -> list[ScannedImage]:
        """The images of a duplicate group."""
        return [self.scan.images[index] for index in group.indices]

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of readable images of each (part, class)."""
        return Counter((image.item.part, image.item.label) for image in self.scan.images)

    def _items(self) -> list[ListedImage]:
        return [image.item for image in self.scan.images] + [file.item for file in self.scan.unreadable]


def examine(
    path: ImagePath,
    *,
    crop: float = CROP,
    features: Callable[[ScanResult], Floats] | None = None,
    run_batches: BatchRunner | None = None,
    bands: str = ImageContract.RGB,
) -> DatasetHealth:
    """Read every image of a data set once, FITS by these bands; find duplicates and doubtful labels.

    Labels are checked against shape features of the central `crop`, or against the rows that `features` returns.
    """
    scan = scan_dataset(path, crop=None if features else crop, run_batches=run_batches, bands=bands)
    groups, duplicate_groups = group_duplicates(scan)
    rows = features(scan) if features else scan.features
    return DatasetHealth(path, scan, duplicate_groups, _doubtful_labels(scan, groups, rows), bands)


def scan_dataset(
    path: ImagePath,
    *,
    crop: float | None = None,
    run_batches: BatchRunner | None = None,
    bands: str = ImageContract.RGB,
) -> ScanResult:
    """Scan every image of a data set; it is an error if none can be read."""
    title = f"scanning {base_name(str(path)) or path}"
    scan = scan_images(list_dataset(path), title=title, crop=crop, run_batches=run_batches, bands=bands)
    if not scan.images:
        first = scan.unreadable[0]
        raise DataError(
            f"none of the files in {path} is an image: the first, {base_name(str(first.item.path))}: {first.reason}"
        )
    return scan


def scan_images(
    items: Sequence[ListedImage],
    *,
    title: str,
    crop: float | None = None,
    run_batches: BatchRunner | None = None,
    bands: str = ImageContract.RGB,
) -> ScanResult:
    """Read every file once, FITS by these bands; with a `crop`, measure shape features in this share of the frame."""
    results = [_measure_files(crop, [])]
    batches = (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))
    unreadable = 0
    with (
        threadpool_limits(1, user_api="blas"),  # the last bits depend on the number of threads
        ProgressBar(title, len(items)) as bar,
        closing(
            run_batches(batches, partial(_scan_files, bands), partial(_measure_files, crop), 1)
            if run_batches
            else (_measure_files(crop, files) for files in _read_batches(batches, bands))
        ) as scanned,
    ):
        for result in scanned:
            results.append(result)
            unreadable += len(result.unreadable)
            bar.step(len(result) + len(result.unreadable), f"{unreadable} cannot be read" if unreadable else "")
    features = [result.features for result in results if len(result)]
    return ScanResult(
        [image for result in results for image in result.images],
        [file for result in results for file in result.unreadable],
        ImageSignatures.concatenate([result.signatures for result in results]),
        np.concatenate(features) if features else np.zeros((0, 0), np.float32),
    )


def scan_batch(crop: float | None, bands: str, items: Sequence[ListedImage]) -> ScanResult:
    """A part of `scan_images`, for another machine to do."""
    return _measure_files(crop, _scan_files(bands, items))


def group_duplicates(scan: ScanResult) -> tuple[NDArray[np.int64], list[DuplicateGroup]]:
    """The duplicate group number of every image, and the groups with more than one member."""
    first_index: dict[str, int] = {}
    for index, image in enumerate(scan.images):
        first_index.setdefault(image.pixels_sha256, index)
    distinct = np.array(list(first_index.values()), dtype=np.int64)
    signatures = ImageSignatures(scan.signatures.signatures[distinct], scan.signatures.planes[distinct])
    components = near_duplicates.connected_groups(len(distinct), near_duplicates.find_pairs(signatures))
    group_of_pixels = {digest: int(group) for digest, group in zip(first_index, components, strict=True)}
    groups = np.array([group_of_pixels[image.pixels_sha256] for image in scan.images], dtype=np.int64)
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    return groups, [_duplicate_group(scan, indices) for indices in members.values() if len(indices) > 1]


def find_leaks(train: Dataset, test: Dataset, bands: str = ImageContract.RGB) -> list[Leak]:
    """Test images that are copies of training images, FITS by these bands (1–2 s per thousand images)."""
    items = [
        ListedImage(path, dataset.classes[label], part)
        for part, dataset in (("train", train), ("test", test))
        for path, label in zip(dataset.paths, dataset.labels.tolist(), strict=True)
    ]
    scan = scan_images(items, title="looking for leaks", bands=bands)
    leaks = []
    for group in group_duplicates(scan)[1]:
        members = [scan.images[index] for index in group.indices]
        training = [image for image in members if image.item.part == "train"]
        for image in members:
            if image.item.part == "test" and training:
                copy, kind = _closest_copy(image, training)
                leaks.append(Leak(copy.item.path, image.item.path, kind))
    return leaks


def _read_batches(batches: Iterator[Sequence[ListedImage]], bands: str) -> Iterator[list[ScannedFile]]:
    """The images batch by batch, with the next batches read ahead."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending: deque[list[Future[ScannedFile]]] = deque()
        try:
            for batch in islice(batches, PREFETCHED_BATCHES):
                pending.append([pool.submit(_scan_file, item, bands) for item in batch])
            while pending:
                results = [future.result() for future in pending.popleft()]
                pending.extend([pool.submit(_scan_file, item, bands) for item in batch] for batch in islice(batches, 1))
                yield results
        finally:
            pool.shutdown(cancel_futures=True)


def _scan_files(bands: str, items: Sequence[ListedImage]) -> list[ScannedFile]:
    return [_scan_file(item, bands) for item in items]


def _measure_files(crop: float | None, files: Sequence[ScannedFile]) -> ScanResult:
    readable = [file for file in files if isinstance(file, tuple)]
    no_pixels = np.zeros((0, SCAN_CONTRACT.size, SCAN_CONTRACT.size, 3), np.uint8)
    pixels = np.stack([image_pixels for _, image_pixels in readable]) if readable else no_pixels
    return ScanResult(
        [image for image, _ in readable],
        [file for file in files if isinstance(file, UnreadableFile)],
        near_duplicates.compute_signatures(pixels),
        np.zeros((len(pixels), 0), np.float32) if crop is None or not readable else cutout.measure_images(pixels, crop),
    )


def _scan_file(item: ListedImage, bands: str) -> ScannedFile:
    try:
        data = images.read_bytes(item.path)
        probe = images.probe(data)
        pixels = images.decode(data, replace(SCAN_CONTRACT, bands=bands))
    except ImageError as error:
        return UnreadableFile(item, str(error))
    values = pixels.astype(np.float32) / np.float32(255)
    image = ScannedImage(
        item=item,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        kind=probe.format,
        width=probe.width,
        height=probe.height,
        brightness=float(values.mean()),
        contrast=float(values.std()),
    )
    return image, pixels


def _doubtful_labels(scan: ScanResult, groups: NDArray[np.int64], features: Floats) -> list[DoubtfulLabel]:
    """Labels contradicted by these features (one row per image), the most confident first."""
    names = sorted({image.item.label for image in scan.images})
    labels = np.array([names.index(image.item.label) for image in scan.images], dtype=np.int64)
    return [
        DoubtfulLabel(
            scan.images[suspect.index], names[suspect.suggested], suspect.probability, suspect.label_probability
        )
        for suspect in mislabels.find_mislabels(features, labels, groups)
    ]


def _closest_copy(image: ScannedImage, others: Sequence[ScannedImage]) -> tuple[ScannedImage, str]:
    """The most similar copy among others, and how similar it is."""
    for other in others:
        if other.sha256 == image.sha256:
            return other, SAME_FILE
    for other in others:
        if other.pixels_sha256 == image.pixels_sha256:
            return other, SAME_PIXELS
    return others[0], NEARLY


def _duplicate_group(scan: ScanResult, indices: Sequence[int]) -> DuplicateGroup:
    members = [scan.images[index] for index in indices]
    if len({image.sha256 for image in members}) == 1:
        return DuplicateGroup(tuple(indices), SAME_FILE)
    same_pixels = len({image.pixels_sha256 for image in members}) == 1
    return DuplicateGroup(tuple(indices), SAME_PIXELS if same_pixels else NEARLY)
