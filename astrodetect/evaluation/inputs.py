"""The inputs of an evaluation: a model, labelled images, and the model's outputs for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from astrodetect.evaluation import metrics
from astrodetect.evaluation.metrics import Integers
from astrodetect.records import Floats, ImageContract, Outputs


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """What the manifest says of the model."""

    name: str
    version: str
    task: Literal["binary", "classes"]
    recipe: str
    classes: Sequence[str]
    threshold: float  # of a binary model
    temperature: float
    precision: str  # numeric precision of inference
    image: ImageContract
    created: str
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]

    def predict(self, probabilities: Floats) -> Integers:
        """The predicted class of each image."""
        return metrics.predict_classes(probabilities, self.threshold if self.task == "binary" else None)


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """Labelled images of one part of a data set, and the model's outputs for them."""

    title: str
    paths: Sequence[Path]
    truth: Integers
    fingerprint: str
    outputs: Outputs
    skipped: int = 0  # unreadable files


@dataclass(frozen=True, slots=True)
class TrainingFeatures:
    """Network features of training images, which unusual images are compared with."""

    truth: Integers
    features: Floats


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """Everything a report is made from; the last part is shown in detail."""

    model: EvaluatedModel
    parts: Sequence[EvaluatedPart]
    training: TrainingFeatures | None = None
    views: int = 1  # flips and rotations that the outputs are averaged over
    one_view: Floats | None = None  # the last part's probabilities without averaging
    remarks: Sequence[str] = ()  # on the data: duplicates, leaks

    @property
    def detailed(self) -> EvaluatedPart:
        """The part shown in detail."""
        return self.parts[-1]
