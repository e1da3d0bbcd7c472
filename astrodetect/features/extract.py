"""Images to the numbers that the detectors of the unusual see; what an earlier run described is not described again."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.anomalies import novelty
from astrodetect.anomalies.novelty import FeatureKind
from astrodetect.datasets import dataset
from astrodetect.datasets.dataset import ListedImage, SkippedFile
from astrodetect.errors import DataError, ImageError
from astrodetect.features import central_object, cutout
from astrodetect.features.cache import FeatureCache
from astrodetect.inference.pipeline import read_ahead, read_bytes
from astrodetect.progress import Bar
from astrodetect.records import Floats, ImageContract, Pixels
from astrodetect.scoring import walk

if TYPE_CHECKING:  # OpenVINO takes its time, and shapes need none of it
    from astrodetect.inference.engine import Engine

SHAPES_AT_ONCE = 32  # images


@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """What describes images: how it wants them, what it says of a batch, and a name for exactly what it says."""

    sight: FeatureKind
    contract: ImageContract
    says: Callable[[Pixels], Floats]
    name: str
    batch: int
    streams: int


@dataclass(frozen=True, slots=True)
class ExtractedFeatures:
    """Images by the numbers that stand for them, and the files that are no images."""

    items: list[ListedImage]
    sha256: list[str]
    rows: Floats  # (n, d)
    skipped: list[SkippedFile]
    new: int  # images that no earlier run had described

    def subset(self, places: NDArray[np.int64]) -> "ExtractedFeatures":
        """Only these images, in this order."""
        some = places.tolist()
        return replace(
            self,
            items=[self.items[place] for place in some],
            sha256=[self.sha256[place] for place in some],
            rows=self.rows[places],
        )


def by_shapes(contract: ImageContract) -> FeatureExtractor:
    """Describes images by their shapes alone."""

    def says(pixels: Pixels) -> Floats:
        return novelty.feature_matrix("shapes", pixels, contract.crop, np.zeros((len(pixels), 0), np.float32))

    name = _named(asdict(contract), _code())
    return FeatureExtractor("shapes", contract, says, name, SHAPES_AT_ONCE, os.cpu_count() or 1)


def by_network(engine: "Engine", sight: FeatureKind, version: str) -> FeatureExtractor:
    """Describes images by what a network sees, and perhaps by their shapes too; `version` tells which network."""
    contract = engine.manifest.image

    def says(pixels: Pixels) -> Floats:
        return novelty.feature_matrix(sight, pixels, contract.crop, engine.run(pixels).features)

    code = _code() if sight == "both" else ""
    name = _named(asdict(contract), sight, version, engine.precision, code)
    return FeatureExtractor(sight, contract, says, name, engine.batch, engine.streams)


def list_images(places: Sequence[Path]) -> list[ListedImage]:
    """The images in there: one place with class folders or a table gives labels too, anything else none."""
    names = [str(place) for place in places]
    try:
        if len(places) == 1 and not _plain(places[0]):
            return dataset.list_dataset(places[0])
        walk.check(names)
        found = [ListedImage(Path(path), "") for path in walk.walk(names)]
    except OSError as error:
        raise DataError(f"cannot look into {error.filename}: {error.strerror}") from error
    if not found:
        raise DataError(f"no images under {' '.join(names)}: they end in {', '.join(walk.SUFFIXES)}")
    return found


def extract_features(
    items: Sequence[ListedImage], describer: FeatureExtractor, folder: Path, *, title: str, max_pixels: int
) -> ExtractedFeatures:
    """Every image described once, in order; `folder` keeps what is found for the next run, whoever's it is."""
    good: list[ListedImage] = []
    digests: list[str] = []
    skipped: list[SkippedFile] = []
    rows = np.zeros((0, 0), np.float32)
    new = 0
    jobs = (items[at : at + describer.batch] for at in range(0, len(items), describer.batch))
    with (
        Bar(f"describing {title}", len(items)) as bar,
        FeatureCache(folder, describer.name) as kept,
        closing(
            read_ahead(
                jobs,
                lambda job: [_read(item, describer.contract, kept, max_pixels) for item in job],
                lambda job: _filled(job, describer),
                describer.streams,
            )
        ) as batches,
    ):
        for batch in batches:
            for one in batch:
                if one.row is None:
                    skipped.append(SkippedFile(one.item.path, one.error))
                    continue
                if one.pixels is not None:
                    kept.add(one.sha256, one.row)
                    new += 1
                if not len(rows):  # made once: all rows joined at the end would be held twice
                    rows = np.empty((len(items), len(one.row)), np.float32)
                rows[len(good)] = one.row
                good.append(one.item)
                digests.append(one.sha256.hex())
            bar.step(len(batch), f"{len(skipped)} bad files" if skipped else "")
    if not good:
        why = f": the first of {len(skipped)} files, {skipped[0].path}, {skipped[0].reason}" if skipped else ""
        raise DataError(f"no usable image in {title}{why}")
    return ExtractedFeatures(good, digests, rows[: len(good)], skipped, new)


@dataclass(frozen=True, slots=True)
class _One:
    """A file on its way."""

    item: ListedImage
    sha256: bytes = b""
    row: Floats | None = None
    pixels: Pixels | None = None  # of what was not described before
    error: str = ""


def _read(item: ListedImage, contract: ImageContract, kept: FeatureCache, max_pixels: int) -> _One:
    try:
        data = read_bytes(item.path)
        sha256 = hashlib.sha256(data).digest()
        if (row := kept.get(sha256)) is not None:
            return _One(item, sha256, row)
        return _One(item, sha256, pixels=images.read(data, contract, max_pixels=max_pixels))
    except ImageError as error:
        return _One(item, error=str(error))


def _filled(batch: list[_One], describer: FeatureExtractor) -> list[_One]:
    fresh = [one.pixels for one in batch if one.pixels is not None]
    rows = iter(describer.says(np.stack(fresh)) if fresh else ())
    return [one if one.pixels is None else _One(one.item, one.sha256, next(rows), one.pixels) for one in batch]


def _plain(place: Path) -> bool:
    """Whether it is one image, or a folder with images in it that no class folder holds."""
    if not place.is_dir():
        return place.suffix.lower() != ".csv"
    return any(path.name.lower().endswith(walk.SUFFIXES) for path in place.iterdir() if not path.is_dir())


def _code() -> str:
    """Tells versions of what measures shapes apart, by its own text."""
    text = b"".join(Path(str(module.__file__)).read_bytes() for module in (central_object, cutout))
    return hashlib.sha256(text).hexdigest() + f" {novelty.CENTRAL_SHARE}"


def _named(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
