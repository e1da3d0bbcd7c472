"""Novelty: an ensemble of detectors fitted on training images, from feature matrix to novelty, strength and flags."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import serialisation
from astrodetect.anomalies.conformal import SEED, StrengthCalibration, TailScore, assign_folds
from astrodetect.anomalies.detectors.base import Detector, DetectorInput, ReferencePoints, tukey_fence
from astrodetect.anomalies.detectors.registry import (
    DETECTORS,
    FITTABLE_DETECTORS,
    RANKING_WEIGHTS,
    available_detectors,
    default_detectors,
    ranking_detectors,
)
from astrodetect.anomalies.detectors.views import AsymmetryView, ColourView, are_grey
from astrodetect.anomalies.novelty_result import NoveltyResult
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

# Of the central object, the cutout, the asymmetry and network features; together at most 64.
BLOCK_DIMENSIONS: Mapping[FeatureKind, tuple[int, ...]] = {
    "shapes": (20, 40, 4),
    "network": (40,),
    "both": (16, 20, 4, 24),
}
MIN_IMAGES = 10
BATCH_SIZE = 4_096  # images scored at a time
MAX_REFERENCE_IMAGES = 20_000  # a random sample of a larger training set
FORMAT = 1
LIMIT, CALIBRATION, DOMAIN = "domain.limit", "calibration.scores", "calibration.domain"  # their names in the file


def feature_blocks(kind: FeatureKind, width: int) -> list[FeatureBlock]:
    """The blocks of a feature matrix of this width."""
    measured = () if kind == "network" else MEASURED_WIDTHS
    network = () if kind == "shapes" else (width - sum(measured),)
    return [FeatureBlock(*block) for block in zip((*measured, *network), BLOCK_DIMENSIONS[kind], strict=True)]


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
        self.limit: float | None = None  # −log10 of the p-value beyond which an image is out of domain
        self.names = tuple(detector.name for detector in detectors)
        self._space, self._reference, self._detectors = space, reference, tuple(detectors)
        self._training_scores = training_scores
        self._limits = {
            detector.name: tukey_fence(training_scores[detector.name]) if detector.limit is None else detector.limit
            for detector in detectors
        }
        self.ranking = ranking_detectors(self.names)
        self._set_tail_scores()
        # By leave-one-out scores until `calibrated`; None where the strength is the statistic.
        self._calibration: StrengthCalibration | None = StrengthCalibration.fit(self._training_statistics)
        self._domain: StrengthCalibration | None = None  # None: the strength decides on the domain
        self._training_set: tuple[Floats, NDArray[np.int64]] | None = None  # features and reference rows, after `fit`

    def _set_tail_scores(self, **options: float) -> None:
        scores = self._training_scores
        self._tail_scores = {name: TailScore.fit(scores[name], **options) for name in self.ranking}
        self._training_statistics = np.sort(self._statistic(scores))

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
        import scipy.linalg  # noqa: F401, PLC0415 - loads its BLAS, or the limit of threads below would not hold for it
        from threadpoolctl import threadpool_limits  # noqa: PLC0415 - scoring starts without it

        if len(features) < MIN_IMAGES:
            raise DataError(f"{len(features)} images are too few to fit detectors: give {MIN_IMAGES} or more")
        names = default_detectors(feature_kind) if names is None else list(names)
        available = available_detectors(feature_kind)
        if not names and not extra:
            raise DataError(f"no detectors are given: choose among {', '.join(available)}")
        if unknown := sorted({*names} - {*available}):
            whose = f" of {feature_kind} features" if unknown[0] in FITTABLE_DETECTORS else ""
            raise DataError(f"no detector{whose} is named {unknown[0]}: choose among {', '.join(available)}")
        rows = np.arange(len(features))
        if len(features) > MAX_REFERENCE_IMAGES:
            rows = np.sort(np.random.default_rng(SEED).choice(rows, MAX_REFERENCE_IMAGES, replace=False))
        sample = features[rows]
        if feature_kind == "shapes" and ColourView.name in names and len({*names}) > 1 and are_grey(sample):
            names = [name for name in names if name != ColourView.name]
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
        """The same detectors with a limit of the domain; see `domain.calibrate_domain`."""
        limited = copy.copy(self)
        limited.limit = limit
        return limited

    def calibrated(self) -> Self:
        """The same detectors with a strength by held-out images, each scored by detectors that have not seen it.

        Not available after `load`.
        """
        statistics, domain_statistics = self._held_out_statistics()
        calibrated = self.calibrated_by(statistics)
        calibrated._domain = StrengthCalibration.fit(domain_statistics)
        return calibrated

    def calibrated_by(self, statistics: Floats) -> Self:
        """The same detectors with a strength by these statistics."""
        calibrated = copy.copy(self)
        calibrated._calibration = StrengthCalibration.fit(statistics)
        return calibrated

    def for_scoring(self) -> Self:
        """The same detectors without the training set: what the nodes of a cluster get."""
        copied = copy.copy(self)
        copied._training_set = None
        return copied

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
        """The novelty of the training images, each left out of its own neighbourhood; not available after `load`.

        Their strength is by their own scores.
        """
        features, rows = self._require_training_set()
        others = np.setdiff1d(np.arange(len(features)), rows)
        other_results = self.score(features[others])
        order = np.argsort(np.concatenate([rows, others]))
        scores = {
            name: np.concatenate([self._training_scores[name], other_results.scores[name]])[order]
            for name in self.names
        }
        result = self._result(np.concatenate([self._reference.points, other_results.vectors])[order], scores)
        return result.calibrated(StrengthCalibration.fit(result.statistic))

    def _held_out_statistics(self) -> tuple[Floats, Floats]:
        """Both statistics of each reference image, by detectors of the other folds."""
        features, rows = self._require_training_set()
        features = features[rows]
        fold_of = assign_folds(len(rows))
        if int((fold_of != 0).sum()) < MIN_IMAGES:  # too few: leave-one-out scores
            return self._training_statistics, self._domain_statistic(self._weighted_tail_scores(self._training_scores))
        names = [name for name in self.ranking if name in FITTABLE_DETECTORS]
        extra = [detector for detector in self._detectors if detector.name in {*self.ranking} - {*names}]
        held_out = []
        for fold in np.unique(fold_of):
            others = Novelty.fit(features[fold_of != fold], feature_kind=self.feature_kind, names=names, extra=extra)
            held_out.append(others.score(features[fold_of == fold]))
        # Not their vectors: few images may give each fold a space of another width.
        statistic = np.concatenate([result.statistic for result in held_out])
        return statistic, np.concatenate([result.domain_statistic for result in held_out])

    def _require_training_set(self) -> tuple[Floats, NDArray[np.int64]]:
        if self._training_set is None:
            raise RuntimeError("training images are known after `fit` only")
        return self._training_set

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
        if self._calibration is not None:
            arrays[CALIBRATION] = self._calibration.held_out
        if self._domain is not None:
            arrays[DOMAIN] = self._domain.held_out
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
        if CALIBRATION in stored:
            loaded._calibration = StrengthCalibration.fit(stored.floats(CALIBRATION, None))
        else:  # earlier versions ranked by the statistic itself, and had a limit of it
            loaded._calibration = None
            loaded._set_tail_scores(ranked_share=1.0)
        if DOMAIN in stored:  # in earlier versions the strength decided on the domain
            loaded._domain = StrengthCalibration.fit(stored.floats(DOMAIN, None))
        return loaded.with_limit(stored.scalar(LIMIT)) if LIMIT in stored else loaded  # earlier versions wrote none

    def _score_batch(self, features: Floats) -> NoveltyResult:
        vectors = self._space.transform(features)
        images = DetectorInput(features, vectors, self._reference, self._space.block_dimensions)
        return self._result(vectors, {detector.name: detector.score(images) for detector in self._detectors})

    def _weighted_tail_scores(self, scores: Mapping[str, Floats]) -> NDArray[np.float64]:
        """(ranking detectors, n) whose sum is the statistic."""
        weights = np.array([RANKING_WEIGHTS.get(name, 1.0) for name in self.ranking])
        tail_scores = np.stack([self._tail_scores[name].transform(scores[name]) for name in self.ranking])
        return np.asarray(tail_scores * (weights / weights.sum())[:, np.newaxis])

    def _statistic(self, scores: Mapping[str, Floats]) -> Floats:
        return np.asarray(self._weighted_tail_scores(scores).sum(axis=0), np.float32)

    def _domain_statistic(self, weighted: NDArray[np.float64]) -> Floats:
        """The statistic without the asymmetry, by which a smooth image is ordinary however foreign it is."""
        views = [name != AsymmetryView.name or len(self.ranking) == 1 for name in self.ranking]
        return np.asarray(weighted[views].sum(axis=0), np.float32)

    def _result(self, vectors: Floats, scores: Mapping[str, Floats]) -> NoveltyResult:
        tail_scores = self._weighted_tail_scores(scores)
        statistic = np.asarray(tail_scores.sum(axis=0), np.float32)
        leading = np.array([self.names.index(name) for name in self.ranking], np.int8)[tail_scores.argmax(axis=0)]
        strength = statistic if self._calibration is None else self._calibration.transform(statistic)
        novelty = np.searchsorted(self._training_statistics, statistic) / np.float32(self.images)
        flagged = {name: values > self._limits[name] for name, values in scores.items()}
        domain_statistic = self._domain_statistic(tail_scores)
        domain = strength if self._domain is None else self._domain.transform(domain_statistic)
        in_domain = None if self.limit is None else domain <= self.limit
        return NoveltyResult(
            novelty.astype(np.float32),
            strength,
            statistic,
            domain_statistic,
            vectors,
            scores,
            flagged,
            leading,
            in_domain,
        )
