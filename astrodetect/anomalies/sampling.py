"""Detectors fitted on a sample of the images, and every image scored by them, in memory that features do not fill."""

import hashlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from astrodetect.anomalies.conformal import StrengthCalibration
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError
from astrodetect.features.extraction import (
    ExtractedFeatures,
    FeatureExtractor,
    FeatureFile,
    ReadImages,
    extract_batches,
    readable_features,
)
from astrodetect.records import BatchRunner

DIGEST_BYTES = 16  # of the hash that draws the sample
BATCHES_PER_BLOCK = 256  # joined while others are scored: arrays of a few images are mostly overhead


def draw_sample(items: Sequence[ListedImage], count: int, seed: int) -> list[ListedImage]:
    """A random sample, in the order of the images.

    It consists of the images with the smallest hashes of seed and path, so that it depends on nothing else: an added
    image displaces at most one.
    """
    key = str(seed).encode()

    def digest(index: int) -> tuple[bytes, int]:
        path = str(items[index].path).encode(errors="surrogateescape")
        return hashlib.blake2b(path, digest_size=DIGEST_BYTES, key=key).digest(), index

    drawn = heapq.nsmallest(count, map(digest, range(len(items))))
    return [items[index] for index in sorted(index for _, index in drawn)]


def score_batch(novelty: Novelty, files: list[FeatureFile]) -> NoveltyResult | None:
    """The result of a batch's readable images; None without any."""
    features = readable_features(files)
    return novelty.score(features) if len(features) else None


def score_images(
    items: Sequence[ListedImage],
    novelty: Novelty,
    extractor: FeatureExtractor,
    cache_folder: Path,
    *,
    run_batches: BatchRunner,
    title: str,
    max_pixels: int,
) -> tuple[ReadImages, NoveltyResult]:
    """The result of every readable image. Features are dropped when scored, and vectors are in a temporary file."""
    read = ReadImages(extractor.kind, extractor.contract)
    blocks: list[NoveltyResult] = []
    pending: list[NoveltyResult] = []
    batches = extract_batches(
        items, extractor, cache_folder, read,
        run_batches=run_batches, title=title, max_pixels=max_pixels, apply=partial(score_batch, novelty),
    )  # fmt: skip
    with _write_errors(cache_folder):
        cache_folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=cache_folder)  # noqa: SIM115 - closed below; what is mapped stays readable
    with file, closing(batches):
        for result in batches:
            if result is not None:
                with _write_errors(cache_folder):
                    file.write(result.vectors.tobytes())
                pending.append(replace(result, vectors=result.vectors[:0]))
            if len(pending) == BATCHES_PER_BLOCK:
                blocks.append(NoveltyResult.concatenate(pending))
                pending.clear()
        with _write_errors(cache_folder):
            file.flush()
        scored = NoveltyResult.concatenate([*blocks, *pending])
        shape = (len(scored.strength), scored.vectors.shape[1])
        return read, replace(scored, vectors=np.memmap(file, np.float32, "r", shape=shape))


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Raises OSError as DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write the vectors of the images to {folder}: {error.strerror or error}") from error


def replace_by_left_out(
    result: NoveltyResult, read: ReadImages, sample: ExtractedFeatures, own: NoveltyResult
) -> NoveltyResult:
    """The result with that of the sample's images replaced by their `own`, leave-one-out.

    The strength is by the scores of all images.
    """
    positions = {item.path: index for index, item in enumerate(sample.items)}
    pairs = [(index, positions[item.path]) for index, item in enumerate(read.items) if item.path in positions]
    images, places = np.array(pairs, np.int64).reshape(-1, 2).T  # none where the sample was deleted meanwhile
    result.novelty[images] = own.novelty[places]
    result.statistic[images] = own.statistic[places]
    result.leading[images] = own.leading[places]
    for name in result.scores:
        result.scores[name][images] = own.scores[name][places]
        result.flagged[name][images] = own.flagged[name][places]
    return result.calibrated(StrengthCalibration.fit(result.statistic))
