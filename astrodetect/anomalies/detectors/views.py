"""The default ensemble: detectors of unlike views of an image, so that they disagree for a reason.

The central object, the cutout around it, the object's rotational asymmetry, and colours.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.serialisation import StoredArrays, unusable_error
from astrodetect.anomalies.whitening import PcaWhitening
from astrodetect.features.central_object import MEASURED_WIDTHS
from astrodetect.features.cutout import PROFILE_COLUMNS, RINGS
from astrodetect.records import Floats

DIMENSIONS = 20  # of the whitened object and cutout: 15 and 40 rank worse
COLOUR_DIMENSIONS = 10
FLUX_FLOOR = 0.03  # of full scale, added before a logarithm
# Of shape asymmetry, offset and compactness within two isophotes: a disturbed object has much of the first two only.
ASYMMETRY_SIGNS = np.array([1, 1, -1, 1, 1, -1], np.float64)
_STRUCTURE, _ASYMMETRY = (
    slice(sum(MEASURED_WIDTHS[:block]), sum(MEASURED_WIDTHS[: block + 1])) for block in (1, 2)
)  # columns of the features


@dataclass(frozen=True, slots=True)
class _BlockLof(Lof):
    """LOF in the first whitened dimensions of one block of measurements."""

    block: ClassVar[int]

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        lof = Lof.fit(images.block(cls.block, DIMENSIONS))
        return cls(lof.reach, lof.density)

    def score(self, images: DetectorInput) -> Floats:
        """The local outlier factor in this block."""
        return Lof(self.reach, self.density).score(images.block(self.block, DIMENSIONS))


class ObjectView(_BlockLof):
    """LOF of the central object's morphology and colours."""

    __slots__ = ()
    name: ClassVar[str] = "object"
    block: ClassVar[int] = 0


class CutoutView(_BlockLof):
    """LOF of the structure of the whole cutout: profiles, azimuthal modes, edges."""

    __slots__ = ()
    name: ClassVar[str] = "cutout"
    block: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class AsymmetryView:
    """Sum of the z-scores by which an object is more disturbed than others: mergers, tidal tails, second nuclei."""

    name: ClassVar[str] = "asymmetry"
    limit: ClassVar[float | None] = None

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]  # sign / standard deviation

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        measured = np.nan_to_num(images.features[:, _ASYMMETRY].astype(np.float64))
        deviation = measured.std(axis=0)
        scale = np.divide(ASYMMETRY_SIGNS, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        return cls(measured.mean(axis=0), scale)

    @classmethod
    def read(cls, stored: StoredArrays, _reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        return cls(stored.doubles("mean", len(ASYMMETRY_SIGNS)), stored.doubles("scale", len(ASYMMETRY_SIGNS)))

    def score(self, images: DetectorInput) -> Floats:
        """The sum; negative for a symmetric object."""
        measured = np.nan_to_num(images.features[:, _ASYMMETRY].astype(np.float64))
        return np.asarray(((measured - self.mean) * self.scale).sum(axis=1), np.float32)


@dataclass(frozen=True, slots=True)
class ColourView:
    """LOF of the colours of concentric rings."""

    name: ClassVar[str] = "colours"
    limit: ClassVar[float | None] = None

    whitening: PcaWhitening
    reference: ReferencePoints
    lof: Lof

    @classmethod
    def fit(cls, images: DetectorInput) -> Self:
        """Fit to the training images."""
        colours = _ring_colours(images.features)
        whitening = PcaWhitening.fit(colours, COLOUR_DIMENSIONS)
        reference = ReferencePoints(whitening.transform(colours))
        return cls(whitening, reference, Lof.fit(images.within(reference.points, reference)))

    @classmethod
    def read(cls, stored: StoredArrays, reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        whitening = PcaWhitening.read(stored.section("whitening"))
        own = ReferencePoints.read(stored.section("reference"), int(whitening.axes.shape[1]))
        if whitening.scaling.width != 2 * RINGS or len(own) != len(reference):
            raise unusable_error("colours of another shape")
        return cls(whitening, own, Lof.read(stored.section("lof"), own))

    def score(self, images: DetectorInput) -> Floats:
        """The local outlier factor among the colours."""
        vectors = self.whitening.transform(_ring_colours(images.features))
        return self.lof.score(images.within(vectors, self.reference))


def are_grey(features: Floats) -> bool:
    """Whether no image has a colour, as those of one band, which ColourView cannot be fitted to."""
    return not _ring_colours(features).any()


def _ring_colours(features: Floats) -> Floats:
    """(n, 2 · RINGS) logarithms of the ratios of neighbouring bands in each ring."""
    profiles = features[:, _STRUCTURE][:, :PROFILE_COLUMNS].reshape(len(features), 3, RINGS)
    logs = np.log(np.maximum(profiles, 0) + np.float32(FLUX_FLOOR))
    return np.concatenate([logs[:, 0] - logs[:, 1], logs[:, 1] - logs[:, 2]], axis=1)
