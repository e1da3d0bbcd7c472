"""Lists of images: class folders, parts (train, validation, test) of class folders, .csv tables, and plain folders."""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from astrodetect import images
from astrodetect.errors import DataError, ImageError, StorageError
from astrodetect.storage import tar_shards
from astrodetect.storage.references import TAR_SUFFIXES, is_shard, member_reference

SIMULATION_FILE = ".simulated.json"  # marks a folder of simulated images
SIMULATION_LEVELS = 3  # an image's folder and two above it: class, part, data set
SAMPLE_COMMAND = "python -m astrodetect simulate"
PARTS = ("train", "validation", "test")
PATH_COLUMNS = ("path", "filename", "file", "image_name")  # names of a table's column of paths; the first that it has
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
class ImageFile:
    """An image to score: its name in tables, and how to read its bytes (ImageError where that fails)."""

    name: str
    read: Callable[[], bytes]


def list_dataset(path: Path) -> list[ListedImage]:
    """Every labelled image of a data set in a fixed order, none of them read."""
    items = list_items(path, None)
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


def list_items(path: Path, required_classes: Sequence[str] | None) -> list[ListedImage]:
    """The images of a .csv, or of the required class folders (an error if one is missing), or of all class folders."""
    if is_table(path):
        return list(read_table(path))
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


def read_table(path: Path, *, labelled: bool = True) -> Iterator[ListedImage]:
    """The rows of a .csv with a column of paths, relative to the table, and label (if labelled), part and group."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or ()
            path_column = next((name for name in PATH_COLUMNS if name in columns), None)
            missing = [*(["path"] if path_column is None else []), *({"label"} - {*columns} if labelled else [])]
            if path_column is None or missing:
                raise DataError(f"{path} has no column {' and no column '.join(missing)} in its first line")
            for number, row in enumerate(table, start=2):
                yield _parse_row(path, number, row, path_column, labelled=labelled)
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read: {reason}") from error


def _parse_row(
    table: Path, number: int, row: dict[str, str | None], path_column: str, *, labelled: bool
) -> ListedImage:
    path, label, part, group = (str(row.get(name) or "").strip() for name in (path_column, "label", "part", "group"))
    part = PART_SYNONYMS.get(part.lower(), part.lower())
    if not path or (labelled and not label):
        raise DataError(f"row {number} of {table} has no {'label' if path else 'path'}")
    if "\0" in path:
        raise DataError(f"row {number} of {table} has an invalid path (it contains a NUL character)")
    if part and part not in PARTS:
        raise DataError(f"row {number} of {table} has the part {part}: use one of {', '.join(PARTS)}")
    return ListedImage(table.parent / path, label, part or NO_PART, group)


def is_table(path: Path) -> bool:
    """Whether it is a .csv that lists images."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def count_simulated(paths: Sequence[Path]) -> int:
    """The number of images in folders that are marked as simulated, or stand in such a folder or its parts."""
    folders = Counter(path.parent for path in paths)
    return sum(
        count
        for folder, count in folders.items()
        if any((parent / SIMULATION_FILE).exists() for parent in [folder, *folder.parents][:SIMULATION_LEVELS])
    )


def list_images(paths: Sequence[Path]) -> list[ListedImage]:
    """The images under these paths, and the rows of tables; labelled by class folders if there is one path only."""
    names = [str(path) for path in paths]
    try:
        check_paths(names)
        if len(paths) == 1 and _has_class_folders(paths[0]):
            return list_dataset(paths[0])
        items = [
            item for path in paths
            for item in (
                read_table(path, labelled=False) if is_table(path)
                else (ListedImage(Path(name), "") for name in walk_images([str(path)]))
            )
        ]  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    if not items:
        raise no_images(names)
    return items


def list_references(names: Sequence[str]) -> Iterator[str]:
    """The references of the images, and of the shards as a whole, that are named or under the named folders, sorted."""
    yield from walk_images(names, (*images.SUFFIXES, *TAR_SUFFIXES))


def open_images(references: Iterable[str]) -> Iterator[ImageFile]:
    """The images of references, in order. Shards are read while their images are taken, one after the other.

    Where a shard cannot be read on, the last of its images has the shard's name and its error.
    """
    for reference in references:
        if is_shard(reference):
            yield from _open_shard(reference)
        else:
            yield ImageFile(reference, partial(images.read_bytes, Path(reference)))


def _open_shard(shard: str) -> Iterator[ImageFile]:
    try:
        for member, contents in tar_shards.read_tar(shard, images.SUFFIXES, images.MAX_FILE_BYTES):
            yield ImageFile(member_reference(shard, member), partial(_contents, contents))
    except StorageError as error:
        yield ImageFile(shard, partial(_contents, error))


def _contents(contents: bytes | StorageError) -> bytes:
    if isinstance(contents, StorageError):
        raise ImageError(str(contents))
    return contents


def no_images(names: Sequence[str]) -> DataError:
    """The error for paths without image files."""
    return DataError(f"no images under {' '.join(names)}: image files end in {', '.join(images.SUFFIXES)}")


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


def walk_images(names: Sequence[str], suffixes: tuple[str, ...] = images.SUFFIXES) -> Iterator[str]:
    """Each named file, the paths of each named .csv, and the images under each named folder sorted by path.

    Hidden names and links to folders are skipped.
    """
    for name in names:
        path = str(Path(name))
        if is_table(Path(name)):
            yield from (str(item.path) for item in read_table(Path(name), labelled=False))
        elif Path(name).is_dir():
            yield from _walk_folder("" if path == "." else path if path.endswith(os.sep) else path + os.sep, suffixes)
        else:
            yield path


def _walk_folder(prefix: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for name in _names(prefix, suffixes):
        if name.endswith(os.sep):
            yield from _walk_folder(prefix + name, suffixes)
        else:
            yield prefix + name


def _names(prefix: str, suffixes: tuple[str, ...]) -> list[str]:
    """Images and folders in one folder; a folder's name ends in a separator, so that names sort as paths do."""
    names = []
    try:
        with os.scandir(prefix or ".") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name + os.sep)
                elif entry.name.lower().endswith(suffixes) and entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"cannot read the folder {prefix or '.'}: {error.strerror}") from error
    names.sort()
    return names


def _has_class_folders(path: Path) -> bool:
    """Whether it is a folder without images outside its subfolders."""
    return path.is_dir() and not any(
        file.name.lower().endswith(images.SUFFIXES) for file in path.iterdir() if not file.is_dir()
    )
