"""What was found about the images of a run, for its table and its page."""

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import consensus
from astrodetect.anomalies.novelty import NoveltyResult
from astrodetect.anomalies.projection import Projection
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType, write_parquet
from astrodetect.records import Floats


@dataclass(frozen=True, slots=True)
class AnomalyResults:
    """How unusual each image is, where it lies on the map, and what people said of some."""

    paths: Sequence[Path]
    labels: Sequence[str]  # empty where there is none
    sha256: Sequence[str]  # of the files
    looked: NoveltyResult
    flat: Projection
    told: Mapping[int, str]  # image → what a person called it
    interest: Floats | None  # what was learnt from that; None where nothing was told
    skipped: Sequence[tuple[Path, str]]  # files that are no images, and why

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The detectors."""
        return tuple(self.looked.scores)

    @property
    def order(self) -> NDArray[np.int64]:
        """The images, the first one to look at first."""
        return order_images(self.looked.strength, self.interest)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Of each image its place in that order, from 1."""
        found = np.empty(len(self), np.int64)
        found[self.order] = np.arange(1, len(self) + 1)
        return found

    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """Of each detector: which place it gives each image, from 1."""
        return {name: consensus.ranks(scores) for name, scores in self.looked.scores.items()}

    def flagged_by(self) -> dict[str, NDArray[np.bool_]]:
        """By each detector, and by all of them."""
        return {**self.looked.flagged, "consensus": self.looked.consensus}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an image is unusual: the nearest ordinary images, and an occlusion map against the first of them."""

    image: int  # index among the analysed images
    neighbours: Sequence[Path]
    heat: Floats | None  # None if a file could not be read


def order_images(strength: Floats, interest: Floats | None) -> NDArray[np.int64]:
    """Images by interest where there is any, and by strength where that is equal."""
    return np.lexsort((-strength,) if interest is None else (-strength, -interest))


OUTPUT_NAMES = {"anomalies.csv", "anomalies.parquet", "anomalies.html", "ids"}


def check_output_folder(place: Path) -> None:
    """Whether results can come here, before any work is done for them: nothing that is not ours is ever removed."""
    before = _before(place)
    if before.is_dir() and not place.exists():
        before.rename(place)  # a process was killed between two renames
    if place.exists() and not place.is_dir():
        raise DataError(f"{place} is there and no folder: name another --output")
    strangers = sorted({path.name for path in place.iterdir()} - OUTPUT_NAMES) if place.is_dir() else []
    if strangers:
        raise DataError(f"{place} holds {strangers[0]}, which no run made: move it, or name another --output")


@contextmanager
def replace_output_folder(place: Path) -> Iterator[Path]:
    """An empty folder that takes the place of an earlier run's when all is in it."""
    staged = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        try:
            staged.mkdir(parents=True)
            yield staged
            check_output_folder(place)
            if place.is_dir():
                shutil.rmtree(_before(place), ignore_errors=True)
                place.rename(_before(place))
            staged.rename(place)
            shutil.rmtree(_before(place), ignore_errors=True)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write to {place}: {error.strerror or error}") from error


def _before(place: Path) -> Path:
    return place.with_name(f".{place.name}.before")


TableFormat = Literal["csv", "parquet"]


def write_tables(folder: Path, findings: AnomalyResults, kind: TableFormat) -> None:
    """`anomalies.csv` or `.parquet`, and `ids/` with a list for each detector and one for all of them."""
    place, columns = folder / f"anomalies.{kind}", _columns(findings)
    if kind == "parquet":
        write_parquet(place, _column_types(columns), _rows(findings))
    else:
        _csv(place, columns, _rows(findings))
    lists = folder / "ids"
    lists.mkdir()
    for name, flags in findings.flagged_by().items():
        with (lists / f"{name}.txt").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for image in findings.order[flags[findings.order]]:
                file.write(str(findings.paths[image]).replace("\n", "\\n") + "\n")


def _columns(findings: AnomalyResults) -> list[str]:
    """What every table has, then three of each detector, then what depends on labels of people, then errors."""
    each = [column for name in findings.names for column in (name, f"{name}_rank", f"{name}_flag")]
    ours = [] if findings.interest is None else ["interest", "your_label"]
    first = ["rank", "path", "label", "novelty", "strength", "agreement", "consensus"]
    return [*first, *each, "x", "y", *ours, "image_sha256", "error"]


def _rows(findings: AnomalyResults) -> Iterator[list[Any]]:
    """The images in the order in which to look at them, then the files that are none, with nothing but the reason."""
    looked, ranks = findings.looked, findings.ranks()
    agreement, agreed = looked.agreement, looked.consensus
    on_map = {int(image): place for place, image in enumerate(findings.flat.places)}
    for rank, image in enumerate(findings.order.tolist(), start=1):
        row = [rank, str(findings.paths[image]), findings.labels[image] or None]
        row += [float(values[image]) for values in (looked.novelty, looked.strength, agreement)]
        row.append(bool(agreed[image]))
        for name in findings.names:
            row += [float(looked.scores[name][image]), int(ranks[name][image]), bool(looked.flagged[name][image])]
        row += [float(at) for at in findings.flat.xy[on_map[image]]] if image in on_map else [None, None]
        if findings.interest is not None:
            row += [float(findings.interest[image]), findings.told.get(image)]
        yield [*row, findings.sha256[image], None]
    for path, reason in findings.skipped:
        yield [None, str(path), *[None] * (len(_columns(findings)) - 3), reason]


def _csv(place: Path, columns: list[str], rows: Iterator[list[Any]]) -> None:
    with place.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_said(value) for value in row] for row in rows)


def _said(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, float) else value  # as exact as they are


def _column_types(columns: list[str]) -> dict[str, ColumnType]:
    texts = {"path", "label", "your_label", "image_sha256", "error"}

    def kind(name: str) -> ColumnType:
        if name in texts:
            return "text"
        if name == "consensus" or name.endswith("_flag"):
            return "boolean"
        return "integer" if name == "rank" or name.endswith("_rank") else "number"

    return {name: kind(name) for name in columns}
