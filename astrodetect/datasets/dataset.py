"""Labelled image data sets, from class folders, parts of class folders or a .csv table.

Reading a data set decodes every image once, labels the good ones and lists the unusable files with the reason.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets import class_folders, tables
from astrodetect.datasets.tables import is_table
from astrodetect.errors import DataError, ImageError
from astrodetect.progress import track_progress
from astrodetect.records import ImageContract, ImagePath
from astrodetect.storage.references import base_name, join_reference, parent_folder, relative_name

MIN_IMAGES_PER_CLASS = 10  # to train on


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not a usable image, and why."""

    path: ImagePath
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled images of one part; `labels[i]` is the index in `classes` of the class of `paths[i]`."""

    classes: tuple[str, ...]
    paths: list[ImagePath]
    labels: NDArray[np.int64]
    fingerprint: str  # SHA-256 over every image's relative path and contents
    skipped: list[SkippedFile] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)  # of each image, "" for one without; empty: no image has one

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Number of images of each class."""
        per_label = Counter(self.labels.tolist())
        return {name: per_label[index] for index, name in enumerate(self.classes)}

    def subset(self, indices: NDArray[np.int64]) -> "Dataset":
        """The images at these indices, in this order."""
        paths, groups = [self.paths[i] for i in indices], [self.groups[i] for i in indices] if self.groups else []
        return Dataset(self.classes, paths, self.labels[indices], self.fingerprint, groups=groups)

    def limit_class(self, name: str, limit: int, seed: int) -> "Dataset":
        """The data set with at most `limit` images of this class, drawn at random with `seed`."""
        if name not in self.classes:
            raise DataError(f"no class {name} to limit: the classes are {', '.join(self.classes)}")
        members = np.flatnonzero(self.labels == self.classes.index(name))
        dropped = np.random.default_rng(seed).permutation(members)[limit:]
        remaining = self.subset(np.setdiff1d(np.arange(len(self)), dropped))
        return replace(remaining, skipped=self.skipped)

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Stratified random split: the rest, and `share` of every class; images of one group stay together."""
        rng = np.random.default_rng(seed)
        members_of: dict[str | int, list[int]] = defaultdict(list)
        for index in range(len(self)):
            members_of[self._group(index)].append(index)
        mask = np.zeros(len(self), dtype=bool)
        for label in range(len(self.classes)):
            images_of_class = rng.permutation(np.flatnonzero(self.labels == label))
            wanted = max(1, round(share * len(images_of_class))) - int(mask[images_of_class].sum())
            sizes = Counter(self._group(index) for index in images_of_class.tolist())
            for group, size in sizes.items():  # in the order of their first images
                if not mask[members_of[group]].any() and size <= wanted:
                    mask[members_of[group]] = True
                    wanted -= size
            if not mask[images_of_class].any():
                mask[members_of[min(sizes, key=sizes.__getitem__)]] = True
        rest, held_out = self.subset(np.flatnonzero(~mask)), self.subset(np.flatnonzero(mask))
        for name, count in rest.counts().items():
            if count == 0:
                raise DataError(f"no image of the class {name} is left to train on: its groups are too large to split")
        return rest, held_out

    def _group(self, index: int) -> str | int:
        """The group of an image; an image without one is a group of its own."""
        return (self.groups[index] if self.groups else "") or index


def read_dataset(
    path: ImagePath,
    classes: Sequence[str],
    *,
    title: str,
    part: str | None = None,
    contract: ImageContract = ImageContract(),  # noqa: B008 - frozen
    renamed: Mapping[str, str] = {},
) -> Dataset:
    """Every image of these classes, each decoded once to check it; images of other classes are not read.

    `part` selects one part of a data set that has parts; None reads all of them. An image without a part beside others
    with one is an error: it would be of none, or be trained on and tested with. `renamed` maps names of classes in the
    data to those in `classes`.
    """
    class_indices = {name: index for index, name in enumerate(classes)}
    listed = [
        replace(item, label=renamed.get(item.label, item.label))
        for item in class_folders.list_items(path, None if renamed else classes)
    ]
    items = [item for item in listed if item.label in class_indices]
    if part is not None:
        counts = Counter(item.part for item in listed)
        if part not in counts:
            raise DataError(f"{path} has no part {part}: it has {', '.join(filter(None, counts)) or 'no parts'}")
        if without := sum(item.part == tables.NO_PART for item in items):
            raise DataError(
                f"{without:,} of {len(items):,} images of {path} have no part: give one to each, or to none"
            )
        items = [item for item in items if item.part == part]
    items.sort(key=lambda item: class_indices[item.label])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(
            track_progress(
                pool.map(partial(_digest_or_error, contract=contract), (item.path for item in items)),
                f"reading {title}",
                len(items),
            )
        )
    is_file = is_table(path)
    root = parent_folder(str(path)) if is_file else path
    paths, labels, groups, skipped, fingerprint = [], [], [], [], hashlib.sha256()
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, bytes):
            paths.append(item.path)
            labels.append(class_indices[item.label])
            groups.append(item.group)
            relative_path = relative_name(item.path, root).encode(errors="surrogateescape")
            fingerprint.update(relative_path + b"\0" + outcome)
        else:
            skipped.append(SkippedFile(item.path, outcome))
    dataset = Dataset(tuple(classes), paths, np.array(labels, dtype=np.int64), fingerprint.hexdigest(), skipped, groups)
    label_of = {item.path: item.label for item in items}
    for name, count in dataset.counts().items():
        if count == 0:
            bad = [file for file in skipped if label_of[file.path] == name]
            why = (
                f": {len(bad)} files cannot be read; the first, {base_name(str(bad[0].path))}: {bad[0].reason}"
                if bad
                else ""
            )
            of_part = f" of the part {part}" if part else ""
            raise DataError(f"{_describe_class(path, name)} contains no image{of_part}{why}")
    return dataset


def _describe_class(path: ImagePath, name: str) -> str:
    return f"the class {name} of {path}" if is_table(path) else join_reference(str(path), name)


def _digest_or_error(path: ImagePath, contract: ImageContract) -> bytes | str:
    """SHA-256 of a readable image's contents, or why it cannot be used."""
    try:
        data = images.read_bytes(path)
        images.decode(data, contract)
    except ImageError as error:
        return str(error)
    return hashlib.sha256(data).digest()
