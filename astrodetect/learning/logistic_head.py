"""A linear head on stored features: the best there is, found in seconds, the same every time.

The loss is convex, so L-BFGS finds its one minimum. How much the weights are held back is chosen on the validation
images: from much to little, until less no longer helps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax

from astrodetect.records import Floats, as_probabilities

STRENGTHS = tuple(10.0**-power for power in np.arange(0.0, 5.01, 0.5))  # of the pull to zero, per image
PATIENCE = 2  # strengths that do not help before it stops
STEPS = 100  # of L-BFGS for each strength, which starts from the one before
SMALLEST_SPREAD = 1e-6  # a feature that varies less says nothing


@dataclass(frozen=True, slots=True)
class LinearHead:
    """The weights of a dense layer on the features as they are."""

    kernel: Floats  # (features, answers)
    bias: Floats

    def probabilities(self, features: Floats) -> Floats:
        """(n, classes)"""
        logits = features @ self.kernel + self.bias
        return as_probabilities(expit(logits) if logits.shape[1] == 1 else softmax(logits, axis=1))


class RegularisationPath:
    """The heads from the strongest pull to the weakest, each found from the one before."""

    def __init__(self, features: Floats, answers: Floats, weights: Floats) -> None:
        self._mean = features.mean(axis=0)
        spread = features.std(axis=0)
        self._scale = np.where(spread > SMALLEST_SPREAD, 1 / np.maximum(spread, SMALLEST_SPREAD), 0).astype(np.float32)
        self._features = (features - self._mean) * self._scale
        self._answers, self._weights = answers, (weights / weights.sum())[:, np.newaxis]
        self._found = np.zeros((features.shape[1] + 1) * answers.shape[1])

    def head(self, strength: float) -> LinearHead:
        """The best head under this pull."""
        found = minimize(
            self._loss, self._found, args=(strength,), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}
        )
        self._found = found.x
        kernel, bias = self._parts(found.x)
        kernel = kernel * self._scale[:, np.newaxis]
        return LinearHead(kernel, (bias - self._mean @ kernel).astype(np.float32))

    def _parts(self, flat: NDArray[np.float64]) -> tuple[Floats, Floats]:
        both = flat.reshape(-1, self._answers.shape[1]).astype(np.float32)
        return both[:-1], both[-1]

    def _loss(self, flat: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        kernel, bias = self._parts(flat)
        logits = self._features @ kernel + bias
        if logits.shape[1] == 1:
            said = expit(logits)
            surprise = -(self._answers * log_expit(logits) + (1 - self._answers) * log_expit(-logits))
        else:
            said = softmax(logits, axis=1)
            surprise = -(self._answers * log_softmax(logits, axis=1)).sum(axis=1, keepdims=True)
        slope = (said - self._answers) * self._weights
        loss = float((surprise * self._weights).sum(dtype=np.float64)) + strength / 2 * float((kernel**2).sum())
        down = np.concatenate([self._features.T @ slope + strength * kernel, slope.sum(axis=0, keepdims=True)])
        return loss, down.astype(np.float64).ravel()
