"""Novelty: an ensemble of detectors fitted on training images, from feature matrix to novelty, strength and flags."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import serialisation
from astrodetect.anomalies.detectors.base import Detector, DetectorInput, ReferencePoints, tukey_fence
from astrodetect.anomalies.detectors.registry import (
    DETECTORS,
    FITTABLE_DETECTORS,
    RANKING_WEIGHTS,
    available_detectors,
    default_detectors,
    ranking_detectors,
)
from astrodetect.anomalies.serialisation import StoredArrays
from astrodetect.anomalies.whitening import FeatureBlock, WhitenedSpace
from astrodetect.errors import DataError, ModelError
from astrodetect.features.central_object import (
    ASYMMETRY_FEATURES,
    MEASURED_WIDTHS,
    FeatureKind,
    as_earlier_features,
    feature_matrix,
)
from astrodetect.records import Floats

TAIL_SHARE = 0.1  # the share of the largest scores that the exponential tail is fitted to
MIN_MEAN_EXCESS_SHARE = 1e-3  # of the largest score, for a tail of equal scores

Flags = Mapping[str, NDArray[np.bool_]]


def unanimous(flagged: Flags) -> NDArray[np.bool_]:
    """(n,) whether all detectors flag the image."""
    return np.asarray(np.all(list(flagged.values()), axis=0))


def agreement(flagged: Flags) -> Floats:
    """(n,) the share of the detectors that flag the image."""
    return np.asarray(np.mean(list(flagged.values()), axis=0, dtype=np.float32))


def ranks(scores: Floats) -> NDArray[np.int64]:
    """(n,) 1 for the most unusual image; ties in their order."""
    positions = np.empty(len(scores), np.int64)
    positions[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return positions


def average_rank(scores: Mapping[str, Floats]) -> Floats:
    """(n,) the mean of the detectors' ranks; small is unusual."""
    return np.asarray(np.mean([ranks(detector) for detector in scores.values()], axis=0, dtype=np.float32))


def jaccard_indices(flagged: Flags) -> dict[tuple[str, str], float]:
    """The Jaccard index of the images that each pair of detectors flags; 1 where neither flags any."""
    return {(a, b): _jaccard_index(flagged[a], flagged[b]) for a, b in combinations(flagged, 2)}


def _jaccard_index(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 1.0


@dataclass(frozen=True, slots=True)
class TailScore:
    """−log10 of the empirical tail probability; beyond the largest training score, of an exponential tail."""

    scores: NDArray[np.float64]  # distinct, ascending
    tail_scores: NDArray[np.float64]
    slope: float  # per unit of score, beyond the largest

    @classmethod
    def fit(cls, training_scores: Floats) -> Self:
        """Fit to the scores of the training images."""
        ordered = np.sort(training_scores.astype(np.float64))
        scores, first, count = np.unique(ordered, return_index=True, return_counts=True)
        tail_probability = (len(ordered) - first - count / 2) / len(ordered)  # ties count half
        tail = ordered[-max(2, round(TAIL_SHARE * len(ordered))) :]
        mean_excess = max(float((tail - tail[0]).mean()), MIN_MEAN_EXCESS_SHARE * (abs(float(ordered[-1])) or 1.0))
        return cls(scores, -np.log10(tail_probability), float(np.log10(np.e)) / mean_excess)

    def transform(self, scores: Floats) -> NDArray[np.float64]:
        """The tail score of each score; monotonic and unbounded."""
        excess = np.maximum(scores.astype(np.float64) - self.scores[-1], 0)
        return np.asarray(np.interp(scores, self.scores, self.tail_scores) + self.slope * excess)

    def inverse(self, tail_score: float) -> float:
        """The score with this tail score."""
        excess = max(tail_score - float(self.tail_scores[-1]), 0.0)
        return float(np.interp(tail_score, self.tail_scores, self.scores)) + excess / self.slope


# Of the central object, the cutout, the asymmetry and network features; together at most 64.
BLOCK_DIMENSIONS: Mapping[FeatureKind, tuple[int, ...]] = {
    "shapes": (20, 40, 4),
    "network": (40,),
    "both": (16, 20, 4, 24),
}
MIN_IMAGES = 10
BATCH_SIZE = 4_096  # images scored at a time
MAX_REFERENCE_IMAGES = 20_000  # a random sample of a larger training set
SEED = 0
FORMAT = 1
LIMIT = "domain.limit"  # its name in the file


def feature_blocks(kind: FeatureKind, width: int) -> list[FeatureBlock]:
    """The blocks of a feature matrix of this width."""
    measured = () if kind == "network" else MEASURED_WIDTHS
    network = () if kind == "shapes" else (width - sum(measured),)
    return [FeatureBlock(*block) for block in zip((*measured, *network), BLOCK_DIMENSIONS[kind], strict=True)]


@dataclass(frozen=True, slots=True)
class NoveltyResult:
    """The novelty of a batch of images, along the first axis."""

    novelty: Floats  # 0 to 1: the share of the training images that are less unusual
    strength: Floats  # what the ranking sorts by: the mean tail score; unbounded
    vectors: Floats  # (n, dimensions) whitened features
    scores: Mapping[str, Floats]  # by detector; larger is more unusual
    flagged: Mapping[str, NDArray[np.bool_]]  # by detector: the score is above its limit
    leading: NDArray[np.int8]  # index in `scores` of the ranking detector that contributes the most to the strength
    in_domain: NDArray[np.bool_] | None = None  # None of detectors without a limit for it
    features: Floats | None = None  # (n, width) measured features, where the detectors get these alone

    def view(self, image: int) -> str:
        """The name of the ranking detector that finds the image the most unusual."""
        return list(self.scores)[int(self.leading[image])]

    @property
    def agreement(self) -> Floats:
        """(n,) the share of the detectors that flag the image."""
        return agreement(self.flagged)

    @property
    def consensus(self) -> NDArray[np.bool_]:
        """(n,) whether all detectors flag the image."""
        return unanimous(self.flagged)

    def __getitem__(self, images: slice) -> "NoveltyResult":
        """A slice of the batch."""
        return NoveltyResult(
            self.novelty[images],
            self.strength[images],
            self.vectors[images],
            {name: scores[images] for name, scores in self.scores.items()},
            {name: flags[images] for name, flags in self.flagged.items()},
            self.leading[images],
            None if self.in_domain is None else self.in_domain[images],
            None if self.features is None else self.features[images],
        )

    @staticmethod
    def concatenate(parts: Sequence["NoveltyResult"]) -> "NoveltyResult":
        """Concatenate batches in their order."""
        return NoveltyResult(
            np.concatenate([part.novelty for part in parts]),
            np.concatenate([part.strength for part in parts]),
            np.concatenate([part.vectors for part in parts]),
            {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
            {name: np.concatenate([part.flagged[name] for part in parts]) for name in parts[0].flagged},
            np.concatenate([part.leading for part in parts]),
            None if parts[0].in_domain is None else np.concatenate([part.in_domain for part in parts]),
        )


class Novelty:
    """Fitted detectors and their whitened space; immutable and thread-safe."""

    def __init__(
        self,
        feature_kind: FeatureKind,
        space: WhitenedSpace,
        reference: ReferencePoints,
        detectors: Sequence[Detector],
        training_scores: Mapping[str, Floats],
    ) -> None:
        self.feature_kind = feature_kind
        self.limit: float | None = None  # of the strength: beyond it an image is out of domain
        self.names = tuple(detector.name for detector in detectors)
        self._space, self._reference, self._detectors = space, reference, tuple(detectors)
        self._training_scores = training_scores
        self._limits = {
            detector.name: tukey_fence(training_scores[detector.name]) if detector.limit is None else detector.limit
            for detector in detectors
        }
        self.ranking = ranking_detectors(self.names)
        self._tail_scores = {name: TailScore.fit(training_scores[name]) for name in self.ranking}
        self._training_strengths = np.sort(self._strength(training_scores))
        self._training_set: tuple[Floats, NDArray[np.int64]] | None = None  # features and reference rows, after `fit`

    @property
    def images(self) -> int:
        """The number of reference images."""
        return len(self._reference)

    @property
    def block_dimensions(self) -> tuple[int, ...]:
        """The number of dimensions of each block of the whitened space."""
        return self._space.block_dimensions

    @classmethod
    def fit(
        cls,
        features: Floats,
        *,
        feature_kind: FeatureKind = "network",
        names: Sequence[str] | None = None,
        extra: Sequence[Detector] = (),
    ) -> Self:
        """Fit the named or the default detectors to a feature matrix.

        `extra` detectors were already fitted to the same images.
        """
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - scoring starts without it

        if len(features) < MIN_IMAGES:
            raise DataError(f"{len(features)} images are too few to fit detectors: give {MIN_IMAGES} or more")
        names = default_detectors(feature_kind) if names is None else names
        available = available_detectors(feature_kind)
        if unknown := sorted({*names} - {*available}):
            whose = f" of {feature_kind} features" if unknown[0] in FITTABLE_DETECTORS else ""
            raise DataError(f"no detector{whose} is named {unknown[0]}: choose among {', '.join(available)}")
        rows = np.arange(len(features))
        if len(features) > MAX_REFERENCE_IMAGES:
            rows = np.sort(np.random.default_rng(SEED).choice(rows, MAX_REFERENCE_IMAGES, replace=False))
        sample = features[rows]
        with threadpool_limits(1):  # contending threads make k-means many times slower
            space = WhitenedSpace.fit(sample, feature_blocks(feature_kind, sample.shape[1]))
            reference = ReferencePoints(space.transform(sample))
            images = DetectorInput(sample, reference.points, reference, space.block_dimensions, leave_one_out=True)
            detectors = [*(FITTABLE_DETECTORS[name].fit(images) for name in dict.fromkeys(names)), *extra]
        training_scores = {detector.name: detector.score(images) for detector in detectors}
        fitted = cls(feature_kind, space, reference, detectors, training_scores)
        fitted._training_set = features, rows
        return fitted

    def with_limit(self, limit: float) -> Self:
        """The same detectors with a limit of the strength; see `domain.calibrate_domain`."""
        limited = copy.copy(self)
        limited.limit, limited._training_set = limit, self._training_set
        return limited

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled for the nodes of a cluster: enough to score images."""
        return {**self.__dict__, "_training_set": None}

    def score(self, features: Floats) -> NoveltyResult:
        """The novelty of new images from their feature matrix; batch composition does not change it."""
        if self.feature_kind != "network" and features.shape[1] == self._space.width + ASYMMETRY_FEATURES:
            features = as_earlier_features(features)
        if features.shape[1] != self._space.width:
            raise ModelError(
                f"the detectors of this model expect {self._space.width} features per image, not "
                f"{features.shape[1]}: {serialisation.REMEDY}"
            )
        starts = range(0, max(1, len(features)), BATCH_SIZE)
        return NoveltyResult.concatenate([self._score_batch(features[at : at + BATCH_SIZE]) for at in starts])

    def score_images(self, pixels: NDArray[np.uint8], crop: float, network_features: Floats) -> NoveltyResult:
        """The novelty of images whose pixels show the central `crop` of the frame."""
        features = feature_matrix(self.feature_kind, pixels, crop, network_features)
        result = self.score(features)
        return replace(result, features=features) if self.feature_kind == "shapes" else result

    def score_training_images(self) -> NoveltyResult:
        """The novelty of the training images, each left out of its own neighbourhood; not available after `load`."""
        if self._training_set is None:
            raise RuntimeError("training images are known after `fit` only")
        features, rows = self._training_set
        others = np.setdiff1d(np.arange(len(features)), rows)
        other_results = self.score(features[others])
        order = np.argsort(np.concatenate([rows, others]))
        scores = {
            name: np.concatenate([self._training_scores[name], other_results.scores[name]])[order]
            for name in self.names
        }
        return self._result(np.concatenate([self._reference.points, other_results.vectors])[order], scores)

    def save(self, path: Path) -> None:
        """Write an .npz; equal detectors give equal bytes."""
        parts = {
            "space": self._space,
            "reference": self._reference,
            **{f"detector.{detector.name}": detector for detector in self._detectors},
            **{f"learnt.{name}": scores for name, scores in self._training_scores.items()},
        }
        arrays: serialisation.Arrays = {}
        for name, part in parts.items():
            arrays |= serialisation.flatten(part, name)
        if self.limit is not None:
            arrays[LIMIT] = np.asarray(self.limit, np.float64)
        metadata = {"format": FORMAT, "sight": self.feature_kind, "detectors": self.names}
        with path.open("wb") as file:
            serialisation.write_arrays(file, metadata, arrays)

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Load from the bytes of a saved file; anything else is a ModelError."""
        stored = StoredArrays.read(data)
        metadata = stored.metadata
        if metadata.get("format") != FORMAT:
            raise serialisation.unusable_error("their format is that of another version")
        names: Any = metadata.get("detectors")
        feature_kind: Any = metadata.get("sight")
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name in DETECTORS for name in names)
        ):
            raise serialisation.unusable_error("their names are unknown")
        if feature_kind not in get_args(FeatureKind):
            raise serialisation.unusable_error("their kind of features is unknown")
        space = WhitenedSpace.read(stored.section("space"))
        reference = ReferencePoints.read(stored.section("reference"), space.dimensions)
        detectors = [DETECTORS[name].read(stored.section("detector").section(name), reference) for name in names]
        training_scores = {name: stored.floats(f"learnt.{name}", len(reference)) for name in names}
        loaded = cls(feature_kind, space, reference, detectors, training_scores)
        return loaded.with_limit(stored.scalar(LIMIT)) if LIMIT in stored else loaded  # earlier versions wrote none

    def _score_batch(self, features: Floats) -> NoveltyResult:
        vectors = self._space.transform(features)
        images = DetectorInput(features, vectors, self._reference, self._space.block_dimensions)
        return self._result(vectors, {detector.name: detector.score(images) for detector in self._detectors})

    def _weighted_tail_scores(self, scores: Mapping[str, Floats]) -> NDArray[np.float64]:
        """(ranking detectors, n) whose sum is the strength."""
        weights = np.array([RANKING_WEIGHTS.get(name, 1.0) for name in self.ranking])
        tail_scores = np.stack([self._tail_scores[name].transform(scores[name]) for name in self.ranking])
        return np.asarray(tail_scores * (weights / weights.sum())[:, np.newaxis])

    def _strength(self, scores: Mapping[str, Floats]) -> Floats:
        return np.asarray(self._weighted_tail_scores(scores).sum(axis=0), np.float32)

    def _result(self, vectors: Floats, scores: Mapping[str, Floats]) -> NoveltyResult:
        tail_scores = self._weighted_tail_scores(scores)
        strength = np.asarray(tail_scores.sum(axis=0), np.float32)
        leading = np.array([self.names.index(name) for name in self.ranking], np.int8)[tail_scores.argmax(axis=0)]
        novelty = np.searchsorted(self._training_strengths, strength) / np.float32(self.images)
        flagged = {name: values > self._limits[name] for name, values in scores.items()}
        in_domain = None if self.limit is None else strength <= self.limit
        return NoveltyResult(novelty.astype(np.float32), strength, vectors, scores, flagged, leading, in_domain)
