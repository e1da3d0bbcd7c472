"""Images to review: the most confident errors, the most unusual images, and probable label errors."""

from dataclasses import dataclass

import numpy as np

from astrodetect.evaluation.metrics import Integers, Reals
from astrodetect.evaluation.summary import EvaluationInputs
from astrodetect.records import Floats

NEIGHBOURS = 5
BLOCK = 512  # images whose similarities to all others are held at once


@dataclass(frozen=True, slots=True)
class NotableImage:
    """An image, by its index in its part, and why it is notable."""

    image: int
    remark: str


@dataclass(frozen=True, slots=True)
class NotableImages:
    """Images to review, the most notable first."""

    errors: list[NotableImage]
    unusual: list[NotableImage]
    mislabelled: list[NotableImage]


def find_notable_images(inputs: EvaluationInputs, limit: int) -> NotableImages:
    """At most `limit` images of each kind, of the part shown in detail."""
    model, part = inputs.model, inputs.detailed
    predicted, confidence = model.predict(part.outputs.probabilities), predicted_probabilities(inputs)
    wrong = np.flatnonzero(predicted != part.truth)
    errors = [
        NotableImage(int(i), _outcome(inputs, predicted, confidence, int(i)))
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
    ]
    training = inputs.training
    distances, neighbours = nearest_by_cosine(part.outputs.features, training.features if training else None)
    if not distances.size:
        return NotableImages(errors, [], [])
    mean_distances = distances.mean(axis=1)
    percentiles = np.searchsorted(np.sort(mean_distances), mean_distances) / len(mean_distances)
    unusual = [
        NotableImage(
            int(i), f"distance {mean_distances[i]:.3f}, larger than that of {percentiles[i]:.1%} of the images"
        )
        for i in np.argsort(-mean_distances, kind="stable")[:limit]
    ]
    neighbour_labels = (training.truth if training else part.truth)[neighbours]
    agreeing = (neighbour_labels == predicted[:, np.newaxis]).sum(axis=1)
    count = neighbours.shape[1]
    mislabelled = [
        NotableImage(
            int(i),
            f"{_outcome(inputs, predicted, confidence, int(i))}; "
            f"{agreeing[i]} of the {count} nearest images have that label",
        )
        for i in _label_errors(inputs, predicted, confidence, agreeing / count)[:limit]
    ]
    return NotableImages(errors, unusual, mislabelled)


def predicted_probabilities(inputs: EvaluationInputs) -> Floats:
    """The probability of each image's predicted class."""
    probabilities = inputs.detailed.outputs.probabilities
    confidence: Floats = probabilities[np.arange(len(probabilities)), inputs.model.predict(probabilities)]
    return confidence


def _outcome(inputs: EvaluationInputs, predicted: Integers, confidence: Floats, image: int) -> str:
    classes = inputs.model.classes
    label, prediction = classes[inputs.detailed.truth[image]], classes[predicted[image]]
    return f"labelled {label}, predicted {prediction} ({confidence[image]:.3f})"


def _label_errors(inputs: EvaluationInputs, predicted: Integers, confidence: Floats, agreement: Reals) -> Integers:
    """Confident learning: images predicted as another class as confidently as that class's own, like their neighbours.

    Sorted by confidence times the neighbours' agreement.
    """
    truth, probabilities = inputs.detailed.truth, inputs.detailed.outputs.probabilities
    class_confidence = np.array(
        [probabilities[truth == c, c].mean() if (truth == c).any() else 1 for c in range(probabilities.shape[1])]
    )
    suspects = np.flatnonzero((predicted != truth) & (confidence >= class_confidence[predicted]) & (agreement > 0.5))
    return suspects[np.argsort(-(confidence * agreement)[suspects], kind="stable")]


def nearest_by_cosine(features: Floats, reference: Floats | None) -> tuple[Floats, Integers]:
    """Distances and indices of the nearest neighbours among unit vectors; without a reference, among each other.

    The length of a feature vector tells brightness more than content.
    """
    own = _unit_vectors(features)
    others = own if reference is None else _unit_vectors(reference)
    count = min(NEIGHBOURS, len(others) - (reference is None))
    distances = np.empty((len(own), count), dtype=np.float32)
    neighbours = np.empty((len(own), count), dtype=np.int64)
    for start in range(0, len(own), BLOCK) if count else ():
        similarity = own[start : start + BLOCK] @ others.T
        rows = np.arange(len(similarity))
        if reference is None:
            similarity[rows, start + rows] = -np.inf  # exclude the image itself
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        neighbours[start + rows] = nearest
        cosine = np.take_along_axis(similarity, nearest, axis=1)
        distances[start + rows] = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    return distances, neighbours


def _unit_vectors(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.float32(1e-12)))
