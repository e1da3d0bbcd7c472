"""Catalogues of known objects: their positions, identifiers, names, types and reference counts, in columns."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.sky.catalogue_columns import ID_COLUMNS, ID_UCDS, cell_text, find_column, position_columns, read_angles
from astrodetect.sky.table_readers import ObjectTable, read_object_table
from astrodetect.storage.references import printable_url

# usual column names, in lower case
NAME_COLUMNS = ("main_id", "prefname", "object_name", "objname", "name", "iauname", "title")
TYPE_COLUMNS = ("otype", "pretype", "main_type", "object_type", "objtype", "type", "class", "label")
REFERENCES_COLUMNS = ("reference_count", "nbref", "nb_ref", "n_ref", "nref", "n_references", "n_crosref")
OTHER_COLUMNS = {"image_sha256": ("sha256", "image_sha256"), "url": ("url",), "terms": ("terms", "license", "licence")}
COLLECTED = {"source", "source_id", "license", "sha256", "fetched"}  # columns that only `collect` writes together
KNOWN_COLUMNS: dict[str, ColumnType] = {  # what a comparison adds to a table
    "known": "boolean",
    "known_name": "text",
    "known_type": "text",
    "known_arcsec": "number",
    "known_references": "integer",
    "known_catalogue": "text",
}


@dataclass(frozen=True, slots=True)
class KnownColumns:
    """The names of a catalogue's columns; None: found by their usual names or UCDs."""

    ra: str | None = None
    dec: str | None = None
    object_id: str | None = None
    name: str | None = None
    type: str | None = None
    references: str | None = None


@dataclass(frozen=True, slots=True)
class KnownObjects:
    """The objects of a catalogue (n); `others` are its other columns."""

    ra: NDArray[np.float64]  # degrees; NaN where not known
    dec: NDArray[np.float64]
    texts: Mapping[str, Sequence[str | None]]  # object_id, name, type, image_sha256, url, terms
    references: Sequence[int | None]
    others: Mapping[str, Sequence[Any]]
    collected: bool  # whether these are images that `collect` downloaded

    def __len__(self) -> int:
        return len(self.ra)

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Which have a position."""
        placed: NDArray[np.bool_] = ~np.isnan(self.ra)
        return placed


def read_known_objects(reference: str, chosen: KnownColumns) -> KnownObjects:
    """The objects in a CSV, FITS table, VOTable or Parquet file; DataError says why they cannot be read."""
    return known_objects(read_object_table(reference), f"the catalogue {printable_url(reference)}", chosen)


def known_objects(table: ObjectTable, name: str, chosen: KnownColumns) -> KnownObjects:
    """The objects of a table; `name` is that of the file, for messages."""
    ra, dec = read_positions(table, name, chosen.ra, chosen.dec)
    columns = {
        "object_id": find_column(table, name, chosen.object_id, ID_COLUMNS, ID_UCDS),
        "name": find_column(table, name, chosen.name, NAME_COLUMNS, ()),
        "type": find_column(table, name, chosen.type, TYPE_COLUMNS, ()),
        **{field: find_column(table, name, None, usual, ()) for field, usual in OTHER_COLUMNS.items()},
    }
    references = find_column(table, name, chosen.references, REFERENCES_COLUMNS, ())
    empty = [None] * len(table)
    taken = {*columns.values(), references, *position_columns(table, name, chosen.ra, chosen.dec)}
    return KnownObjects(
        ra,
        dec,
        {field: [*map(cell_text, table.columns[column])] if column else empty for field, column in columns.items()},
        _counts(table.columns[references], f"{name}, column {references}") if references else empty,
        {column: values for column, values in table.columns.items() if column not in taken},
        {*table.columns} >= COLLECTED,
    )


def read_positions(
    table: ObjectTable, name: str, ra: str | None = None, dec: str | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """RA and Dec of each row in degrees, NaN where it has none; DataError where there are no such columns."""
    ra_column, dec_column = position_columns(table, name, ra, dec)
    angles = [
        np.array(read_angles(table, column, name, hours=column == ra_column), np.float64)
        for column in (ra_column, dec_column)
    ]
    incomplete = np.isnan(angles[0]) | np.isnan(angles[1])
    return np.where(incomplete, np.nan, angles[0]), np.where(incomplete, np.nan, angles[1])


def _counts(values: Sequence[Any], name: str) -> list[int | None]:
    counts: list[int | None] = []
    for row, value in enumerate(values, start=1):
        text = cell_text(value)
        try:
            number = float(text) if text else math.nan
        except ValueError:
            raise DataError(f"{name}, row {row}: a number of references, not {text}") from None
        counts.append(int(number) if math.isfinite(number) and abs(number) < 2**63 else None)
    return counts
