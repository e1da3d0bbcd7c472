"""How unusual an image is among those learnt from, by several detectors at once, from what one pass says of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import consensus, serialisation
from astrodetect.anomalies.consensus import TailScore
from astrodetect.anomalies.detectors.autoencoder import Autoencoder
from astrodetect.anomalies.detectors.base import Detector, DetectorInput, FittableDetector, tukey_fence
from astrodetect.anomalies.detectors.dbscan import Dbscan
from astrodetect.anomalies.detectors.isolation_forest import IsolationForest
from astrodetect.anomalies.detectors.kmeans import KMeans
from astrodetect.anomalies.detectors.knn import Knn
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.mahalanobis import Mahalanobis
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.anomalies.whitening import FeatureBlock, WhitenedSpace
from astrodetect.errors import DataError, ModelError
from astrodetect.features.feature_matrix import MEASURED_WIDTHS, FeatureKind, feature_matrix
from astrodetect.records import Floats

LEARNERS: Mapping[str, type[FittableDetector]] = {
    kind.name: kind for kind in (Lof, Knn, Mahalanobis, IsolationForest, KMeans, Dbscan)
}
KINDS: Mapping[str, type[Detector]] = {**LEARNERS, Autoencoder.name: Autoencoder}
DEFAULT = ("lof", "knn", "mahalanobis")
RANKING = ("lof",)  # whose surprises are averaged: alone the best, on simulated skies and on Galaxy Zoo
DIMENSIONS: Mapping[
    FeatureKind, tuple[int, ...]
] = {  # of the body, of all shapes, of the features: 64 at most are kept
    "shapes": (20, 40),
    "network": (40,),
    "both": (16, 24, 24),
}
MIN_IMAGES = 10
BATCH_SIZE = 4_096  # images looked at
MAX_REFERENCE_IMAGES = 20_000  # that detectors compare with: of more, this many drawn by lot
SEED = 0
FORMAT = 1


def feature_blocks(sight: FeatureKind, numbers: int) -> list[FeatureBlock]:
    """The kinds of numbers that `described` gives, `numbers` in all."""
    measured = {
        "shapes": MEASURED_WIDTHS,
        "both": MEASURED_WIDTHS,
        "network": (),
    }[sight]
    rest = [] if sight == "shapes" else [numbers - sum(measured)]
    return [FeatureBlock(*each) for each in zip([*measured, *rest], DIMENSIONS[sight], strict=True)]


@dataclass(frozen=True, slots=True)
class NoveltyResult:
    """How unusual images are, image by image along the first axis."""

    novelty: Floats  # 0 to 1: the share of the images learnt from that are less unusual
    strength: Floats  # what the default ranking sorts by, larger is more unusual; without bound
    vectors: Floats  # (n, dimensions) where they stand
    scores: Mapping[str, Floats]  # of each detector, larger is more unusual
    flagged: Mapping[str, NDArray[np.bool_]]  # by each detector: its score is beyond its threshold

    @property
    def agreement(self) -> Floats:
        """(n,) the share of the detectors that flag the image."""
        return consensus.agreement(self.flagged)

    @property
    def consensus(self) -> NDArray[np.bool_]:
        """(n,) whether all of them do."""
        return consensus.unanimous(self.flagged)

    def __getitem__(self, places: slice) -> "NoveltyResult":
        """Some of the images."""
        return NoveltyResult(
            self.novelty[places],
            self.strength[places],
            self.vectors[places],
            {name: scores[places] for name, scores in self.scores.items()},
            {name: flags[places] for name, flags in self.flagged.items()},
        )

    @staticmethod
    def joined(parts: Sequence["NoveltyResult"]) -> "NoveltyResult":
        """The images of all parts, in their order."""
        return NoveltyResult(
            np.concatenate([part.novelty for part in parts]),
            np.concatenate([part.strength for part in parts]),
            np.concatenate([part.vectors for part in parts]),
            {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
            {name: np.concatenate([part.flagged[name] for part in parts]) for name in parts[0].flagged},
        )


class Novelty:
    """Fitted detectors and the space that they see; immutable, for any number of threads."""

    def __init__(
        self,
        sight: FeatureKind,
        space: WhitenedSpace,
        reference: ReferencePoints,
        detectors: Sequence[Detector],
        learnt: Mapping[str, Floats],
    ) -> None:
        self.sight = sight
        self.names = tuple(detector.name for detector in detectors)
        self._space, self._reference, self._detectors, self._learnt = space, reference, tuple(detectors), learnt
        self._limits = {
            detector.name: tukey_fence(learnt[detector.name]) if detector.limit is None else detector.limit
            for detector in detectors
        }
        ranking = [name for name in RANKING if name in learnt] or self.names
        self._surprises = {name: TailScore.fit(learnt[name]) for name in ranking}
        self._strengths = np.sort(self._strength(learnt))
        self._fitted_on: tuple[Floats, NDArray[np.int64]] | None = None

    @property
    def images(self) -> int:
        """How many images it compares with."""
        return len(self._reference)

    @classmethod
    def fit(
        cls,
        described: Floats,
        *,
        sight: FeatureKind = "network",
        names: Sequence[str] = DEFAULT,
        extra: Sequence[Detector] = (),
    ) -> Self:
        """From images, described one a row; `extra` are detectors that were fitted on the same elsewhere."""
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - what only scores starts without it

        if len(described) < MIN_IMAGES:
            raise DataError(
                f"{len(described)} images are too few to learn what is usual from: give {MIN_IMAGES} or more"
            )
        if unknown := sorted({*names} - {*LEARNERS}):
            raise DataError(f"no detector is called {unknown[0]}: choose among {', '.join(LEARNERS)}")
        drawn = np.arange(len(described))
        if len(described) > MAX_REFERENCE_IMAGES:
            drawn = np.sort(np.random.default_rng(SEED).choice(drawn, MAX_REFERENCE_IMAGES, replace=False))
        learnt = described[drawn]
        with threadpool_limits(1):  # threads that wait for each other cost k-means many times as much
            space = WhitenedSpace.fit(learnt, feature_blocks(sight, learnt.shape[1]))
            reference = ReferencePoints(space.of(learnt))
            seen = DetectorInput(learnt, reference.points, reference, learnt=True)
            detectors = [*(LEARNERS[name].fit(seen) for name in dict.fromkeys(names)), *extra]
        fitted = cls(sight, space, reference, detectors, {each.name: each.score(seen) for each in detectors})
        fitted._fitted_on = described, drawn
        return fitted

    def look(self, described: Floats) -> NoveltyResult:
        """How unusual new images are, each by itself."""
        if described.shape[1] != self._space.width:
            raise ModelError(
                f"the detectors of this model know images by {self._space.width} numbers, not "
                f"{described.shape[1]}: {serialisation.REMEDY}"
            )
        starts = range(0, max(1, len(described)), BATCH_SIZE)
        return NoveltyResult.joined([self._look(described[at : at + BATCH_SIZE]) for at in starts])

    def look_at(self, pixels: NDArray[np.uint8], crop: float, features: Floats) -> NoveltyResult:
        """How unusual images are whose pixels show the central `crop`, and whose features are these."""
        return self.look(feature_matrix(self.sight, pixels, crop, features))

    def look_at_learnt(self) -> NoveltyResult:
        """Of the images that it was fitted on, each as if it had not been there; not after `load`."""
        if self._fitted_on is None:
            raise RuntimeError("only what was just fitted knows its images")
        described, drawn = self._fitted_on
        rest = np.setdiff1d(np.arange(len(described)), drawn)
        looked = self.look(described[rest])
        back = np.argsort(np.concatenate([drawn, rest]))
        scores = {name: np.concatenate([self._learnt[name], looked.scores[name]])[back] for name in self.names}
        return self._looked(np.concatenate([self._reference.points, looked.vectors])[back], scores)

    def save(self, path: Path) -> None:
        """As .npz; the same detectors give the same bytes."""
        parts = {
            "space": self._space,
            "reference": self._reference,
            **{f"detector.{each.name}": each for each in self._detectors},
            **{f"learnt.{name}": scores for name, scores in self._learnt.items()},
        }
        found: serialisation.Arrays = {}
        for name, part in parts.items():
            found |= serialisation.flatten(part, name)
        serialisation.write_arrays(path, {"format": FORMAT, "sight": self.sight, "detectors": self.names}, found)

    @classmethod
    def load(cls, data: bytes) -> Self:
        """From the bytes of what `save` made; anything else is a ModelError."""
        stored = StoredArrays.read(data)
        said = stored.said
        if said.get("format") != FORMAT:
            raise serialisation.unusable_error("they are of another version of this program")
        names: Any = said.get("detectors")
        sight: Any = said.get("sight")
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name in KINDS for name in names)
        ):
            raise serialisation.unusable_error("they are none that this program knows")
        if sight not in get_args(FeatureKind):
            raise serialisation.unusable_error("it does not say what they look at")
        space = WhitenedSpace.read(stored.part("space"))
        reference = ReferencePoints.read(stored.part("reference"), space.dimensions)
        detectors = [KINDS[name].read(stored.part("detector").part(name), reference) for name in names]
        learnt = {name: stored.floats(f"learnt.{name}", len(reference)) for name in names}
        return cls(sight, space, reference, detectors, learnt)

    def _look(self, described: Floats) -> NoveltyResult:
        vectors = self._space.of(described)
        seen = DetectorInput(described, vectors, self._reference)
        return self._looked(vectors, {each.name: each.score(seen) for each in self._detectors})

    def _strength(self, scores: Mapping[str, Floats]) -> Floats:
        each = [surprise.of(scores[name]) for name, surprise in self._surprises.items()]
        return np.asarray(np.mean(each, axis=0), np.float32)

    def _looked(self, vectors: Floats, scores: Mapping[str, Floats]) -> NoveltyResult:
        strength = self._strength(scores)
        less = np.searchsorted(self._strengths, strength) / np.float32(self.images)
        flagged = {name: each > self._limits[name] for name, each in scores.items()}
        return NoveltyResult(less.astype(np.float32), strength, vectors, scores, flagged)
