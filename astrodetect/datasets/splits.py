"""Stratified split of labelled images into train, validation and test, with duplicates kept in one part."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files
from astrodetect.csv_cells import write_csv
from astrodetect.datasets.listing import SIMULATION_FILE, count_simulated
from astrodetect.datasets.sources.manifest import CATALOGUE
from astrodetect.datasets.tables import PARTS, ListedImage
from astrodetect.errors import DataError
from astrodetect.progress import track_progress
from astrodetect.records import ImagePath
from astrodetect.sky.catalogue import Catalogue
from astrodetect.storage.references import is_url, relative_name

TABLE_SUFFIX = ".csv"
SPLIT_COLUMNS = ("path", "label", "part", "group")


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Shares, limits and seed of a split."""

    validation: float = 0.15  # share of each class
    test: float = 0.15
    limits: Mapping[str, int] | None = None  # maximum number of images, by class
    limit: int | None = None  # for every class without a limit of its own
    seed: int = 0

    def shares(self) -> dict[str, float]:
        """Share of each part."""
        return dict(zip(PARTS, (1 - self.validation - self.test, self.validation, self.test), strict=True))


def split_images(
    items: Sequence[ListedImage], duplicate_groups: NDArray[np.int64], plan: SplitPlan
) -> list[ListedImage]:
    """The images with their part and group; duplicates and images of one listed group stay in one part.

    A group is assigned to the part that its classes are most short of. Images past a limit are left out.
    """
    for name in plan.limits or {}:
        if all(item.label != name for item in items):
            classes = ", ".join(sorted({item.label for item in items}))
            raise DataError(f"no class is called {name}: the classes are {classes}")
    rng = np.random.default_rng(plan.seed)
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for members in _merge_groups(items, duplicate_groups):
        by_class[items[members[0]].label].append(members)
    groups, assigned, taken = list[list[int]](), {}, Counter[str]()
    for name in sorted(by_class):
        shuffled = [by_class[name][index] for index in rng.permutation(len(by_class[name]))]
        groups += [members for members in shuffled if _within_limits(plan, [items[at].label for at in members], taken)]
    groups.sort(key=len, reverse=True)
    parts = _assign_parts([Counter(items[at].label for at in members) for members in groups], plan.shares())
    for members, part in zip(groups, parts, strict=True):
        group = f"{items[members[0]].label}-{members[0] + 1}" if len(members) > 1 else ""
        for index in members:
            assigned[index] = replace(items[index], part=part, group=group)
    return [assigned[index] for index in sorted(assigned)]


def check_output(path: Path) -> None:
    """Raise DataError if a split cannot be written to this path."""
    if not path.absolute().parent.is_dir():
        raise DataError(f"no folder {path.parent} for the output")
    if path.is_dir() and path.suffix.lower() != TABLE_SUFFIX:
        if any(path.iterdir()):
            raise DataError(f"{path} is not empty: choose another --output")
    elif path.exists():
        raise DataError(f"{path} exists already: choose another --output")


def write_split(
    items: Sequence[ListedImage],
    path: Path,
    *,
    copy: bool = False,
    replace: bool = False,
    catalogue: Catalogue | None = None,
) -> None:
    """Write a .csv of path, label, part and group, or part/class folders of hard links, atomically.

    Images are copied where `copy` is set or hard links are not possible. A .csv is an error that exists already and is
    not to be replaced. The columns of a catalogue are added; beside folders they are written as their catalogue.csv.
    """
    writing = atomic_files.replacing if replace else atomic_files.creating
    try:
        if path.suffix.lower() == TABLE_SUFFIX:
            with writing(path.absolute()) as temporary:
                _write_table([(item.path, item) for item in items], temporary, catalogue)
        else:
            _write_folders(items, path.absolute(), catalogue, copy=copy)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _merge_groups(items: Sequence[ListedImage], duplicate_groups: NDArray[np.int64]) -> list[list[int]]:
    """Indices of images connected by a duplicate group or a listed group (union–find), ordered by first member."""
    parents = list(range(len(items)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_with_key: dict[object, int] = {}
    for index, (item, duplicate_group) in enumerate(zip(items, duplicate_groups.tolist(), strict=True)):
        for key in (duplicate_group, item.group):
            if key != "":
                left, right = root(first_with_key.setdefault(key, index)), root(index)
                parents[max(left, right)] = min(left, right)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(items)):
        members[root(index)].append(index)
    return list(members.values())


def _within_limits(plan: SplitPlan, labels: list[str], taken: Counter[str]) -> bool:
    """Whether a group, of which copies may have several labels, is within the limit of each; if so, it is counted."""
    counts = Counter(labels)
    for name, count in counts.items():
        limit = (plan.limits or {}).get(name, plan.limit)
        if limit is not None and taken[name] + count > limit:
            return False
    taken.update(counts)
    return True


def _assign_parts(groups: Sequence[Counter[str]], shares: Mapping[str, float]) -> Iterator[str]:
    """Greedy assignment of groups with so many images of each class, each to the part with the largest deficit.

    Of a group with several classes, to the part that brings all of them nearest to their shares, by least squares.
    """
    totals = sum(groups, Counter[str]())
    deficits = {part: {name: share * total for name, total in totals.items()} for part, share in shares.items()}
    for counts in groups:
        weights = {name: count / totals[name] ** 2 if len(counts) > 1 else 1.0 for name, count in counts.items()}
        gains = {part: sum(weights[name] * deficits[part][name] for name in counts) for part in deficits}
        part = max(gains, key=lambda name: gains[name])
        for name, count in counts.items():
            deficits[part][name] -= count
        yield part


def _write_table(placed: Sequence[tuple[ImagePath, ListedImage]], path: Path, catalogue: Catalogue | None) -> None:
    """The images where they are, by paths relative to the table, with what the catalogue says of them."""
    joined = catalogue.join(SPLIT_COLUMNS) if catalogue else None

    def rows() -> Iterator[list[object]]:
        for place, item in placed:
            relative_path = str(place)
            if not is_url(relative_path):
                relative_path = relative_name(Path(place).absolute(), path.parent)
            cells = joined.cells(item.path) if joined else ()
            yield [relative_path, item.label, item.part, item.group, *cells]

    with path.open("wb") as file:
        write_csv(file, [*SPLIT_COLUMNS, *(joined.columns if joined else ())], rows())


def _write_folders(items: Sequence[ListedImage], path: Path, catalogue: Catalogue | None, *, copy: bool) -> None:
    atomic_files.remove_abandoned(path)
    temporary = atomic_files.part_path(path)
    try:
        placed = _fill_folders(items, temporary, copy=copy)
        if catalogue:
            _write_table(placed, temporary / CATALOGUE, catalogue)
        if count_simulated([item.path for item in items]) == len(items):
            (temporary / SIMULATION_FILE).write_text("{}\n", encoding="utf-8")
        if path.is_dir():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill_folders(items: Sequence[ListedImage], root: Path, *, copy: bool) -> list[tuple[ImagePath, ListedImage]]:
    """Returns the images with where they are now."""
    placed: list[tuple[ImagePath, ListedImage]] = []
    for item in track_progress(items, "writing images", len(items)):
        folder = root / item.part / item.label
        if folder.parent.parent != root or not item.label.strip("."):
            raise DataError(f"the class name {item.label} cannot be a folder name: write a .csv instead")
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(item.path, Path):
            raise DataError(f"{item.path} is not a local file, so that no folder can link to it: write a .csv instead")
        target, number = folder / item.path.name, 1
        while target.exists():  # images of several folders may share a name
            number += 1
            target = folder / f"{item.path.stem}-{number}{item.path.suffix}"
        _link_or_copy(item.path, target, copy=copy)
        placed.append((target, item))
    return placed


def _link_or_copy(source: Path, target: Path, *, copy: bool) -> None:
    if not copy:
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without hard links
            copy = True
    if copy:
        shutil.copyfile(source, target)
