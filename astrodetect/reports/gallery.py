"""Images of a report, small enough to stand in the page itself."""

import base64
from dataclasses import dataclass

import numpy as np

from astrodetect import images
from astrodetect.errors import ImageError
from astrodetect.evaluation import heatmap
from astrodetect.evaluation.inputs import EvaluationInputs
from astrodetect.evaluation.notable_images import NotableImage, predicted_probabilities

SIDE_PX = 112
MOST_IN_CELLS = 240  # images behind the cells of the confusion matrix, all together
MOST_IN_A_CELL = 12


@dataclass(frozen=True, slots=True)
class GalleryCard:
    """An image with its heat map; without pixels where it can no longer be read."""

    name: str
    remark: str
    picture: str | None  # a data URI
    heat: str


@dataclass(frozen=True, slots=True)
class ConfusionCell:
    """Images of one class that are taken for one class: how many there are, and the surest of them."""

    truth: int
    said: int
    count: int
    share: float  # of the images of the true class
    cards: list[GalleryCard]


def gallery_cards(evidence: EvaluationInputs, findings: list[NotableImage]) -> list[GalleryCard]:
    """The images of these findings."""
    return [_card(evidence, finding) for finding in findings]


def confusion_cells(evidence: EvaluationInputs) -> list[list[ConfusionCell]]:
    """The confusion matrix, a row for each true class."""
    part, classes = evidence.shown, len(evidence.model.classes)
    said, sure = evidence.model.decides(part.outputs.probabilities), predicted_probabilities(evidence)
    members = [[np.flatnonzero((part.truth == t) & (said == s)) for s in range(classes)] for t in range(classes)]
    filled = sum(bool(len(cell)) for row in members for cell in row)
    each = min(MOST_IN_A_CELL, max(1, MOST_IN_CELLS // max(filled, 1)))
    left = MOST_IN_CELLS
    matrix = []
    for t, row in enumerate(members):
        total, shown_row = sum(map(len, row)), []
        for s, cell in enumerate(row):
            chosen = cell[np.argsort(-sure[cell], kind="stable")][: min(each, left)]
            left -= len(chosen)
            found = [NotableImage(int(i), f"said by {sure[i]:.3f}") for i in chosen]
            shown_row.append(ConfusionCell(t, s, len(cell), len(cell) / max(total, 1), gallery_cards(evidence, found)))
        matrix.append(shown_row)
    return matrix


def _card(evidence: EvaluationInputs, finding: NotableImage) -> GalleryCard:
    part = evidence.shown
    path = part.paths[finding.image]
    try:
        pixels = images.read_file(path, evidence.model.image)
    except ImageError:  # it was there when the network saw it
        picture = None
    else:
        encoded = base64.b64encode(images.thumbnail(pixels, SIDE_PX)).decode("ascii")
        picture = f"data:image/jpeg;base64,{encoded}"
    name = "/".join(path.parts[-2:])  # the class folder and the file: no more of this machine's paths
    [said] = evidence.model.decides(part.outputs.probabilities[[finding.image]])
    places = heatmap.speaking(part.outputs.maps[finding.image], said, of_two=evidence.model.task == "binary")
    return GalleryCard(name, finding.remark, picture, heatmap.overlay(places))
