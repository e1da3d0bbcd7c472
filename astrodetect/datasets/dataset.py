"""Labelled image data sets: class folders, parts (train, validation, test) of class folders, or a .csv table.

Reading a data set decodes every image once, labels the good ones and lists the unusable files with the reason.
"""

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.errors import DataError, ImageError
from astrodetect.progress import track_progress
from astrodetect.records import ImageContract

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".fits", ".fit", ".fts", ".fits.gz")  # in any case
SAMPLE_COMMAND = "python -m astrodetect simulate"
PARTS = ("train", "validation", "test")
NO_PART = ""  # of images whose path names no part
PART_SYNONYMS = {"val": "validation", "valid": "validation"}
PART_IN_NAME = re.compile(r"(?:^|[_.\- ])(train|validation|valid|val|test)(?:[_.\- ]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as listed in a data set, not yet read."""

    path: Path
    label: str
    part: str = NO_PART
    group: str = ""  # images of one group stay in one part of a split


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not a usable image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images of one part; `labels[i]` is the index in `classes` of the class of `paths[i]`."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: NDArray[np.int64]
    fingerprint: str  # SHA-256 over every image's relative path and contents
    skipped: list[SkippedFile] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Number of images of each class."""
        per_label = Counter(self.labels.tolist())
        return {name: per_label[index] for index, name in enumerate(self.classes)}

    def subset(self, indices: NDArray[np.int64]) -> "Dataset":
        """The images at these indices, in this order."""
        return Dataset(self.classes, [self.paths[i] for i in indices], self.labels[indices], self.fingerprint)

    def limit_class(self, name: str, limit: int, seed: int) -> "Dataset":
        """The data set with at most `limit` images of this class, drawn at random with `seed`."""
        if name not in self.classes:
            raise DataError(f"no class {name} to limit: the classes are {', '.join(self.classes)}")
        members = np.flatnonzero(self.labels == self.classes.index(name))
        dropped = np.random.default_rng(seed).permutation(members)[limit:]
        remaining = self.subset(np.setdiff1d(np.arange(len(self)), dropped))
        return replace(remaining, skipped=self.skipped)

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Stratified random split: the rest, and `share` of every class."""
        rng = np.random.default_rng(seed)
        held_out: list[int] = []
        for index in range(len(self.classes)):
            members = rng.permutation(np.flatnonzero(self.labels == index))
            held_out.extend(members[: max(1, round(share * len(members)))].tolist())
        mask = np.zeros(len(self), dtype=bool)
        mask[held_out] = True
        return self.subset(np.flatnonzero(~mask)), self.subset(np.flatnonzero(mask))


def read_dataset(
    path: Path,
    classes: Sequence[str],
    *,
    title: str,
    part: str | None = None,
    contract: ImageContract = ImageContract(),  # noqa: B008 - frozen
) -> Dataset:
    """Every image of these classes, each decoded once to check it; images of other classes are not read.

    `part` selects one part of a data set that has parts; None reads all of them.
    """
    class_indices = {name: index for index, name in enumerate(classes)}
    items = [
        item for item in _list_items(path, classes)
        if item.label in class_indices and (part is None or item.part in {part, NO_PART})
    ]  # fmt: skip
    if part is not None and not items and part not in (available := part_names(path)):
        raise DataError(f"{path} has no part {part}: it has {', '.join(available) or 'no images'}")
    items.sort(key=lambda item: class_indices[item.label])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(
            track_progress(
                pool.map(partial(_digest_or_error, contract=contract), (item.path for item in items)),
                f"reading {title}",
                len(items),
            )
        )
    root = path.parent if path.is_file() else path
    paths, labels, skipped, fingerprint = [], [], [], hashlib.sha256()
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, bytes):
            paths.append(item.path)
            labels.append(class_indices[item.label])
            relative_path = Path(os.path.relpath(item.path, root)).as_posix().encode(errors="surrogateescape")
            fingerprint.update(relative_path + b"\0" + outcome)
        else:
            skipped.append(SkippedFile(item.path, outcome))
    dataset = Dataset(tuple(classes), paths, np.array(labels, dtype=np.int64), fingerprint.hexdigest(), skipped)
    label_of = {item.path: item.label for item in items}
    for name, count in dataset.counts().items():
        if count == 0:
            bad = [file for file in skipped if label_of[file.path] == name]
            why = f": {len(bad)} files cannot be read; the first, {bad[0].path.name}: {bad[0].reason}" if bad else ""
            raise DataError(f"{_describe_class(path, name)} contains no image{why}")
    return dataset


def list_dataset(path: Path) -> list[ListedImage]:
    """Every labelled image of a data set in a fixed order, none of them read."""
    items = _list_items(path, None)
    if not items:
        raise DataError(f"{path} contains no images: put them into one folder per class, or use a .csv of path,label")
    return items


def class_names(path: Path) -> list[str]:
    """The classes of a data set, in any of its parts."""
    return sorted({item.label for item in list_dataset(path)})


def part_names(path: Path) -> list[str]:
    """The parts of a data set, in the order train, validation, test; empty for a data set without parts."""
    present = {item.part for item in list_dataset(path)}
    return [name for name in PARTS if name in present]


def _list_items(path: Path, required_classes: Sequence[str] | None) -> list[ListedImage]:
    """The images of a .csv, or of the required class folders (an error if one is missing), or of all class folders."""
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _read_table(path)
    if not path.is_dir():
        raise DataError(f"no folder {path}: put images there, or make a sample with {SAMPLE_COMMAND}")
    roots = _part_folders(path)
    return [
        ListedImage(file, name, part)
        for part, root in roots.items()
        for name in (required_classes if required_classes is not None and NO_PART in roots else _subfolders(root))
        for file in _class_files(root, name)
    ]


def _part_folders(path: Path) -> dict[str, Path]:
    """The folder of each part; for a data set without parts, the folder itself."""
    folders: dict[str, Path] = {}
    for name in _subfolders(path):
        match = PART_IN_NAME.search(name)
        if match and _subfolders(path / name):
            part = PART_SYNONYMS.get(match[1].lower(), match[1].lower())
            if part in folders:
                raise DataError(f"both {folders[part]} and {path / name} are the part {part}: keep only one of them")
            folders[part] = path / name
    return {part: folders[part] for part in PARTS if part in folders} or {NO_PART: path}


def _subfolders(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_files(root: Path, name: str) -> list[Path]:
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: put images there, or make a sample with {SAMPLE_COMMAND}")
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _read_table(path: Path) -> list[ListedImage]:
    """The rows of a .csv with columns path, label and optionally part, group; paths are relative to the table."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            missing = {"path", "label"} - set(table.fieldnames or ())
            if missing:
                raise DataError(f"{path} has no column {' and no column '.join(sorted(missing))} in its first line")
            return [_parse_row(path, number, row) for number, row in enumerate(table, start=2)]
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read: {reason}") from error


def _parse_row(table: Path, number: int, row: dict[str, str | None]) -> ListedImage:
    path, label, part = (str(row.get(name) or "").strip() for name in ("path", "label", "part"))
    part = PART_SYNONYMS.get(part.lower(), part.lower())
    if not path or not label:
        raise DataError(f"row {number} of {table} has no {'label' if path else 'path'}")
    if "\0" in path:
        raise DataError(f"row {number} of {table} has an invalid path (it contains a NUL character)")
    if part and part not in PARTS:
        raise DataError(f"row {number} of {table} has the part {part}: use one of {', '.join(PARTS)}")
    return ListedImage(table.parent / path, label, part or NO_PART, str(row.get("group") or "").strip())


def _describe_class(path: Path, name: str) -> str:
    return f"the class {name} of {path}" if path.is_file() else str(path / name)


def _digest_or_error(path: Path, contract: ImageContract) -> bytes | str:
    """SHA-256 of a readable image's contents, or why it cannot be used."""
    try:
        data = path.read_bytes()
        images.decode(data, contract)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return hashlib.sha256(data).digest()


def list_images(paths: Sequence[Path]) -> list[ListedImage]:
    """The images under these paths; labelled if the only path is a CSV table or has class folders."""
    names = [str(path) for path in paths]
    try:
        if len(paths) == 1 and not _is_unlabelled(paths[0]):
            return list_dataset(paths[0])
        check_paths(names)
        images = [ListedImage(Path(name), "") for name in walk_images(names)]
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    if not images:
        raise no_images(names)
    return images


def no_images(names: Sequence[str]) -> DataError:
    """The error for paths without image files."""
    return DataError(f"no images under {' '.join(names)}: image files end in {', '.join(IMAGE_SUFFIXES)}")


def check_paths(names: Sequence[str]) -> None:
    """Raises DataError unless each path exists and none contains another, so that each image is listed once."""
    resolved: dict[Path, str] = {}
    for name in names:
        path = Path(name)
        if not (path.is_dir() or path.is_file()):
            raise DataError(f"no such folder or file: {name}")
        if (real := path.resolve()) in resolved:
            raise DataError(f"{name} and {resolved[real]} are the same: name it once")
        resolved[real] = name
    for real, name in resolved.items():
        for parent in real.parents:
            if parent in resolved:
                raise DataError(f"{name} is inside {resolved[parent]}: name only one of them")


def walk_images(names: Sequence[str]) -> Iterator[str]:
    """Each named file, and the images under each named folder sorted by path; no hidden names or links to folders."""
    for name in names:
        path = str(Path(name))
        if Path(name).is_dir():
            yield from _walk_folder("" if path == "." else path if path.endswith(os.sep) else path + os.sep)
        else:
            yield path


def _walk_folder(prefix: str) -> Iterator[str]:
    for name in _names(prefix):
        if name.endswith(os.sep):
            yield from _walk_folder(prefix + name)
        else:
            yield prefix + name


def _names(prefix: str) -> list[str]:
    """Images and folders in one folder; a folder's name ends in a separator, so that names sort as paths do."""
    names = []
    try:
        with os.scandir(prefix or ".") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name + os.sep)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {prefix or '.'}: {error.strerror}") from error
    names.sort()
    return names


def _is_unlabelled(path: Path) -> bool:
    """Whether it is a single image, or a folder that holds images outside class folders."""
    if not path.is_dir():
        return path.suffix.lower() != ".csv"
    return any(file.name.lower().endswith(IMAGE_SUFFIXES) for file in path.iterdir() if not file.is_dir())
