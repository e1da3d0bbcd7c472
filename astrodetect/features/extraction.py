"""Feature extraction: image files to one feature vector each, in batches, cached on disk by the content of the file."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files, images
from astrodetect.datasets.dataset import SkippedFile
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError, ImageError
from astrodetect.features import central_object, cutout, stamps
from astrodetect.features.central_object import CENTRAL_SHARE, FeatureKind, feature_matrix
from astrodetect.progress import ProgressBar
from astrodetect.records import BatchRunner, Floats, ImageContract, ImagePath, Pixels, SkyObject

MEASURED_BATCH = 32  # images
MEASURED_PX = 128  # side of the pixels that are measured where no model prescribes it
MAX_CACHE_BYTES = 4_000_000_000  # of all extractors together
IMAGES_PER_FILE = 512
FILES_PER_TRIM = 256  # some 200 MB
ABANDONED_S = 3600.0  # age at which an unfinished file is that of a killed process
Applied = TypeVar("Applied")  # what is made of a batch

DIGEST, FEATURES = "sha256", "row"  # fields of the cache's arrays


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """How to compute feature vectors: the image contract, the function of a batch, and the key of its cache."""

    kind: FeatureKind
    contract: ImageContract
    compute: Callable[[Pixels], Floats]  # (n, size, size, 3) to (n, d)
    cache_key: str  # differs wherever the features may differ
    batch_size: int
    streams: int  # batches computed at once
    model_version: str | None = None  # of the published model whose network computes them


@dataclass(slots=True)
class ReadImages:
    """Images whose features were extracted, and the files that could not be read."""

    kind: FeatureKind  # shapes, network or both
    contract: ImageContract  # how the images were read
    items: list[ListedImage] = field(default_factory=list)  # path and label of each image
    sha256: list[str] = field(default_factory=list)  # of each file
    positions: dict[ImagePath, SkyObject] = field(default_factory=dict)  # of FITS files, by their WCS
    skipped: list[SkippedFile] = field(default_factory=list)  # unreadable files, with the reason
    computed: int = 0  # images that were not in the cache


@dataclass(slots=True)
class ExtractedFeatures(ReadImages):
    """The feature vectors of images, and the files that could not be read."""

    features: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # (n, d)

    def subset(self, indices: NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]) -> "ExtractedFeatures":
        """The images at these indices, in this order, or those where a mask is true."""
        try:
            rows = np.arange(len(self.items))[indices]
        except IndexError as error:
            raise DataError(f"no subset of {len(self.items):,} images: {error}") from error
        return replace(
            self,
            items=[self.items[row] for row in rows],
            sha256=[self.sha256[row] for row in rows],
            features=self.features[rows],
        )


def measured_contract(crop: float | None = None, bands: str = ImageContract.RGB) -> ImageContract:
    """How images are read for measurements without a model: the central half of the frame, or the share `crop`."""
    return ImageContract(MEASURED_PX, CENTRAL_SHARE if crop is None else crop, bands, stretch="asinh")


def measured_extractor(contract: ImageContract) -> FeatureExtractor:
    """Extractor of measured morphology and colours, which needs no network."""

    def compute(pixels: Pixels) -> Floats:
        return feature_matrix("shapes", pixels, contract.crop)

    key = measurement_key(contract)
    return FeatureExtractor("shapes", contract, compute, key, MEASURED_BATCH, os.cpu_count() or 1)


def cache_key(contract: ImageContract, kind: FeatureKind, *network: str) -> str:
    """Key of the features of this kind; `network` identifies the network. It changes with the measuring source code."""
    code = "" if kind == "network" else _measurement_code()
    text = json.dumps([asdict(contract), kind, *network, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def measurement_key(contract: ImageContract) -> str:
    """Key of the measured features of images that are prepared by this contract."""
    return cache_key(contract, "shapes")


def _measurement_code() -> str:
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in (central_object, cutout, stamps))
    return hashlib.sha256(source).hexdigest() + f" {CENTRAL_SHARE}"


def extract_features(
    items: Sequence[ListedImage],
    extractor: FeatureExtractor,
    cache_folder: Path,
    *,
    run_batches: BatchRunner,
    title: str,
    max_pixels: int,
) -> ExtractedFeatures:
    """The feature vectors of all readable images, in order; only those not in the cache are computed."""
    extracted = ExtractedFeatures(extractor.kind, extractor.contract)
    features = extracted.features
    batches = extract_batches(
        items, extractor, cache_folder, extracted,
        run_batches=run_batches, title=title, max_pixels=max_pixels, apply=readable_features,
    )  # fmt: skip
    filled = 0
    with closing(batches):
        for rows in batches:
            if not len(rows):  # no file of the batch is readable
                continue
            if not len(features):  # allocated once: concatenating at the end would hold everything twice
                features = np.empty((len(items), rows.shape[1]), np.float32)
            features[filled : filled + len(rows)] = rows
            filled += len(rows)
    extracted.features = features[:filled]
    return extracted


def extract_batches(
    items: Sequence[ListedImage],
    extractor: FeatureExtractor,
    cache_folder: Path,
    read: ReadImages,
    *,
    run_batches: BatchRunner,
    title: str,
    max_pixels: int,
    apply: "Callable[[list[FeatureFile]], Applied]",
) -> Generator[Applied]:
    """What `apply` makes of each batch, where its features are computed; adds the images to `read`, in order."""
    batches = (items[at : at + extractor.batch_size] for at in range(0, len(items), extractor.batch_size))
    with (
        ProgressBar(f"extracting features of {title}", len(items)) as bar,
        FeatureCache(cache_folder, extractor.cache_key) as cache,
        closing(
            run_batches(
                batches,
                lambda batch: [_read(item, extractor.contract, cache, max_pixels) for item in batch],
                lambda batch: _applied(_compute(batch, extractor), apply),
                extractor.streams,
            )
        ) as results,
    ):
        for files, applied in results:
            for file in files:
                if file.error:
                    read.skipped.append(SkippedFile(file.item.path, file.error))
                    continue
                if file.features is not None:
                    cache.add(file.sha256, file.features)
                    read.computed += 1
                if file.position:
                    read.positions[file.item.path] = file.position
                read.items.append(file.item)
                read.sha256.append(file.sha256.hex())
            yield applied
            bar.step(len(files), f"{len(read.skipped)} bad files" if read.skipped else "")
    if not read.items:
        first = read.skipped[0] if read.skipped else None
        reason = f": the first of {len(read.skipped)} files, {first.path}, {first.reason}" if first else ""
        raise DataError(f"no usable image in {title}{reason}")


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """An image file in the pipeline: with features, with pixels to compute them from, or with an error."""

    item: ListedImage
    sha256: bytes = b""
    features: Floats | None = None
    pixels: Pixels | None = None  # until the features are computed
    computed: bool = False  # not from the cache
    position: SkyObject | None = None  # by its WCS
    error: str = ""


def readable_features(files: list[FeatureFile]) -> Floats:
    """(n, d) the features of the readable images of a batch."""
    rows = [file.features for file in files if file.features is not None]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def extract_batch(
    items: Sequence[ListedImage],
    extractor: FeatureExtractor,
    cache: "FeatureCache",
    max_pixels: int,
    apply: Callable[[list[FeatureFile]], Applied],
) -> tuple[list[FeatureFile], Applied]:
    """One batch, and what `apply` makes of it; the files keep the features that are not in the cache yet."""
    files = _compute([_read(item, extractor.contract, cache, max_pixels) for item in items], extractor)
    return _applied(files, apply)


def _applied(
    files: list[FeatureFile], apply: Callable[[list[FeatureFile]], Applied]
) -> tuple[list[FeatureFile], Applied]:
    applied = apply(files)
    return [file if file.computed else replace(file, features=None) for file in files], applied


def _read(item: ListedImage, contract: ImageContract, cache: "FeatureCache", max_pixels: int) -> FeatureFile:
    try:
        data = images.read_bytes(item.path)
        sha256 = hashlib.sha256(data).digest()
        position = images.sky_object(data, max_pixels=max_pixels)
        if (features := cache.get(sha256)) is not None:
            return FeatureFile(item, sha256, features, position=position)
        pixels = images.decode(data, contract, max_pixels=max_pixels)
        return FeatureFile(item, sha256, pixels=pixels, position=position)
    except ImageError as error:
        return FeatureFile(item, error=str(error))


def _compute(batch: list[FeatureFile], extractor: FeatureExtractor) -> list[FeatureFile]:
    pixels = [file.pixels for file in batch if file.pixels is not None]
    rows = iter(extractor.compute(np.stack(pixels)) if pixels else ())
    return [
        file if file.pixels is None else replace(file, features=next(rows), pixels=None, computed=True)
        for file in batch
    ]


class FeatureCache:
    """Feature vectors on disk by the SHA-256 of their image file, for one extractor; use as a context manager.

    Each process appends whole files of its own, so concurrent processes do not interfere, and one that is killed loses
    the last few hundred vectors. Above MAX_CACHE_BYTES the least recently used files are removed.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._root, self._folder = folder, folder / key
        self._pending: list[tuple[bytes, Floats]] = []
        self._files: list[NDArray[np.void]] = []
        self._index: dict[bytes, tuple[int, int]] = {}  # file and row
        self._written = 0  # files

    def __enter__(self) -> Self:
        return self.open()

    def open(self) -> Self:
        """Reads the index; enough for `get`."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._write_error(error) from error
        for path in sorted(self._folder.glob("*.npy")):
            # Removed by another process, or truncated on disk: its images are computed again.
            with suppress(OSError, ValueError, EOFError):
                table = np.load(path, mmap_mode="r", allow_pickle=False)
                if table.dtype.names == (DIGEST, FEATURES) and table.ndim == 1:
                    path.touch()
                    self._index |= {digest.tobytes(): (len(self._files), i) for i, digest in enumerate(table[DIGEST])}
                    self._files.append(table)
        return self

    def get(self, sha256: bytes) -> Floats | None:
        """The cached features of the file with this digest."""
        position = self._index.get(sha256)
        return None if position is None else np.array(self._files[position[0]][FEATURES][position[1]])

    def add(self, sha256: bytes, features: Floats) -> None:
        """Caches features; they are written in files of IMAGES_PER_FILE."""
        self._pending.append((sha256, features))
        if len(self._pending) == IMAGES_PER_FILE:
            self._write()
            self._written += 1
            if self._written % FILES_PER_TRIM == 0:
                self._trim()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._trim()

    def _write(self) -> None:
        if not self._pending:
            return
        width = self._pending[0][1].shape
        table = np.empty(len(self._pending), [(DIGEST, np.uint8, (32,)), (FEATURES, np.float32, width)])
        table[DIGEST] = [np.frombuffer(digest, np.uint8) for digest, _ in self._pending]
        table[FEATURES] = [features for _, features in self._pending]
        self._pending.clear()
        try:
            with (
                atomic_files.replacing(self._folder / f"{uuid.uuid4().hex}.npy") as part,
                part.open("wb") as file,
            ):
                np.save(file, table, allow_pickle=False)
        except OSError as error:
            raise self._write_error(error) from error

    def _trim(self) -> None:
        """Removes abandoned unfinished files, and the least recently used ones of all extractors above the limit."""
        with suppress(OSError):  # another process may be trimming too
            for part in self._root.glob("*/.*.part"):
                if time.time() - part.stat().st_mtime > ABANDONED_S:
                    part.unlink()
            files = [(path.stat(), path) for path in self._root.glob("*/*.npy")]
            total = sum(stat.st_size for stat, _ in files)
            for stat, path in sorted(files, key=lambda file: file[0].st_mtime):
                if total <= MAX_CACHE_BYTES:
                    break
                path.unlink()
                total -= stat.st_size

    def _write_error(self, error: OSError) -> DataError:
        return DataError(f"cannot write the feature cache {self._folder}: {error.strerror or error}")
