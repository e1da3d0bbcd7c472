"""Catalogues: which object an image shows, where it is, and what else is known of it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.records import SkyObject
from astrodetect.sky.catalogue_columns import (
    DEC_COLUMNS,
    ID_COLUMNS,
    ID_UCDS,
    PATH_COLUMNS,
    RA_COLUMNS,
    CatalogueColumns,
    cell_text,
    column_type,
    find_column,
    is_decimal,
    position_columns,
    read_angles,
    typed_cell,
)
from astrodetect.sky.positions import MAX_ID_CHARS, unused_name
from astrodetect.sky.table_readers import ObjectTable, read_column_names, read_object_table
from astrodetect.storage.references import (
    PARQUET_SUFFIXES,
    base_name,
    is_url,
    join_reference,
    member_reference,
    parent_folder,
    printable_url,
    suffix_path,
)

POSITION_COLUMNS: dict[str, ColumnType] = {"ra": "number", "dec": "number", "object_id": "text"}
LISTED_COLUMNS = {"label", "part", "group"}  # that a table of images has, and what is made of it as well
IMAGE_SUFFIX_PARTS = (".gz", ".fz")  # behind the suffix of an image


class Catalogue:
    """The rows of one or several tables, found by the image, or by the identifier that an image is named by."""

    has_images = True  # whether its rows name images, by paths or identifiers

    def __init__(self) -> None:
        self.files: list[str] = []
        self.chosen = CatalogueColumns()  # that were named
        self.objects: list[SkyObject] = []  # of the rows
        self._columns: dict[str, list[Any]] = {}  # the other ones; lists may be short
        self._by_path: dict[str, int] = {}
        self._by_name: dict[str, int] = {}  # of rows that name a file without its folder
        self._by_id: dict[str, int] = {}  # of tables without paths
        self._folders: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def has_positions(self) -> bool:
        """Whether any row has one."""
        return any(sky_object.ra is not None for sky_object in self.objects)

    def join(self, taken: Iterable[str]) -> "JoinedColumns":
        """What a table with the columns `taken` gets of the catalogue: positions, identifiers, every other column."""
        taken = {*taken}
        kept = {name: values for name, values in self._columns.items() if not {name} & LISTED_COLUMNS & taken}
        names, used = dict[str, str](), taken | {*POSITION_COLUMNS}
        for column in kept:
            names[column] = column
            while names[column] in used:
                names[column] = f"catalogue_{names[column]}"
            used.add(names[column])
        types = {name: column_type(values) for name, values in kept.items()}
        return JoinedColumns(
            POSITION_COLUMNS | {names[name]: kind for name, kind in types.items()},
            self,
            [(values, types[name]) for name, values in kept.items()],
        )

    def sky_object(self, path: object) -> SkyObject | None:
        """The object that an image shows; None where the catalogue does not say."""
        row = self.find(path)
        return None if row is None else self.objects[row]

    def find(self, path: object) -> int | None:
        """The number of the image's row."""
        reference = str(path)
        row = self._by_path.get(_absolute(reference))
        shard, _, member = reference.rpartition("#")
        is_numbered = suffix_path(shard).endswith(PARQUET_SUFFIXES)  # rows, whose numbers are no names
        if row is None and (self._by_name or self._by_id) and not is_numbered:
            name = base_name(member)
            row = self._by_name.get(name)
            folder = self._folders.get(name)
            if row is not None and folder is not None and Path(folder, name).exists():
                return None  # the row is of another file, of the same name
            if row is None:
                row = self._by_id.get(_stem(name))
        return row

    def add_table(self, table: ObjectTable, name: str, folder: str | None, chosen: CatalogueColumns) -> None:
        """Adds the rows of a table, whose paths are relative to the folder, if any; DataError says what is wrong."""
        ra, dec = position_columns(table, name, chosen.ra, chosen.dec)
        object_id = find_column(table, name, chosen.object_id, ID_COLUMNS, ID_UCDS)
        path = find_column(table, name, chosen.path, PATH_COLUMNS, ()) if self.has_images else None
        if self.has_images and not (path or object_id or table.shard):
            raise DataError(f"{name} has no column of paths or identifiers: name one with --path or --id")
        first = len(self.objects)
        positions = zip(
            read_angles(table, ra, name, hours=True), read_angles(table, dec, name, hours=False), strict=True
        )
        ids: Sequence[Any] = table.columns[object_id] if object_id else [None] * len(table)
        for row, ((ra_deg, dec_deg), cell) in enumerate(zip(positions, ids, strict=True), start=1):
            known, identifier = ra_deg is not None and dec_deg is not None, cell_text(cell)
            if len(identifier or "") > MAX_ID_CHARS:
                raise DataError(f"{name}, row {row}: an identifier of more than {MAX_ID_CHARS} characters")
            self.objects.append(SkyObject(ra_deg if known else None, dec_deg if known else None, identifier))
        for column, values in table.columns.items():
            decimal = column in {"ra", "dec"} & {ra, dec} and is_decimal(values)
            if (column != path or table.shard) and not decimal and not column == object_id == "object_id":
                cells = self._columns.setdefault(column, [])
                cells += [None] * (first - len(cells))
                cells += values
        if table.shard:
            self._index_paths([member_reference(table.shard, row) for row in range(len(table))], first, None)
        if path:
            self._index_paths(table.columns[path], first, folder)
        else:
            for row, item in enumerate(self.objects[first:], start=first):
                if item.object_id:
                    self._by_id.setdefault(item.object_id, row)

    def _index_paths(self, paths: Sequence[Any], first: int, folder: str | None) -> None:
        for row, cell in enumerate(paths, start=first):
            if cell_path := cell_text(cell):
                reference = cell_path if folder is None else join_reference(folder, cell_path)
                self._by_path.setdefault(_absolute(reference), row)
                if "/" not in cell_path:
                    self._by_name.setdefault(cell_path, row)
                    if folder is not None and not is_url(folder):
                        self._folders.setdefault(cell_path, folder)


class ObjectCatalogue(Catalogue):
    """A catalogue whose objects are cut out of mosaics, and found by their names: identifiers, or else positions."""

    has_images = False

    def __init__(self) -> None:
        super().__init__()
        self._by_object: dict[str, int] = {}

    def name_objects(self) -> list[tuple[str, SkyObject]]:
        """The objects with a position, each with a name of its own; DataError for identifiers of several."""
        for row, item in enumerate(self.objects):
            if item.ra is None or item.dec is None:
                continue
            name = item.object_id or unused_name(item.ra, item.dec, self._by_object)
            if name in self._by_object:
                raise DataError(f"the catalogue names several objects {name}: name a column of identifiers with --id")
            self._by_object[name] = row
            self.objects[row] = replace(item, object_id=name)
        return [(name, self.objects[row]) for name, row in self._by_object.items()]

    def find(self, path: object) -> int | None:
        """The number of the row of the object of this name."""
        return self._by_object.get(str(path))


@dataclass(frozen=True, slots=True)
class JoinedColumns:
    """The columns of a catalogue in another table of images."""

    columns: Mapping[str, ColumnType]
    catalogue: Catalogue
    _values: Sequence[tuple[Sequence[Any], ColumnType]]  # of the columns after those of positions

    def cells(self, path: object, own: SkyObject | None = None, *, typed: bool = False) -> list[Any]:
        """The values of an image, as they stand in the catalogue, or of the columns' types; None without a row.

        The image's own position counts where the catalogue has none.
        """
        row, own = self.catalogue.find(path), own or SkyObject()
        if row is None:
            return [own.ra, own.dec, *[None] * (len(self.columns) - 2)]
        item = self.catalogue.objects[row]
        ra, dec = (own.ra, own.dec) if item.ra is None else (item.ra, item.dec)
        cells = [(values[row] if row < len(values) else None, kind) for values, kind in self._values]
        return [ra, dec, item.object_id, *(typed_cell(cell, kind) if typed else cell for cell, kind in cells)]


OWN_POSITIONS = JoinedColumns({"ra": "number", "dec": "number"}, Catalogue(), ())  # of images without a catalogue


def read_catalogue(
    references: Sequence[str | Path], chosen: CatalogueColumns | None = None, catalogue: Catalogue | None = None
) -> Catalogue:
    """The catalogue of these tables, after those it has; DataError says which cannot be read, and why."""
    catalogue = Catalogue() if catalogue is None else catalogue
    catalogue.chosen = chosen or CatalogueColumns()
    for reference in map(str, references):
        table, name = read_object_table(reference), f"the catalogue {printable_url(reference)}"
        catalogue.files.append(reference)
        catalogue.add_table(table, name, parent_folder(reference), catalogue.chosen)
    return catalogue


def read_objects(reference: str | Path, chosen: CatalogueColumns | None = None) -> ObjectCatalogue:
    """The catalogue of objects of mosaics in a table."""
    catalogue = ObjectCatalogue()
    read_catalogue([reference], chosen, catalogue)
    return catalogue


def missing_text(missing: int, images: int) -> str | None:
    """How many images are not in the catalogue, in words; None where all are."""
    return f"{missing:,} of {images:,} images are not in the catalogue" if missing else None


def may_have_positions(reference: str, chosen: CatalogueColumns) -> bool:
    """Whether the names of its columns, which alone are read, are those of a catalogue."""
    names = {name.lower() for name in read_column_names(reference)}
    return all(column or names & {*usual} for column, usual in ((chosen.ra, RA_COLUMNS), (chosen.dec, DEC_COLUMNS)))


def _absolute(reference: str) -> str:
    return reference if is_url(reference) else os.path.abspath(reference)  # noqa: PTH100 - a third of the time


def _stem(name: str) -> str:
    """A file's name without the suffix of an image."""
    for suffix in IMAGE_SUFFIX_PARTS:
        name = name.removesuffix(suffix)
    return name.rpartition(".")[0] or name
