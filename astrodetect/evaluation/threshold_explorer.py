"""What other thresholds would do: everything that the page needs to count for itself."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.reports.svg_charts import score_histogram

STEPS = 1000  # of the threshold, from 0 to 1
BARS = 40  # of the histogram


@dataclass(frozen=True, slots=True)
class ThresholdExplorer:
    """`positives[k]` images of the positive class score above (k - 1) / STEPS and not above k / STEPS."""

    threshold: float
    positives: list[int]
    negatives: list[int]
    hits: int  # above the model's own threshold
    false_alarms: int
    figure: Markup

    @property
    def misses(self) -> int:
        """Positive images that are not above it."""
        return sum(self.positives) - self.hits

    @property
    def passed(self) -> int:
        """Other images that are not above it."""
        return sum(self.negatives) - self.false_alarms


def explore_thresholds(evidence: EvaluationInputs) -> ThresholdExplorer | None:
    """Of a model with a threshold."""
    model, part = evidence.model, evidence.shown
    if model.task != "binary":
        return None
    scores = part.outputs.probabilities[:, 1].astype(np.float64)
    by_class = [scores[part.truth == number] for number in (1, 0)]
    positives, negatives = (
        np.bincount(np.ceil(own * STEPS).astype(int).clip(0, STEPS), minlength=STEPS + 1) for own in by_class
    )
    above, below = (np.histogram(own, BARS, (0, 1))[0].astype(np.float64) for own in by_class)
    names = (model.classes[1], model.classes[0])
    said = f"Histogram of scores: {names[0]} upwards, {names[1]} downwards, the threshold as a line"
    return ThresholdExplorer(
        threshold=model.threshold,
        positives=positives.tolist(),
        negatives=negatives.tolist(),
        hits=int((by_class[0] > model.threshold).sum()),
        false_alarms=int((by_class[1] > model.threshold).sum()),
        figure=score_histogram(said, (above, below), names, model.threshold),
    )
