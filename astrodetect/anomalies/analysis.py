"""Fitting the detectors on feature vectors, and explaining unusual images by their neighbours and by occlusion."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from astrodetect import images
from astrodetect.anomalies import adaptation
from astrodetect.anomalies.conformal import SEED
from astrodetect.anomalies.detectors.base import Detector, ReferencePoints
from astrodetect.anomalies.novelty import MAX_REFERENCE_IMAGES, MIN_IMAGES, Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.anomalies.occlusion import hide_places, occlusion_map
from astrodetect.anomalies.results import Explanation
from astrodetect.datasets.dataset import Dataset
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import ImageError
from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor, ReadImages
from astrodetect.progress import ProgressBar
from astrodetect.records import BatchRunner, Floats, ImageContract, ImagePath, Pixels

ORDINARY_SHARE = 0.9  # of an unlabelled set: the least unusual images, used as reference for explanations
NEIGHBOURS = 3  # ordinary images shown beside an unusual one; the nearest fills the occluded places
OCCLUSION_GRID = 8  # places along each axis: a description takes longer than a network's pass
STRENGTH_DROPS = (0.1, 0.7)  # ends of the colour scale: 1.25 and 5 times rarer, for strength is a decimal logarithm


@dataclass(frozen=True, slots=True)
class OrdinaryImages:
    """The reference set for explanations."""

    extracted: ExtractedFeatures
    vectors: Floats
    novelty: Novelty  # fitted on these alone


@dataclass(frozen=True, slots=True)
class FittedDetectors:
    """Detectors, their result for the images that they were fitted on, and the reference set."""

    novelty: Novelty
    result: NoveltyResult
    ordinary: OrdinaryImages


def fit_detectors(
    reference: ExtractedFeatures, names: Sequence[str], extra: Sequence[Detector], *, all_ordinary: bool
) -> FittedDetectors:
    """Detectors of these images, each scored leave-one-out; unless all are ordinary, the least unusual ones are.

    Where all are, the strength of other images is by held-out ones of them.
    """
    features, kind = reference.features, reference.kind
    novelty = Novelty.fit(features, feature_kind=kind, names=names, extra=extra)
    result = novelty.score_training_images()
    if all_ordinary:
        novelty = novelty.calibrated()
        return FittedDetectors(novelty, result, OrdinaryImages(reference, result.vectors, novelty))
    count = max(MIN_IMAGES, int(ORDINARY_SHARE * len(features)))
    least_unusual = np.argsort(result.strength, kind="stable")[:count]
    if count > MAX_REFERENCE_IMAGES:  # the detectors' own limit
        least_unusual = np.random.default_rng(SEED).choice(least_unusual, MAX_REFERENCE_IMAGES, replace=False)
    least_unusual.sort()
    of_ordinary = Novelty.fit(features[least_unusual], feature_kind=kind, names=names, extra=extra)
    others = np.setdiff1d(np.arange(len(features)), least_unusual)
    statistics = [of_ordinary.score_training_images().statistic, of_ordinary.score(features[others]).statistic]
    of_ordinary = of_ordinary.calibrated_by(np.concatenate(statistics))  # else the most unusual have no tail
    ordinary = OrdinaryImages(reference.subset(least_unusual), result.vectors[least_unusual], of_ordinary)
    return FittedDetectors(novelty, result, ordinary)


def fit_novelty(train: Dataset, contract: ImageContract, seed: int, run_batches: BatchRunner) -> Novelty:
    """Detectors fitted on measured features of at most MAX_REFERENCE_IMAGES training images, drawn at random."""
    sample = np.sort(np.random.default_rng(seed).permutation(len(train))[:MAX_REFERENCE_IMAGES])
    subset = train.subset(sample)
    items = [
        ListedImage(path, subset.classes[label])
        for path, label in zip(subset.paths, subset.labels.tolist(), strict=True)
    ]
    return adaptation.fit_ordinary(adaptation.measure_files(items, contract, run_batches, "training images").features)


def explain(
    ordinary: OrdinaryImages,
    read_images: ReadImages,
    vectors: Floats,
    chosen: Sequence[int],
    extractor: FeatureExtractor,
    *,
    max_pixels: int,
) -> list[Explanation]:
    """The nearest ordinary images and an occlusion map for each of the chosen images."""

    def read(path: ImagePath) -> Pixels:
        return images.decode_file(path, extractor.contract, max_pixels=max_pixels)

    def strengths(pixels: Pixels) -> Floats:
        batches = [pixels[at : at + extractor.batch_size] for at in range(0, len(pixels), extractor.batch_size)]
        return ordinary.novelty.score(np.concatenate([extractor.compute(batch) for batch in batches])).strength

    explanations = []
    with ProgressBar("explaining", len(chosen)) as bar:
        nearest = ReferencePoints(ordinary.vectors).nearest(vectors[list(chosen)]).indices
        for image, indices in zip(chosen, nearest.tolist(), strict=True):
            others = [index for index in indices if ordinary.extracted.sha256[index] != read_images.sha256[image]]
            neighbours = [ordinary.extracted.items[index].path for index in others[:NEIGHBOURS]]
            heat = None
            if neighbours:
                try:
                    copies = hide_places(read(read_images.items[image].path), read(neighbours[0]), OCCLUSION_GRID)
                    heat = occlusion_map(strengths(copies), *STRENGTH_DROPS)
                except ImageError:  # deleted or changed since its features were extracted
                    heat = None
            explanations.append(Explanation(image, neighbours, heat))
            bar.step()
    return explanations
