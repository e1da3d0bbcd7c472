"""Described images to what is unusual among them, what ordinary ones look like, and where they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrodetect import images
from astrodetect.anomalies import occlusion
from astrodetect.anomalies.detectors.base import Detector
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.novelty import MAX_REFERENCE_IMAGES, MIN_IMAGES, SEED, FeatureKind, Novelty, NoveltyResult
from astrodetect.errors import ImageError
from astrodetect.features.extract import ExtractedFeatures, FeatureExtractor
from astrodetect.progress import Bar
from astrodetect.records import Floats, Pixels
from astrodetect.reports.anomaly_report import Explanation

ORDINARY = 0.9  # of a mixed set: the least unusual share of it, which the others are seen against
NEIGHBOURS = 3  # ordinary images shown beside an unusual one; its places are covered with the nearest


@dataclass(frozen=True, slots=True)
class Ordinary:
    """Images that show what is usual."""

    seen: ExtractedFeatures
    vectors: Floats
    novelty: Novelty  # fitted on these alone


@dataclass(frozen=True, slots=True)
class Fitted:
    """Detectors, and what they say of the images."""

    novelty: Novelty
    looked: NoveltyResult
    ordinary: Ordinary


def fit(
    seen: ExtractedFeatures,
    normal: ExtractedFeatures | None,
    sight: FeatureKind,
    names: Sequence[str],
    extra: Sequence[Detector],
) -> Fitted:
    """Learns what is usual from the normal images; without any, from the images themselves, each among the others."""
    if normal:
        novelty = Novelty.fit(normal.rows, sight=sight, names=names, extra=extra)
        return Fitted(novelty, novelty.look(seen.rows), Ordinary(normal, novelty.look_at_learnt().vectors, novelty))
    novelty = Novelty.fit(seen.rows, sight=sight, names=names, extra=extra)
    looked = novelty.look_at_learnt()
    count = max(MIN_IMAGES, int(ORDINARY * len(seen.rows)))
    plain = np.argsort(looked.strength, kind="stable")[:count]
    if count > MAX_REFERENCE_IMAGES:  # more than detectors compare with
        plain = np.random.default_rng(SEED).choice(plain, MAX_REFERENCE_IMAGES, replace=False)
    plain.sort()
    alone = Novelty.fit(seen.rows[plain], sight=sight, names=names, extra=extra)
    return Fitted(novelty, looked, Ordinary(seen.subset(plain), looked.vectors[plain], alone))


def reasons(
    fitted: Fitted, seen: ExtractedFeatures, chosen: Sequence[int], describer: FeatureExtractor, *, max_pixels: int
) -> list[Explanation]:
    """Why each of the chosen images is unusual."""
    ordinary = fitted.ordinary

    def pixels(path: Path) -> Pixels:
        return images.read_file(path, describer.contract, max_pixels=max_pixels)

    def strengths(some: Pixels) -> Floats:
        parts = [some[at : at + describer.batch] for at in range(0, len(some), describer.batch)]
        return ordinary.novelty.look(np.concatenate([describer.says(part) for part in parts])).strength

    found = []
    with Bar("explaining", len(chosen)) as bar:
        near = ReferencePoints(ordinary.vectors).nearest(fitted.looked.vectors[list(chosen)]).places
        for image, places in zip(chosen, near.tolist(), strict=True):
            others = [place for place in places if ordinary.seen.sha256[place] != seen.sha256[image]]
            neighbours = [ordinary.seen.items[place].path for place in others[:NEIGHBOURS]]
            try:
                heat = (
                    occlusion.occlusion_map(pixels(seen.items[image].path), pixels(neighbours[0]), strengths)
                    if neighbours
                    else None
                )
            except ImageError:  # it was there when it was described
                heat = None
            found.append(Explanation(image, neighbours, heat))
            bar.step()
    return found
