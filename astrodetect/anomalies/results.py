"""The results of an anomaly search: per-image results, their tables, and the folder they are written to."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files
from astrodetect.anomalies import consensus
from astrodetect.anomalies.conformal import Discoveries
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.anomalies.projection import Projection
from astrodetect.csv_cells import csv_cell, write_csv
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.records import Floats, ImagePath, SkyObject
from astrodetect.sky.catalogue import OWN_POSITIONS, Catalogue
from astrodetect.sky.known_objects import KNOWN_COLUMNS
from astrodetect.sky.table_writers import TABLE_FORMATS, write_table
from astrodetect.storage import objects
from astrodetect.storage.references import join_reference

OUTPUT_NAMES = {*(f"anomalies.{name}" for name in TABLE_FORMATS), "anomalies.html", "ids"}

DISCOVERIES = "flagged"  # column and list of the discoveries


@dataclass(frozen=True, slots=True)
class AnomalyResults:
    """Novelty, map position and labels of each image of a run."""

    paths: Sequence[ImagePath]
    labels: Sequence[str]  # class labels of the data set; empty where there is none
    sha256: Sequence[str]  # of the files
    novelty: NoveltyResult
    discoveries: Discoveries
    projection: Projection
    review_labels: Mapping[int, str]  # image index → interesting, ordinary or artefact
    interest: Floats | None  # the posterior interest; None without review labels
    skipped: Sequence[tuple[ImagePath, str]]  # unreadable files and the reason
    catalogue: Catalogue | None = None  # whose columns the table gets
    sky_positions: Mapping[ImagePath, SkyObject] = field(default_factory=dict)  # of FITS files, by their WCS
    known: Sequence[Sequence[Any]] = ()  # the values of KNOWN_COLUMNS for each image, if compared with catalogues

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def detectors(self) -> tuple[str, ...]:
        """The detectors' names."""
        return tuple(self.novelty.scores)

    @property
    def order(self) -> NDArray[np.int64]:
        """Image indices, the most interesting first."""
        return order_images(self.novelty.strength, self.interest)

    @property
    def positions(self) -> NDArray[np.int64]:
        """The rank of each image in that order, from 1."""
        positions = np.empty(len(self), np.int64)
        positions[self.order] = np.arange(1, len(self) + 1)
        return positions

    def ranks(self) -> dict[str, NDArray[np.int64]]:
        """The rank of each image by each detector, from 1."""
        return {name: consensus.ranks(scores) for name, scores in self.novelty.scores.items()}

    def sky_object(self, image: int) -> SkyObject:
        """The object that an image shows, by the catalogue, or else by the image's own WCS."""
        path = self.paths[image]
        own, listed = self.sky_positions.get(path), self.catalogue.sky_object(path) if self.catalogue else None
        if listed is None or own is None or listed.ra is not None:
            return listed or own or SkyObject()
        return SkyObject(own.ra, own.dec, listed.object_id)

    def flagged_by(self) -> dict[str, NDArray[np.bool_]]:
        """Flags of each detector, and `consensus`: flagged by all of them."""
        return {**self.novelty.flagged, "consensus": self.novelty.consensus}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an image is unusual: the nearest ordinary images, and an occlusion map against the first of them."""

    image: int  # index among the analysed images
    neighbours: Sequence[ImagePath]
    heat: Floats | None  # None if a file could not be read


def order_images(strength: Floats, interest: Floats | None) -> NDArray[np.int64]:
    """Image indices by descending interest where there is any, then by descending strength."""
    return np.lexsort((-strength,) if interest is None else (-strength, -interest))


def check_output_folder(output: Path | str) -> None:
    """Raise a DataError if results cannot be written here; nothing but earlier results is ever removed.

    A string is the URL of a folder on an object store.
    """
    if isinstance(output, str):
        objects.check_writable(output)
        _check_foreign(output, {name.partition("/")[0] for name in objects.list_names(output)})
        return
    folder = output
    if folder.name in {"", ".."} or folder.is_mount():
        raise DataError(f"{folder} cannot be replaced as a whole, as results are: name a folder in it as --output")
    previous = _previous(folder)
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)  # the process was killed between the two renames
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} exists and is not a folder: name another --output")
    _check_foreign(folder, {path.name for path in folder.iterdir()} if folder.is_dir() else set())


def _check_foreign(output: Path | str, names: set[str]) -> None:
    if foreign := sorted(names - OUTPUT_NAMES):
        raise DataError(f"{output} holds {foreign[0]}, which is no result of a run: move it, or name another --output")


@contextmanager
def replace_output_folder(folder: Path | str) -> Iterator[Path]:
    """Yield an empty staging folder that replaces the output folder when the block succeeds.

    On an object store the files are put one after the other, the report last, and what is left of earlier results is
    deleted.
    """
    if isinstance(folder, str):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            _put_folder(Path(name), folder)
        return
    if folder.is_symlink():
        folder = folder.resolve()
    atomic_files.remove_abandoned(folder)
    staged = atomic_files.part_path(folder)
    try:
        try:
            staged.mkdir(parents=True)
            yield staged
            check_output_folder(folder)
            if folder.is_dir():
                shutil.rmtree(_previous(folder), ignore_errors=True)
                atomic_files.move_folder(folder, _previous(folder))
            staged.rename(folder)
            shutil.rmtree(_previous(folder), ignore_errors=True)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror or error}") from error


def _put_folder(staged: Path, url: str) -> None:
    check_output_folder(url)
    names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
    for name in sorted(names, key=lambda name: (name.endswith(".html"), name)):
        objects.write_bytes(join_reference(url, name), (staged / name).read_bytes())
    for name in {*objects.list_names(url)} - {*names}:
        objects.delete(join_reference(url, name))


def _previous(folder: Path) -> Path:
    return atomic_files.hidden_path(folder, ".before")


def write_tables(folder: Path, results: AnomalyResults, table_format: str) -> None:
    """Write `anomalies.csv` or another format, and `ids/`: the discoveries, what each detector and all flag."""
    path, columns = folder / f"anomalies.{table_format}", table_columns(results)
    known = {str(path): [*cells] for path, cells in zip(results.paths, results.known, strict=False)}
    taken = [*columns, *(KNOWN_COLUMNS if known else ())]
    joined = results.catalogue.join(taken) if results.catalogue else OWN_POSITIONS if results.sky_positions else None
    types = _column_types(columns) | dict(joined.columns if joined else {}) | (KNOWN_COLUMNS if known else {})
    own = {str(path): position for path, position in results.sky_positions.items()}

    def added(row: list[Any], *, typed: bool) -> list[Any]:
        cells = joined.cells(row[1], own.get(row[1]), typed=typed) if joined else []
        known_cells = known.get(row[1], [None] * len(KNOWN_COLUMNS)) if known else []
        return [*cells, *(known_cells if typed else map(csv_cell, known_cells))]

    rows = ([*row, *added(row, typed=True)] for row in table_rows(results))
    if table_format != "csv":
        write_table(str(path), types, rows, "Images by how unusual they are")
    else:
        cells = ([*map(csv_cell, row), *added(row, typed=False)] for row in table_rows(results))
        with path.open("wb") as table:
            write_csv(table, types, cells)
    lists = folder / "ids"
    lists.mkdir()
    for name, flags in {**results.flagged_by(), DISCOVERIES: results.discoveries.flagged}.items():
        with (lists / f"{name}.txt").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for image in results.order[flags[results.order]]:
                file.write(str(results.paths[image]).replace("\n", "\\n") + "\n")


def table_columns(results: AnomalyResults) -> list[str]:
    """Common columns, three per detector, map position, those of review labels, digest and error."""
    first = ["rank", "path", "label", "novelty", "strength", DISCOVERIES, "view", "agreement", "consensus"]
    per_detector = [column for name in results.detectors for column in (name, f"{name}_rank", f"{name}_flag")]
    review = [] if results.interest is None else ["interest", "your_label"]
    return [*first, *per_detector, "x", "y", *review, "image_sha256", "error"]


def table_rows(results: AnomalyResults) -> Iterator[list[Any]]:
    """The images in review order, then the unreadable files with the reason only."""
    novelty, ranks = results.novelty, results.ranks()
    agreement, unanimous = novelty.agreement, novelty.consensus
    map_index = {int(image): index for index, image in enumerate(results.projection.indices)}
    for rank, image in enumerate(results.order.tolist(), start=1):
        row = [rank, str(results.paths[image]), results.labels[image] or None]
        row += [float(novelty.novelty[image]), float(novelty.strength[image])]
        row += [bool(results.discoveries.flagged[image]), novelty.view(image)]
        row += [float(agreement[image]), bool(unanimous[image])]
        for name in results.detectors:
            row += [float(novelty.scores[name][image]), int(ranks[name][image]), bool(novelty.flagged[name][image])]
        row += [float(at) for at in results.projection.xy[map_index[image]]] if image in map_index else [None, None]
        if results.interest is not None:
            row += [float(results.interest[image]), results.review_labels.get(image)]
        yield [*row, results.sha256[image], None]
    for path, reason in results.skipped:
        yield [None, str(path), *[None] * (len(table_columns(results)) - 3), reason]


def _column_types(columns: list[str]) -> dict[str, ColumnType]:
    texts = {"path", "label", "your_label", "view", "image_sha256", "error"}

    def column_type(name: str) -> ColumnType:
        if name in texts:
            return "text"
        if name in {DISCOVERIES, "consensus"} or name.endswith("_flag"):
            return "boolean"
        return "integer" if name == "rank" or name.endswith("_rank") else "number"

    return {name: column_type(name) for name in columns}
