"""Labelled images as people keep them to a catalogue: all read once, the bad ones named, the good ones labelled.

They are kept as class folders, as parts (train, validation, test) of class folders, or as a table in a .csv.
"""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.errors import DataError, ImageError
from astrodetect.progress import track
from astrodetect.records import ImageContract

SAMPLE_COMMAND = "python -m astrodetect simulate"
PARTS = ("train", "validation", "test")
WHOLE = ""  # the part of images whose place names none
OTHER_NAMES = {"val": "validation", "valid": "validation"}
PART_IN_A_NAME = re.compile(r"(?:^|[_.\- ])(train|validation|valid|val|test)(?:[_.\- ]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as a data set names it, not looked at yet."""

    path: Path
    label: str
    part: str = WHOLE
    group: str = ""  # images of one group belong into one part


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is no usable image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images of one data part; `labels[i]` is the number of the class of `paths[i]`."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: NDArray[np.int64]
    fingerprint: str  # of every image's place and bytes: the same images, the same fingerprint
    skipped: list[SkippedFile] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """How many images each class has."""
        found = Counter(self.labels.tolist())
        return {name: found[number] for number, name in enumerate(self.classes)}

    def subset(self, keep: NDArray[np.int64]) -> "Dataset":
        """Only these images, in this order."""
        return Dataset(self.classes, [self.paths[i] for i in keep], self.labels[keep], self.fingerprint)

    def limit_class(self, name: str, most: int, seed: int) -> "Dataset":
        """With no more than `most` images of this class, drawn by `seed`."""
        if name not in self.classes:
            raise DataError(f"no class {name} to limit: there are {', '.join(self.classes)}")
        members = np.flatnonzero(self.labels == self.classes.index(name))
        dropped = np.random.default_rng(seed).permutation(members)[most:]
        kept = self.subset(np.setdiff1d(np.arange(len(self)), dropped))
        return replace(kept, skipped=self.skipped)

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """The rest and `share` of every class, drawn by `seed`."""
        random = np.random.default_rng(seed)
        held: list[int] = []
        for number in range(len(self.classes)):
            members = random.permutation(np.flatnonzero(self.labels == number))
            held.extend(members[: max(1, round(share * len(members)))].tolist())
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held] = True
        return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))


def read_dataset(
    place: Path,
    classes: Sequence[str],
    *,
    title: str,
    part: str | None = None,
    contract: ImageContract = ImageContract(),  # noqa: B008 - frozen
) -> Dataset:
    """Every image of these classes, each decoded once to see that it can be; other classes are not looked at.

    Where the data has parts, `part` names the one that is meant; None means all of them.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    files = [
        item for item in _listed(place, classes)
        if item.label in numbers and (part is None or item.part in {part, WHOLE})
    ]  # fmt: skip
    if part is not None and not files and part not in (found := part_names(place)):
        raise DataError(f"{place} has no part {part}: it has {', '.join(found) or 'no images'}")
    files.sort(key=lambda item: numbers[item.label])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(
            track(
                pool.map(partial(_check, contract=contract), (item.path for item in files)),
                f"reading {title}",
                len(files),
            )
        )
    base = place.parent if place.is_file() else place
    good, labels, skipped, fingerprint = [], [], [], hashlib.sha256()
    for item, outcome in zip(files, checked, strict=True):
        if isinstance(outcome, bytes):
            good.append(item.path)
            labels.append(numbers[item.label])
            seen_from = Path(os.path.relpath(item.path, base)).as_posix().encode(errors="surrogateescape")
            fingerprint.update(seen_from + b"\0" + outcome)
        else:
            skipped.append(SkippedFile(item.path, outcome))
    catalogue = Dataset(tuple(classes), good, np.array(labels, dtype=np.int64), fingerprint.hexdigest(), skipped)
    label = {item.path: item.label for item in files}
    for name, count in catalogue.counts().items():
        if count == 0:
            bad = [file for file in skipped if label[file.path] == name]
            why = f": {len(bad)} files cannot be read, the first, {bad[0].path.name}, {bad[0].reason}" if bad else ""
            raise DataError(f"{_called(place, name)} holds no image{why}")
    return catalogue


def list_dataset(place: Path) -> list[ListedImage]:
    """Every labelled image of a data set, in a fixed order, none of them looked at."""
    if not (found := _listed(place, None)):
        raise DataError(f"{place} holds no images: put them into a folder for each class, or name a .csv of path,label")
    return found


def class_names(place: Path) -> list[str]:
    """The names of the classes that a data set has, in any of its parts."""
    return sorted({item.label for item in list_dataset(place)})


def part_names(place: Path) -> list[str]:
    """The parts that a data set has, of train, validation and test in this order; none where it is not parted."""
    found = {item.part for item in list_dataset(place)}
    return [name for name in PARTS if name in found]


def _listed(place: Path, wanted: Sequence[str] | None) -> list[ListedImage]:
    """Of the classes that are wanted, each of which must be there, or of all that are."""
    if place.suffix.lower() == ".csv" and not place.is_dir():
        return _rows(place)
    if not place.is_dir():
        raise DataError(f"no folder {place}: put images there, or make a sample with {SAMPLE_COMMAND}")
    homes = _homes(place)
    return [
        ListedImage(path, name, part)
        for part, home in homes.items()
        for name in (wanted if wanted is not None and WHOLE in homes else _folders(home))
        for path in _files(home, name)
    ]


def _homes(place: Path) -> dict[str, Path]:
    """The folder of each part; of images that have none, the place itself."""
    homes: dict[str, Path] = {}
    for name in _folders(place):
        named = PART_IN_A_NAME.search(name)
        if named and _folders(place / name):
            part = OTHER_NAMES.get(named[1].lower(), named[1].lower())
            if part in homes:
                raise DataError(f"both {homes[part]} and {place / name} are called {part}: keep one of them there")
            homes[part] = place / name
    return {part: homes[part] for part in PARTS if part in homes} or {WHOLE: place}


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, name: str) -> list[Path]:
    if not (folder / name).is_dir():
        raise DataError(f"no folder {folder / name}: put images there, or make a sample with {SAMPLE_COMMAND}")
    return sorted(path for path in (folder / name).rglob("*") if path.is_file() and not path.name.startswith("."))


def _rows(place: Path) -> list[ListedImage]:
    """The rows of a table of path and label, perhaps part and group; its paths are seen from where it lies."""
    try:
        with place.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            missing = {"path", "label"} - set(table.fieldnames or ())
            if missing:
                raise DataError(f"{place} has no column {' and no column '.join(sorted(missing))} in its first line")
            return [_row(place, number, row) for number, row in enumerate(table, start=2)]
    except (OSError, csv.Error) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{place} cannot be read: {said}") from error


def _row(place: Path, number: int, row: dict[str, str | None]) -> ListedImage:
    path, label, part = (str(row.get(name) or "").strip() for name in ("path", "label", "part"))
    part = OTHER_NAMES.get(part.lower(), part.lower())
    if not path or not label:
        raise DataError(f"row {number} of {place} has no {'label' if path else 'path'}")
    if "\0" in path:
        raise DataError(f"row {number} of {place} has a path that no file can have")
    if part and part not in PARTS:
        raise DataError(f"row {number} of {place} has the part {part}: it is one of {', '.join(PARTS)}")
    return ListedImage(place.parent / path, label, part or WHOLE, str(row.get("group") or "").strip())


def _called(place: Path, name: str) -> str:
    return f"the class {name} of {place}" if place.is_file() else str(place / name)


def _check(path: Path, contract: ImageContract) -> bytes | str:
    """The digest of a good image's bytes, or why it is not one."""
    try:
        data = path.read_bytes()
        images.read(data, contract)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return hashlib.sha256(data).digest()
