"""Which images a person should look at, and why."""

from dataclasses import dataclass

import numpy as np

from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.evaluation.metrics import Integers, Reals
from astrodetect.records import Floats

NEIGHBOURS = 5
BLOCK = 512  # images whose distances to all others are held at once


@dataclass(frozen=True, slots=True)
class NotableImage:
    """An image, by its number in its part, and what is remarkable about it."""

    image: int
    remark: str


@dataclass(frozen=True, slots=True)
class NotableImages:
    """The images to look at, the most remarkable first."""

    errors: list[NotableImage]
    unusual: list[NotableImage]
    mislabelled: list[NotableImage]


def find_notable_images(evidence: EvaluationInputs, most: int) -> NotableImages:
    """At most so many of each kind, in the part that is shown."""
    model, part = evidence.model, evidence.detailed
    said, sure = model.predict(part.outputs.probabilities), predicted_probabilities(evidence)
    wrong = np.flatnonzero(said != part.truth)
    errors = [
        NotableImage(int(i), f"labelled {model.classes[part.truth[i]]}, said {model.classes[said[i]]} by {sure[i]:.3f}")
        for i in wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    ]
    learnt = evidence.training
    distances, neighbours = nearest_by_cosine(part.outputs.features, learnt.features if learnt else None)
    if not distances.size:
        return NotableImages(errors, [], [])
    far = distances.mean(axis=1)
    places = np.argsort(np.argsort(far)) / len(far)
    unusual = [
        NotableImage(int(i), f"distance {far[i]:.3f}, past {places[i]:.1%} of the images")
        for i in np.argsort(-far, kind="stable")[:most]
    ]
    agree = ((learnt.truth if learnt else part.truth)[neighbours] == said[:, np.newaxis]).sum(axis=1)
    count = neighbours.shape[1]
    mislabelled = [
        NotableImage(
            int(i),
            f"labelled {model.classes[part.truth[i]]}, said {model.classes[said[i]]} by {sure[i]:.3f}; "
            f"{agree[i]} of the {count} most like it are labelled so",
        )
        for i in _suspects(evidence, said, sure, agree / count)[:most]
    ]
    return NotableImages(errors, unusual, mislabelled)


def predicted_probabilities(evidence: EvaluationInputs) -> Floats:
    """The probability of the class that each image is taken for."""
    probabilities = evidence.detailed.outputs.probabilities
    found: Floats = probabilities[np.arange(len(probabilities)), evidence.model.predict(probabilities)]
    return found


def _suspects(evidence: EvaluationInputs, said: Integers, sure: Floats, agree: Reals) -> Integers:
    """Images taken for another class as surely as that class's own are, among neighbours that are labelled so."""
    truth, probabilities = evidence.detailed.truth, evidence.detailed.outputs.probabilities
    usual = np.array(
        [probabilities[truth == c, c].mean() if (truth == c).any() else 1 for c in range(probabilities.shape[1])]
    )
    suspects = np.flatnonzero((said != truth) & (sure >= usual[said]) & (agree > 0.5))
    return suspects[np.argsort(-(sure * agree)[suspects], kind="stable")]


def nearest_by_cosine(features: Floats, among: Floats | None) -> tuple[Floats, Integers]:
    """The distances to the nearest neighbours, and their numbers; None means among the images themselves.

    Features are compared by their direction: how bright they are as a whole tells little of what is in the image.
    """
    own = _directions(features)
    others = own if among is None else _directions(among)
    count = min(NEIGHBOURS, len(others) - (among is None))
    distances = np.empty((len(own), count), dtype=np.float32)
    neighbours = np.empty((len(own), count), dtype=np.int64)
    for start in range(0, len(own), BLOCK) if count else ():
        likeness = own[start : start + BLOCK] @ others.T
        rows = np.arange(len(likeness))
        if among is None:
            likeness[rows, start + rows] = -np.inf  # nobody is a neighbour of itself
        found = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        neighbours[start + rows] = found
        closeness = np.take_along_axis(likeness, found, axis=1)
        distances[start + rows] = np.sqrt(np.maximum(2 - 2 * closeness, 0))
    return distances, neighbours


def _directions(features: Floats) -> Floats:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.float32(1e-12)))
