"""Which files are scored: a walk over folder trees that is always the same, and holds one folder's names at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from astrodetect.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".fits", ".fit", ".fts", ".fits.gz")
# in any case; what a file really is, its first bytes say


def check(places: Sequence[str]) -> None:
    """Each is a file or a folder, and none is inside another: an image has one row."""
    resolved: dict[Path, str] = {}
    for place in places:
        path = Path(place)
        if not (path.is_dir() or path.is_file()):
            raise DataError(f"no such folder or file: {place}")
        if (real := path.resolve()) in resolved:
            raise DataError(f"{place} and {resolved[real]} are the same: name it once")
        resolved[real] = place
    for real, place in resolved.items():
        for outer in real.parents:
            if outer in resolved:
                raise DataError(f"{place} is inside {resolved[outer]}: name only one of them")


def walk(places: Sequence[str]) -> Iterator[str]:
    """Files as named, folders as the images under them: hidden names and links to folders are passed over.

    Place by place, each in the order of its paths.
    """
    for place in places:
        path = str(Path(place))
        if Path(place).is_dir():
            yield from _under("" if path == "." else path if path.endswith(os.sep) else path + os.sep)
        else:
            yield path


def _under(prefix: str) -> Iterator[str]:
    for name in _names(prefix):
        if name.endswith(os.sep):
            yield from _under(prefix + name)
        else:
            yield prefix + name


def _names(prefix: str) -> list[str]:
    """The images and folders in here; a folder's name ends as in a path, so that they sort as their paths do."""
    names = []
    try:
        with os.scandir(prefix or ".") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    names.append(entry.name + os.sep)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    names.append(entry.name)
    except OSError as error:
        raise DataError(f"cannot look into {prefix or '.'}: {error.strerror}") from error
    names.sort()
    return names
