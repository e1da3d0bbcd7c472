"""Labelled images in class folders, in parts (train, validation, test) of class folders, or listed by a table."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from astrodetect.datasets.tables import NO_PART, PART_SYNONYMS, PARTS, ListedImage, is_table, read_table
from astrodetect.errors import DataError
from astrodetect.records import ImagePath
from astrodetect.storage import objects
from astrodetect.storage.references import is_url, join_reference

ADVICE = "put images there, or name the sample data/sample, which python -m astrodetect simulate makes"
PART_IN_NAME = re.compile(r"(?:^|[_.\- ])(train|validation|valid|val|test)(?:[_.\- ]|$)", re.IGNORECASE)


def list_dataset(path: ImagePath) -> list[ListedImage]:
    """Every labelled image of a data set in a fixed order, none of them read."""
    items = list_items(path, None)
    if not items:
        raise DataError(f"{path} contains no images: put them into one folder per class, or use a table of path,label")
    return items


def class_names(path: ImagePath) -> list[str]:
    """The classes of a data set, in any of its parts."""
    return sorted({item.label for item in list_dataset(path)})


def check_classes(path: ImagePath, names: Sequence[str]) -> None:
    """DataError unless a model of these classes of a data set can be trained and stored."""
    if len(names) < 2:
        raise DataError(f"{path} has one class, {', '.join(names)}: a model distinguishes two or more")
    for name in names:
        if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
            raise DataError(f"{path} has the class {name!a}: rename it, without control characters and in UTF-8")


def part_names(path: ImagePath) -> list[str]:
    """The parts of a data set, in the order train, validation, test; empty for a data set without parts."""
    present = {item.part for item in list_dataset(path)}
    return [name for name in PARTS if name in present]


def list_items(path: ImagePath, required_classes: Sequence[str] | None) -> list[ListedImage]:
    """The images of a table, or of the required class folders (an error if one is missing), or of all class folders."""
    if is_table(path):
        return list(read_table(path))
    if is_url(str(path)):
        return _list_objects(str(path), required_classes)
    path = Path(path)
    if path.is_file():
        raise DataError(
            f"{path} lists no images with labels: put images into one folder per class, and name the folder"
        )
    if not path.is_dir():
        raise DataError(f"no folder {path}: {ADVICE}")
    roots = _part_folders(path)
    return [
        ListedImage(file, name, part)
        for part, root in roots.items()
        for name in (required_classes if required_classes is not None and NO_PART in roots else _subfolders(root))
        for file in _class_files(root, name)
    ]


def _list_objects(folder: str, required_classes: Sequence[str] | None) -> list[ListedImage]:
    """The same, of a folder on an object store."""
    names = [name.split("/") for name in objects.list_names(folder)]
    parts = _parts(folder, sorted({name[0] for name in names if len(name) > 2}))
    roots = [(part, [name]) for part, name in parts.items()] or [(NO_PART, [])]
    items = []
    for part, root in roots:
        inside = [name for name in names if name[: len(root)] == root and len(name) > len(root) + 1]
        classes = sorted({name[len(root)] for name in inside})
        if required_classes is not None and part == NO_PART:
            classes = list(required_classes)
        for label in classes:
            members = [name for name in inside if name[len(root)] == label]
            if not members:
                raise DataError(f"no folder {join_reference(folder, label)}: put images there")
            items += [ListedImage(join_reference(folder, "/".join(name)), label, part) for name in members]
    return items


def _part_of(folder: str) -> str:
    """The part that a folder's name says, or none."""
    match = PART_IN_NAME.search(folder)
    return PART_SYNONYMS.get(match[1].lower(), match[1].lower()) if match else NO_PART


def _part_folders(path: Path) -> dict[str, Path]:
    """The folder of each part; for a data set without parts, the folder itself."""
    parts = _parts(str(path), [name for name in _subfolders(path) if _subfolders(path / name)])
    return {part: path / name for part, name in parts.items()} or {NO_PART: path}


def _parts(root: str, folders: Sequence[str]) -> dict[str, str]:
    """Which of the folders is which part, in the order of the parts."""
    by_part: dict[str, str] = {}
    for name in folders:
        if part := _part_of(name):
            if part in by_part:
                both = " and ".join(join_reference(root, folder) for folder in (by_part[part], name))
                raise DataError(f"both {both} are the part {part}: keep only one of them")
            by_part[part] = name
    return {part: by_part[part] for part in PARTS if part in by_part}


def _subfolders(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_files(root: Path, name: str) -> list[Path]:
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: {ADVICE}")
    files = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):  # rglob leaves out what it cannot read
        folders[:] = [child for child in folders if not child.startswith(".")]
        files += [Path(parent, child) for child in names if not child.startswith(".")]
    return sorted(file for file in files if file.is_file())


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
