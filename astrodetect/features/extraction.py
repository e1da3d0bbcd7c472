"""Feature extraction: image files to one feature vector each, in batches, cached on disk by the content of the file."""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files, images
from astrodetect.datasets.dataset import SkippedFile
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError, ImageError
from astrodetect.features import central_object, cutout
from astrodetect.features.central_object import CENTRAL_SHARE, FeatureKind, feature_matrix
from astrodetect.progress import ProgressBar
from astrodetect.records import BatchRunner, Floats, ImageContract, Pixels

MEASURED_BATCH = 32  # images
MEASURED_PX = 128  # side of the pixels that are measured where no model prescribes it
MAX_CACHE_BYTES = 4_000_000_000  # of all extractors together
IMAGES_PER_FILE = 512
ABANDONED_S = 3600.0  # age at which an unfinished file is that of a killed process
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


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """The feature vectors of images, and the files that could not be read."""

    items: list[ListedImage]  # path and label of each image
    sha256: list[str]  # of each file
    features: Floats  # (n, d)
    skipped: list[SkippedFile]  # unreadable files, with the reason
    computed: int  # images that were not in the cache
    kind: FeatureKind  # shapes, network or both
    contract: ImageContract  # how the images were read

    def subset(self, indices: NDArray[np.int64]) -> "ExtractedFeatures":
        """The images at these indices, in this order."""
        return replace(
            self,
            items=[self.items[index] for index in indices.tolist()],
            sha256=[self.sha256[index] for index in indices.tolist()],
            features=self.features[indices],
        )


def measured_contract(crop: float | None = None) -> ImageContract:
    """How images are read for measurements without a model: the central half of the frame, or the share `crop`."""
    return ImageContract(MEASURED_PX, crop or CENTRAL_SHARE, stretch="asinh")


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
    source = b"".join(Path(str(module.__file__)).read_bytes() for module in (central_object, cutout))
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
    extracted: list[ListedImage] = []
    digests: list[str] = []
    skipped: list[SkippedFile] = []
    features = np.zeros((0, 0), np.float32)
    computed = 0
    batches = (items[at : at + extractor.batch_size] for at in range(0, len(items), extractor.batch_size))
    with (
        ProgressBar(f"extracting features of {title}", len(items)) as bar,
        FeatureCache(cache_folder, extractor.cache_key) as cache,
        closing(
            run_batches(
                batches,
                lambda batch: [_read(item, extractor.contract, cache, max_pixels) for item in batch],
                lambda batch: _compute(batch, extractor),
                extractor.streams,
            )
        ) as results,
    ):
        for batch in results:
            for file in batch:
                if file.features is None:
                    skipped.append(SkippedFile(file.item.path, file.error))
                    continue
                if file.computed:
                    cache.add(file.sha256, file.features)
                    computed += 1
                if not len(features):  # allocated once: concatenating at the end would hold everything twice
                    features = np.empty((len(items), len(file.features)), np.float32)
                features[len(extracted)] = file.features
                extracted.append(file.item)
                digests.append(file.sha256.hex())
            bar.step(len(batch), f"{len(skipped)} bad files" if skipped else "")
    if not extracted:
        reason = f": the first of {len(skipped)} files, {skipped[0].path}, {skipped[0].reason}" if skipped else ""
        raise DataError(f"no usable image in {title}{reason}")
    return ExtractedFeatures(
        extracted, digests, features[: len(extracted)], skipped, computed, extractor.kind, extractor.contract
    )


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """An image file in the pipeline: with features, with pixels to compute them from, or with an error."""

    item: ListedImage
    sha256: bytes = b""
    features: Floats | None = None
    pixels: Pixels | None = None  # until the features are computed
    computed: bool = False  # not from the cache
    error: str = ""


def extract_batch(
    items: Sequence[ListedImage], extractor: FeatureExtractor, cache: "FeatureCache", max_pixels: int
) -> list[FeatureFile]:
    """The features of one batch."""
    return _compute([_read(item, extractor.contract, cache, max_pixels) for item in items], extractor)


def _read(item: ListedImage, contract: ImageContract, cache: "FeatureCache", max_pixels: int) -> FeatureFile:
    try:
        data = images.read_bytes(item.path)
        sha256 = hashlib.sha256(data).digest()
        if (features := cache.get(sha256)) is not None:
            return FeatureFile(item, sha256, features)
        return FeatureFile(item, sha256, pixels=images.decode(data, contract, max_pixels=max_pixels))
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
