"""What people said of images, from a table: which of the images at hand they meant."""

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from astrodetect.anomalies.active_learning import LABELS
from astrodetect.errors import DataError


@dataclass(frozen=True, slots=True)
class Told:
    """A label, and by its content or its place the image that it was given to."""

    label: str
    sha256: str
    path: str


def read(place: Path) -> list[Told]:
    """Every label in a .csv, in its order."""
    try:
        with place.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            given = set(table.fieldnames or ())
            if "label" not in given or not given & {"path", "image_sha256"}:
                raise DataError(f"{place}: its first line must name label, and path or image_sha256")
            found = [_told(place, table.line_num, row) for row in table]
    except OSError as error:
        raise DataError(f"{place} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise DataError(f"{place} is no CSV file: {error}") from error
    if not found:
        raise DataError(f"{place} holds no label")
    return found


def matched(given: Sequence[Told], paths: Sequence[Path], sha256: Sequence[str]) -> tuple[dict[int, str], int]:
    """The label of each image that has one, the last given at the end, and how many labels are of no image here."""
    here: defaultdict[str, list[int]] = defaultdict(list)
    for number, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
        here[_place(path)].append(number)
        here[digest].append(number)
    found: dict[int, str] = {}
    strays = 0
    for told in given:
        numbers = here.get(told.sha256 or _place(told.path), [])
        strays += not numbers
        for number in numbers:
            found.pop(number, None)
            found[number] = told.label
    if not found:
        raise DataError("no label is of an image here: its path or its image_sha256 tells which one is meant")
    return found, strays


def _told(place: Path, line: int, row: dict[str, str | None]) -> Told:
    label, sha256, path = (str(row.get(name) or "").strip() for name in ("label", "image_sha256", "path"))
    if label not in LABELS:
        raise DataError(f"line {line} of {place} has the label {label!r}: it is one of {', '.join(LABELS)}")
    return Told(label, sha256, path)


def _place(path: str | Path) -> str:
    """Seen from the root; a link stands for itself."""
    return os.path.abspath(path)  # noqa: PTH100
