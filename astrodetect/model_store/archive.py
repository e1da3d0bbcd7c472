"""The folders of earlier versions of models, each whole: its files are linked, not copied, where the disk can."""

import shutil
from collections.abc import Iterable
from pathlib import Path

KEPT = 3  # of each model, besides the one in its place
PART, GONE = ".part", ".gone"  # a version that is not whole yet; one that is none any more


def versions(folder: Path, name: str) -> dict[str, Path]:
    """Those of a model, the one that was replaced last first: version → the folder with its files."""
    found = [(place.name.partition("."), place) for place in _shelf(folder, name).glob("*.*")]
    numbered = [(int(number), version, place) for (number, _, version), place in found if number.isdecimal()]
    return {version: place for _, version, place in sorted(numbered, reverse=True)}


def keep(folder: Path, name: str, version: str, files: Iterable[str]) -> None:
    """Has these files, in place now, as the version that is replaced last: all of them or none."""
    shelf = _shelf(folder, name)
    shutil.rmtree(shelf / PART, ignore_errors=True)
    (shelf / PART).mkdir(parents=True)
    for file in files:
        link(folder / file, shelf / PART / file)
    known = versions(folder, name)
    number = 1 + max((int(place.name.partition(".")[0]) for place in known.values()), default=0)
    if version in known:
        _drop(known[version])
    (shelf / PART).rename(shelf / f"{number:04}.{version}")


def prune(folder: Path, name: str, serving: str) -> None:
    """Lets go of what is more than KEPT, and of the one that is in the model's place again."""
    known = versions(folder, name)
    if again := known.pop(serving, None):
        _drop(again)
    for place in list(known.values())[KEPT:]:
        _drop(place)


def link(file: Path, place: Path) -> None:
    """The same file at another place: a second name for its bytes, or a copy where the disk knows no such names."""
    try:
        place.hardlink_to(file.resolve())
    except OSError:
        shutil.copyfile(file, place)


def _drop(place: Path) -> None:
    """Cut short, it leaves nothing that could be taken for a version."""
    gone = place.with_name(GONE)
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    shutil.rmtree(gone)


def _shelf(folder: Path, name: str) -> Path:
    return folder / f".{name}.earlier"
