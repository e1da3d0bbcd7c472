"""Autoencoder reconstruction error."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.serialisation import StoredArrays, unusable_error
from astrodetect.anomalies.whitening import Standardisation
from astrodetect.records import Floats

MAX_LAYERS = 20


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """The study's dense autoencoder as arrays: ReLU after every layer but the last; trained by `learning`."""

    name: ClassVar[str] = "autoencoder"
    limit: ClassVar[float | None] = None

    scaling: Standardisation  # its input is all features, standardised
    kernels: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    @classmethod
    def read(cls, stored: StoredArrays, _reference: ReferencePoints) -> Self:
        """Load from stored arrays."""
        scaling = Standardisation.read(stored.section("scaling"))
        width = scaling.width
        kernels: list[Floats] = []
        biases: list[Floats] = []
        while (layer := str(len(kernels))) in stored.section("kernels") and len(kernels) < MAX_LAYERS:
            kernels.append(stored.section("kernels").floats(layer, width, None))
            width = kernels[-1].shape[1]
            biases.append(stored.section("biases").floats(layer, width))
        if width != scaling.width or not kernels:
            raise unusable_error("the output of its autoencoder has another width than the input")
        return cls(scaling, tuple(kernels), tuple(biases))

    def score(self, images: DetectorInput) -> Floats:
        """The mean squared reconstruction error of the standardised features."""
        standardised = self.scaling.transform(images.features)
        activations = standardised
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            activations = np.maximum(activations @ kernel + bias, 0)
        error = activations @ self.kernels[-1] + self.biases[-1] - standardised
        return np.asarray((error**2).mean(axis=1))
