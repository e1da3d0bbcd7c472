"""Labelled images dealt out to train, validation and test: every class in its shares, copies of one image together."""

import csv
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files
from astrodetect.datasets.dataset import PARTS, ListedImage
from astrodetect.errors import DataError
from astrodetect.progress import track

TABLE_SUFFIX = ".csv"


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How images are dealt out."""

    validation: float = 0.15  # share of each class
    test: float = 0.15
    limits: Mapping[str, int] | None = None  # most images of a class
    limit: int | None = None  # of every class that has none of its own
    seed: int = 0

    def shares(self) -> dict[str, float]:
        """Of each part."""
        return dict(zip(PARTS, (1 - self.validation - self.test, self.validation, self.test), strict=True))


def split_images(items: Sequence[ListedImage], alike: NDArray[np.int64], plan: SplitPlan) -> list[ListedImage]:
    """Each image with its part and group; images that are `alike`, or of one group before, are one group.

    A group goes where its first image's class lacks most. Those past a limit are left out.
    """
    for name in plan.limits or {}:
        if all(item.label != name for item in items):
            raise DataError(f"no class is called {name}: there are {', '.join(sorted({item.label for item in items}))}")
    together = _together(items, alike)
    random = np.random.default_rng(plan.seed)
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for members in together:
        by_class[items[members[0]].label].append(members)
    dealt = {}
    for name in sorted(by_class):
        groups = [by_class[name][place] for place in random.permutation(len(by_class[name]))]
        kept = _within(groups, (plan.limits or {}).get(name, plan.limit))
        for members, part in _dealt(kept, plan.shares()):
            group = f"{items[members[0]].label}-{members[0] + 1}" if len(members) > 1 else ""
            for place in members:
                dealt[place] = replace(items[place], part=part, group=group)
    return [dealt[place] for place in sorted(dealt)]


def check_output(place: Path) -> None:
    """Whether a split can come to this place, before any work is done for it."""
    if not place.absolute().parent.is_dir():
        raise DataError(f"no folder {place.parent} for the output")
    if place.is_dir() and place.suffix.lower() != TABLE_SUFFIX:
        if any(place.iterdir()):
            raise DataError(f"{place} is not empty: name another --output")
    elif place.exists():
        raise DataError(f"{place} is there already: name another --output")


def write_split(dealt: Sequence[ListedImage], place: Path, *, copy: bool) -> None:
    """A .csv of path, label, part and group, or part/class folders of hard links: whole or not at all.

    Where there can be no links, and where `copy` says so, they are copies.
    """
    try:
        if place.suffix.lower() == TABLE_SUFFIX:
            with atomic_files.replacing(place.absolute()) as part:
                _write_table(dealt, part)
        else:
            _write_folders(dealt, place.absolute(), copy=copy)
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror}") from error


def _together(items: Sequence[ListedImage], alike: NDArray[np.int64]) -> list[list[int]]:
    """The places of images that must not be parted, in the order of the first of each."""
    heads = list(range(len(items)))

    def head(place: int) -> int:
        while heads[place] != place:
            heads[place] = heads[heads[place]]
            place = heads[place]
        return place

    first: dict[object, int] = {}
    for place, (item, number) in enumerate(zip(items, alike.tolist(), strict=True)):
        for key in (number, item.group):
            if key != "":
                one, other = head(first.setdefault(key, place)), head(place)
                heads[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = defaultdict(list)
    for place in range(len(items)):
        members[head(place)].append(place)
    return list(members.values())


def _within(groups: list[list[int]], limit: int | None) -> list[list[int]]:
    """As many groups, in their order, as have no more images than the limit together."""
    if limit is None:
        return groups
    kept, count = [], 0
    for members in groups:
        if count + len(members) <= limit:
            kept.append(members)
            count += len(members)
    return kept


def _dealt(groups: list[list[int]], shares: Mapping[str, float]) -> list[tuple[list[int], str]]:
    """The largest groups first, each to the part that lacks most."""
    total = sum(map(len, groups))
    lacking = {part: share * total for part, share in shares.items()}
    dealt = []
    for members in sorted(groups, key=len, reverse=True):
        part = max(lacking, key=lambda name: lacking[name])
        lacking[part] -= len(members)
        dealt.append((members, part))
    return dealt


def _write_table(dealt: Sequence[ListedImage], place: Path) -> None:
    home = place.parent
    with place.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "label", "part", "group"])
        for item in dealt:
            path = Path(os.path.relpath(item.path.absolute(), home)).as_posix()
            table.writerow([path, item.label, item.part, item.group])


def _write_folders(dealt: Sequence[ListedImage], place: Path, *, copy: bool) -> None:
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fill(dealt, part, copy=copy)
        if place.is_dir():
            place.rmdir()
        part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fill(dealt: Sequence[ListedImage], folder: Path, *, copy: bool) -> None:
    for item in track(dealt, "writing images", len(dealt)):
        home = folder / item.part / item.label
        if home.parent.parent != folder or not item.label.strip("."):
            raise DataError(f"the class {item.label} cannot be the name of a folder: write a .csv")
        home.mkdir(parents=True, exist_ok=True)
        wanted, number = home / item.path.name, 1
        while wanted.exists():  # of folders that come together
            number += 1
            wanted = home / f"{item.path.stem}-{number}{item.path.suffix}"
        _put(item.path, wanted, copy=copy)


def _put(source: Path, target: Path, *, copy: bool) -> None:
    if not copy:
        try:
            target.hardlink_to(source)
        except OSError:  # another disk, or one without links
            copy = True
    if copy:
        shutil.copyfile(source, target)
