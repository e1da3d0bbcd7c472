"""Image files under folders: a deterministic walk that holds the names of one folder at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from astrodetect.datasets import dataset
from astrodetect.datasets.dataset import ListedImage
from astrodetect.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".fits", ".fit", ".fts", ".fits.gz")
# in any case; the actual format is determined from the first bytes


def list_images(paths: Sequence[Path]) -> list[ListedImage]:
    """The images under these paths; labelled if the only path is a CSV table or has class folders."""
    names = [str(path) for path in paths]
    try:
        if len(paths) == 1 and not _is_unlabelled(paths[0]):
            return dataset.list_dataset(paths[0])
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
