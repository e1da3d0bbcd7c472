"""How much of an image is lost when its description is squeezed through a narrow place and drawn up again."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput
from astrodetect.anomalies.neighbours import ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays, unusable_error
from astrodetect.anomalies.whitening import Standardisation
from astrodetect.records import Floats

MOST_LAYERS = 20


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """The study's network as arrays: ReLU after every layer but the last; `learning/autoencoder.py` fits it."""

    name: ClassVar[str] = "autoencoder"
    limit: ClassVar[float | None] = None

    scaling: Standardisation  # it sees every number, standardised
    kernels: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    @classmethod
    def read(cls, stored: StoredArrays, _reference: ReferencePoints) -> Self:
        """As written."""
        scaling = Standardisation.read(stored.part("scaling"))
        width = scaling.width
        kernels: list[Floats] = []
        biases: list[Floats] = []
        while (layer := str(len(kernels))) in stored.part("kernels") and len(kernels) < MOST_LAYERS:
            kernels.append(stored.part("kernels").floats(layer, width, None))
            width = kernels[-1].shape[1]
            biases.append(stored.part("biases").floats(layer, width))
        if width != scaling.width or not kernels:
            raise unusable_error("its autoencoder gives back something else")
        return cls(scaling, tuple(kernels), tuple(biases))

    def score(self, seen: DetectorInput) -> Floats:
        """The mean squared difference between what went in and what comes out: the study's loss."""
        standard = self.scaling.of(seen.described)
        passed = standard
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            passed = np.maximum(passed @ kernel + bias, 0)
        lost = passed @ self.kernels[-1] + self.biases[-1] - standard
        return np.asarray((lost**2).mean(axis=1))
