"""What a ranking would miss: simulated rarities planted into the images themselves, and where they rank."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from astrodetect import images
from astrodetect.anomalies.conformal import FOLDS, assign_folds
from astrodetect.anomalies.novelty import MIN_IMAGES, Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.datasets.simulation import planting
from astrodetect.errors import DataError, ImageError
from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor
from astrodetect.progress import ProgressBar
from astrodetect.records import ImageContract, ImagePath, Pixels

MIN_RECALL_IMAGES = FOLDS * MIN_IMAGES


@dataclass(frozen=True, slots=True)
class PlantedImage:
    """An image with a planted rarity."""

    host: ImagePath
    pixels: Pixels
    rank: float  # among the images of the folder, from 1
    view: str  # that finds it the most unusual


@dataclass(frozen=True, slots=True)
class PlantedGroup:
    """The images with a rarity of one kind and brightness."""

    kind: str
    brightness: float  # of its peak, relative to that of the object at the centre
    images: list[PlantedImage]

    def found(self, first: int) -> int:
        """How many rank among the first."""
        return sum(image.rank <= first for image in self.images)


@dataclass(frozen=True, slots=True)
class RecallResult:
    """Where planted rarities rank."""

    images: int  # of the folder
    first: int  # how many images would be looked at
    seed: int
    groups: list[PlantedGroup]


def measure_recall(
    extracted: ExtractedFeatures,
    extractor: FeatureExtractor,
    *,
    kinds: Sequence[str],
    brightnesses: Sequence[float],
    planted: int,
    first: int,
    seed: int,
    max_pixels: int,
) -> RecallResult:
    """Plants `planted` rarities of each kind, each into another image and at each brightness, and ranks them.

    The images are split into folds. A planted image is ranked among the images of its host's fold by detectors of the
    others, and the rank is scaled to all images: as if it were the only planted one among them.
    """
    count = len(extracted.items)
    if count < MIN_RECALL_IMAGES:
        raise DataError(f"{count} images are too few to plant rarities into: give {MIN_RECALL_IMAGES} or more")
    random = np.random.default_rng(seed)
    fold_of = assign_folds(count)
    hosts_of = {kind: random.permutation(count)[:planted] for kind in kinds}
    groups: dict[tuple[str, float], list[PlantedImage]] = {
        (kind, brightness): [] for kind in kinds for brightness in brightnesses
    }
    with ProgressBar("planting rarities", len(groups) * min(planted, count)) as bar:
        for fold in np.unique(fold_of):
            own = np.flatnonzero(fold_of == fold)
            novelty = Novelty.fit(extracted.features[fold_of != fold], feature_kind=extracted.kind)
            strengths = np.sort(novelty.score(extracted.features[own]).strength)
            for kind in kinds:
                hosts = np.intersect1d(hosts_of[kind], own).tolist()
                read = _read_hosts(extracted, hosts, extractor.contract, max_pixels)
                for brightness in brightnesses if read else ():
                    pixels = [
                        planting.plant(
                            image, kind, brightness, np.random.default_rng([seed, host]), extractor.contract.crop
                        )
                        for host, image in read.items()
                    ]
                    result = _score(novelty, extractor, pixels)
                    stronger = len(strengths) - np.searchsorted(strengths, result.strength)
                    groups[kind, brightness] += [
                        PlantedImage(extracted.items[host].path, image, float(rank), result.view(number))
                        for number, (host, image, rank) in enumerate(
                            zip(read, pixels, 1 + stronger * count / len(own), strict=True)
                        )
                    ]
                bar.step(len(hosts) * len(brightnesses))
    made = [PlantedGroup(kind, brightness, planted_images) for (kind, brightness), planted_images in groups.items()]
    return RecallResult(count, first, seed, made)


def _read_hosts(
    extracted: ExtractedFeatures, hosts: Sequence[int], contract: ImageContract, max_pixels: int
) -> dict[int, Pixels]:
    """The pixels of the hosts that can still be read."""
    pixels = {}
    for host in hosts:
        with suppress(ImageError):  # deleted or changed since its features were extracted
            pixels[host] = images.decode_file(extracted.items[host].path, contract, max_pixels=max_pixels)
    return pixels


def _score(novelty: Novelty, extractor: FeatureExtractor, pixels: list[Pixels]) -> NoveltyResult:
    size = extractor.batch_size
    batches = [np.stack(pixels[at : at + size]) for at in range(0, len(pixels), size)]
    return novelty.score(np.concatenate([extractor.compute(batch) for batch in batches]))
