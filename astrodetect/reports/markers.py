"""Marks on a map: classes are told apart by shape and by colour."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from astrodetect.records import Floats

MAX_MARKED_CLASSES = 24  # with a mark of their own, the largest ones; the others share one
OTHER_CLASSES = "others"
MARKER_COLOURS = 8
# Drawn from the middle of the mark, some 8 units wide; each step is relative, so that a mark can stand anywhere.
MARKER_SHAPES = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",  # a disc
    "m-3.2-3.2h6.4v6.4h-6.4z",  # a square
    "m0-4.4l4.2 7.4h-8.4z",  # a triangle
    "m0-4.6l4.6 4.6l-4.6 4.6l-4.6-4.6z",  # a diamond
    "m-1.3-4.2h2.6v2.9h2.9v2.6h-2.9v2.9h-2.6v-2.9h-2.9v-2.6h2.9z",  # a cross
    "m0 4.4l4.2-7.4h-8.4z",  # a triangle on its tip
)


@dataclass(frozen=True, slots=True)
class Marker:
    """One class of points: its name, how many there are, and their marks as one path."""

    name: str
    count: int
    colour: int
    shape: str
    path: str


def class_markers(labels: Sequence[str], xy: Floats) -> list[Marker]:
    """A mark for each class, the largest first; `xy` (n, 2) is where its points stand."""
    counted = Counter(labels)
    names = sorted(counted, key=lambda name: (-counted[name], name))
    own = names if len(names) <= MAX_MARKED_CLASSES else names[: MAX_MARKED_CLASSES - 1]
    groups = {name: [place for place, label in enumerate(labels) if label == name] for name in own}
    if rest := [place for place, label in enumerate(labels) if label not in groups]:
        groups[OTHER_CLASSES] = rest
    found = []
    for number, (name, places) in enumerate(groups.items()):
        shape = MARKER_SHAPES[number % len(MARKER_SHAPES)]
        path = "".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in xy[places].tolist())
        found.append(Marker(name, len(places), number % MARKER_COLOURS, shape, path))
    return found
