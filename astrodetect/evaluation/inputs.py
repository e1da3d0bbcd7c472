"""What a report is made from: a model, labelled images, and what the model said of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from astrodetect.evaluation import metrics
from astrodetect.evaluation.metrics import Integers
from astrodetect.records import Floats, ImageContract, Outputs


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """The model as its manifest describes it."""

    name: str
    version: str
    task: Literal["binary", "classes"]
    recipe: str
    classes: Sequence[str]
    threshold: float  # of a binary model
    temperature: float
    precision: str  # of the arithmetic that the images were looked at with
    image: ImageContract
    created: str
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]

    def predict(self, probabilities: Floats) -> Integers:
        """The class that each image is taken for."""
        return metrics.predict_classes(probabilities, self.threshold if self.task == "binary" else None)


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """Labelled images of one part of the data, and the outputs for them."""

    title: str
    paths: Sequence[Path]
    truth: Integers
    fingerprint: str
    outputs: Outputs
    skipped: int = 0  # files beside them that are no usable images


@dataclass(frozen=True, slots=True)
class TrainingFeatures:
    """Images that the model has learnt from, to tell what is unlike them."""

    truth: Integers
    features: Floats


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Everything that the report is about; the last part is the one that it shows in detail."""

    model: EvaluatedModel
    parts: Sequence[EvaluatedPart]
    training: TrainingFeatures | None = None
    views: int = 1  # turns and mirrors of each image, that the outputs are the mean of
    one_view: Floats | None = None  # the last part's probabilities without them
    remarks: Sequence[str] = ()  # about the data: duplicates, leaks

    @property
    def detailed(self) -> EvaluatedPart:
        """The part that is shown in detail."""
        return self.parts[-1]
