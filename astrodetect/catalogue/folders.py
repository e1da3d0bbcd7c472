"""Class folders to a catalogue: every image read once, the bad ones named, the good ones labelled."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.errors import DataError, ImageError
from astrodetect.progress import track
from astrodetect.records import ImageContract

SAMPLE_COMMAND = "python -m astrodetect simulate"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no usable image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Labelled images of one data part; `labels[i]` is the number of the class of `paths[i]`."""

    classes: tuple[str, ...]
    paths: list[Path]
    labels: NDArray[np.int64]
    fingerprint: str  # of every image's place and bytes: the same images, the same fingerprint
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """How many images each class has."""
        found = Counter(self.labels.tolist())
        return {name: found[number] for number, name in enumerate(self.classes)}

    def subset(self, keep: NDArray[np.int64]) -> "Catalogue":
        """Only these images, in this order."""
        return Catalogue(self.classes, [self.paths[i] for i in keep], self.labels[keep], self.fingerprint)

    def split(self, share: float, seed: int) -> tuple["Catalogue", "Catalogue"]:
        """The rest and `share` of every class, drawn by `seed`."""
        random = np.random.default_rng(seed)
        held: list[int] = []
        for number in range(len(self.classes)):
            members = random.permutation(np.flatnonzero(self.labels == number))
            held.extend(members[: max(1, round(share * len(members)))].tolist())
        chosen = np.zeros(len(self), dtype=bool)
        chosen[held] = True
        return self.subset(np.flatnonzero(~chosen)), self.subset(np.flatnonzero(chosen))


def read(folder: Path, classes: Sequence[str], *, title: str) -> Catalogue:
    """Every image under `folder`/CLASS, each decoded once to see that it can be; other folders are not looked at."""
    files = [(path, number) for number, name in enumerate(classes) for path in _files(folder, name)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = list(track(pool.map(_check, (path for path, _ in files)), f"reading {title}", len(files)))
    good, labels, skipped, fingerprint = [], [], [], hashlib.sha256()
    for (path, number), outcome in zip(files, checked, strict=True):
        if isinstance(outcome, bytes):
            good.append(path)
            labels.append(number)
            fingerprint.update(path.relative_to(folder).as_posix().encode() + b"\0" + outcome)
        else:
            skipped.append(Skipped(path, outcome))
    catalogue = Catalogue(tuple(classes), good, np.array(labels, dtype=np.int64), fingerprint.hexdigest(), skipped)
    for name, count in catalogue.counts().items():
        if count == 0:
            bad = [file for file in skipped if file.path.is_relative_to(folder / name)]
            why = f": {len(bad)} files cannot be read, the first, {bad[0].path.name}, {bad[0].reason}" if bad else ""
            raise DataError(f"{folder / name} holds no image{why}")
    return catalogue


def _files(folder: Path, name: str) -> list[Path]:
    if not (folder / name).is_dir():
        raise DataError(f"no folder {folder / name}: put images there, or make a sample with {SAMPLE_COMMAND}")
    return sorted(path for path in (folder / name).rglob("*") if path.is_file() and not path.name.startswith("."))


def _check(path: Path) -> bytes | str:
    """The digest of a good image's bytes, or why it is not one."""
    try:
        data = path.read_bytes()
        images.read(data, ImageContract())
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return hashlib.sha256(data).digest()
