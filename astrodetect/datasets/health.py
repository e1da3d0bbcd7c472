"""The state of labelled images: what cannot be read, what is there twice, what leaks, what seems to be mislabelled."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect.datasets import mislabels, near_duplicates, scan
from astrodetect.datasets.dataset import PARTS, Dataset, ListedImage, listing
from astrodetect.datasets.scan import ScannedImage, ScanResult, UnreadableFile
from astrodetect.errors import DataError
from astrodetect.records import Floats

SAME_FILE, SAME_PIXELS, NEARLY = "the same file", "the same pixels", "nearly the same"
CROP = 0.5  # central share in which shapes are measured


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that show the same, by their places."""

    places: tuple[int, ...]
    kind: str  # SAME_FILE, SAME_PIXELS or NEARLY


@dataclass(frozen=True, slots=True)
class Leak:
    """A test image that shows what a training image shows."""

    train: Path
    test: Path
    kind: str


@dataclass(frozen=True, slots=True)
class DoubtfulLabel:
    """An image whose label is doubted."""

    look: ScannedImage
    suggested: str
    probability: float  # of the suggested class
    own: float  # of its label


@dataclass(frozen=True, slots=True)
class DatasetHealth:
    """What was found; `examine` makes it."""

    place: Path
    looks: ScanResult
    copies: list[DuplicateGroup]
    doubts: list[DoubtfulLabel]

    @property
    def classes(self) -> list[str]:
        """Their names, of images that can be read or not."""
        return sorted({item.label for item in self._items()})

    @property
    def parts(self) -> list[str]:
        """In the order of their use; where there are none, the whole is one without a name."""
        found = {item.part for item in self._items()}
        return [part for part in ("", *PARTS) if part in found]

    @property
    def unreadable(self) -> list[UnreadableFile]:
        """Files that are no usable images."""
        return self.looks.unreadable

    @property
    def leaks(self) -> list[DuplicateGroup]:
        """Copies that are in several parts."""
        return [copies for copies in self.copies if len({look.item.part for look in self.members(copies)}) > 1]

    @property
    def conflicts(self) -> list[DuplicateGroup]:
        """Copies that have several labels."""
        return [copies for copies in self.copies if len({look.item.label for look in self.members(copies)}) > 1]

    @property
    def duplicates(self) -> list[DuplicateGroup]:
        """Copies that have one label in one part."""
        alike = [
            (copies, {(look.item.part, look.item.label) for look in self.members(copies)}) for copies in self.copies
        ]
        return [copies for copies, kinds in alike if len(kinds) == 1]

    def members(self, copies: DuplicateGroup) -> list[ScannedImage]:
        """The images that show the same."""
        return [self.looks.seen[place] for place in copies.places]

    def counts(self) -> dict[tuple[str, str], int]:
        """How many good images each (part, class) has."""
        return Counter((look.item.part, look.item.label) for look in self.looks.seen)

    def _items(self) -> list[ListedImage]:
        return [look.item for look in self.looks.seen] + [file.item for file in self.looks.unreadable]


def examine(
    place: Path, *, crop: float = CROP, features: Callable[[ScanResult], Floats] | None = None
) -> DatasetHealth:
    """Looks at every image of a data set once and says what state they are in.

    Labels are judged by shapes in the central `crop`, or by the `features` of the images if given, a row each.
    """
    seen = look_at(place, crop=None if features else crop)
    groups, found = copies_among(seen)
    return DatasetHealth(place, seen, found, _doubts(seen, groups, features(seen) if features else seen.shapes))


def look_at(place: Path, *, crop: float | None = None) -> ScanResult:
    """Every image of a data set; that none can be read is an error."""
    seen = scan.scan(listing(place), title=f"looking at {place.name or place}", crop=crop)
    if not seen.seen:
        first = seen.unreadable[0]
        raise DataError(f"none of the files in {place} is an image: the first, {first.item.path.name}, {first.reason}")
    return seen


def copies_among(seen: ScanResult) -> tuple[NDArray[np.int64], list[DuplicateGroup]]:
    """The number of each image's group, alone or with its copies, and the groups of more than one."""
    first: dict[str, int] = {}
    for place, look in enumerate(seen.seen):
        first.setdefault(look.pixels_sha256, place)
    different = np.array(list(first.values()), dtype=np.int64)
    sketches = near_duplicates.ImageSignatures(seen.sketches.signatures[different], seen.sketches.planes[different])
    number = near_duplicates.groups(len(different), near_duplicates.pairs(sketches))
    of_pixels = {look: int(group) for look, group in zip(first, number, strict=True)}
    groups = np.array([of_pixels[look.pixels_sha256] for look in seen.seen], dtype=np.int64)
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    return groups, [_copies(seen, places) for places in members.values() if len(places) > 1]


def leaks(train: Dataset, test: Dataset) -> list[Leak]:
    """Test images that show what is learnt from: reads every image once, a second or two for a thousand of them."""
    items = [
        ListedImage(path, catalogue.classes[label], part)
        for part, catalogue in (("train", train), ("test", test))
        for path, label in zip(catalogue.paths, catalogue.labels.tolist(), strict=True)
    ]
    seen = scan.scan(items, title="looking for leaks")
    found = []
    for copies in copies_among(seen)[1]:
        members = [seen.seen[place] for place in copies.places]
        learnt = [look for look in members if look.item.part == "train"]
        for look in members:
            if look.item.part == "test" and learnt:
                twin, kind = _nearest(look, learnt)
                found.append(Leak(twin.item.path, look.item.path, kind))
    return found


def _doubts(seen: ScanResult, groups: NDArray[np.int64], features: Floats) -> list[DoubtfulLabel]:
    """Labels that these features, a row an image, speak against, the surest first."""
    names = sorted({look.item.label for look in seen.seen})
    labels = np.array([names.index(look.item.label) for look in seen.seen], dtype=np.int64)
    return [
        DoubtfulLabel(seen.seen[found.place], names[found.suggested], found.probability, found.own)
        for found in mislabels.find(features, labels, groups)
    ]


def _nearest(look: ScannedImage, others: Sequence[ScannedImage]) -> tuple[ScannedImage, str]:
    """Its closest copy among others."""
    for other in others:
        if other.sha256 == look.sha256:
            return other, SAME_FILE
    for other in others:
        if other.pixels_sha256 == look.pixels_sha256:
            return other, SAME_PIXELS
    return others[0], NEARLY


def _copies(seen: ScanResult, places: Sequence[int]) -> DuplicateGroup:
    members = [seen.seen[place] for place in places]
    if len({look.sha256 for look in members}) == 1:
        return DuplicateGroup(tuple(places), SAME_FILE)
    return DuplicateGroup(tuple(places), SAME_PIXELS if len({look.pixels_sha256 for look in members}) == 1 else NEARLY)
