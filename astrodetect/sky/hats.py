"""HATS, catalogues partitioned by HEALPix, as the IVOA's note of LINCC describes them: what lsdb and hats read."""

import datetime as dt
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType, write_parquet
from astrodetect.sky.healpix import ORDER, cells_of

VERSION = "v1.0"
SPATIAL_INDEX = f"_healpix_{ORDER}"
PROPERTIES, PARTITIONS = "hats.properties", "partition_info.csv"
MAX_PARTITION_ROWS, MAX_ORDER = 500_000, 10  # a cell with more rows is divided, down to 3.4′
DIRECTORY_CELLS = 10_000


def write_hats(folder: Path, columns: Mapping[str, ColumnType], rows: Iterable[Sequence[object]], title: str) -> int:
    """A catalogue of the rows that have `ra` and `dec`, in memory; returns how many have none, and are left out."""
    import pyarrow as pa  # noqa: PLC0415 - takes a tenth of a second
    from pyarrow import parquet  # noqa: PLC0415

    if not {"ra", "dec"} <= {*columns}:
        raise DataError("HATS is ordered by position, and no image has one: add --catalogue FILE")
    with tempfile.TemporaryFile() as spooled:
        write_parquet(spooled, columns, rows)
        everything = parquet.read_table(spooled)
    if SPATIAL_INDEX in columns:  # of a table that was such a catalogue
        everything = everything.drop_columns(SPATIAL_INDEX)
    known = everything.filter(pa.compute.is_valid(everything["ra"]))
    if not known.num_rows:
        raise DataError(
            "HATS is ordered by position, and no image has one: see the columns ra and dec of the catalogue"
        )
    cells = cells_of(known["ra"].to_numpy(), known["dec"].to_numpy())
    order = np.argsort(cells, kind="stable")
    cells, table = cells[order], known.take(pa.array(order))
    table = table.add_column(0, SPATIAL_INDEX, pa.array(cells, pa.int64()))
    dataset, parts, metadata = folder / "dataset", list[tuple[int, int]](), list[Any]()
    for norder, npix, start, stop in partition(cells, MAX_PARTITION_ROWS):
        name = f"Norder={norder}/Dir={npix // DIRECTORY_CELLS * DIRECTORY_CELLS}/Npix={npix}.parquet"
        path = dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.slice(start, stop - start), path, metadata_collector=metadata)
        metadata[-1].set_file_path(name)
        parts.append((norder, npix))
    parquet.write_metadata(table.schema, dataset / "_common_metadata")
    parquet.write_metadata(table.schema, dataset / "_metadata", metadata)
    lines = ["Norder,Npix", *(f"{norder},{npix}" for norder, npix in parts)]
    (folder / PARTITIONS).write_text("\n".join(lines) + "\n", encoding="ascii")
    size_kb = sum(path.stat().st_size for path in dataset.rglob("*.parquet")) // 1024
    properties = {
        "obs_collection": title.replace(" ", "_").lower(),
        "dataproduct_type": "object",
        "hats_nrows": table.num_rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": SPATIAL_INDEX,
        "hats_col_healpix_order": ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_max_rows": MAX_PARTITION_ROWS,
        "hats_order": max(norder for norder, _ in parts),
        "moc_sky_fraction": f"{sum(1 / (12 * 4**norder) for norder, _ in parts):.6g}",
        "hats_builder": "astrodetect",
        "hats_creation_date": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%MUTC}",
        "hats_estsize": size_kb,
        "hats_version": VERSION,
    }
    text = "".join(f"{name}={value}\n" for name, value in properties.items())
    (folder / PROPERTIES).write_text(text, encoding="ascii", errors="backslashreplace")
    return int(everything.num_rows - known.num_rows)


def partition(cells: NDArray[np.int64], most: int) -> Iterator[tuple[int, int, int, int]]:
    """Order, cell, first and last row + 1 of each part of sorted cells: the largest cells with at most so many rows."""
    yield from _divide(cells, 0, 0, 12, most)


def _divide(
    cells: NDArray[np.int64], order: int, first: int, last: int, most: int
) -> Iterator[tuple[int, int, int, int]]:
    bounds = np.searchsorted(cells, np.arange(first, last + 1, dtype=np.int64) << 2 * (ORDER - order)).tolist()
    for cell, start, stop in zip(range(first, last), bounds, bounds[1:], strict=False):
        if stop - start > most and order < MAX_ORDER:
            yield from _divide(cells, order + 1, 4 * cell, 4 * cell + 4, most)
        elif stop > start:
            yield order, cell, start, stop
