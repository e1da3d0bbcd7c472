"""Tiles of a map of many images: how many images of each group lie in a cell, or the images where they are few."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from astrodetect.service.projection_store import StoredProjection

GRID_STEPS = 65_535  # of a coordinate
CELL_BITS = 8  # of a coordinate within a tile: 256 × 256 cells
CELLS = 1 << CELL_BITS
MAX_LEVEL = 16 - CELL_BITS  # at which a cell is a step
MAX_TILE_POINTS = 3_000  # more are sent as cells
INDEXES_CACHED = 2  # the current projection and its successor
HALF_BYTES = ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))

Codes = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class TileIndex:
    """The images in the order of their Morton codes, so that those of a tile follow each other."""

    codes: Codes  # ascending
    order: NDArray[np.int32]  # the index of each image in its projection
    fullest: int  # images in the fullest cell of the whole map

    def images(self, level: int, x: int, y: int) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """The images of a tile, of 2**level along each side, and the cell of each, row by row."""
        bits = 2 * (16 - level)
        first = int(_morton(np.array([x], np.uint32), np.array([y], np.uint32))[0]) << bits
        begin, end = np.searchsorted(self.codes, np.array([first, first + (1 << bits)], np.uint64)).tolist()
        cells = (self.codes[begin:end] >> np.uint32(bits - 2 * CELL_BITS)) & np.uint32(CELLS * CELLS - 1)
        return self.order[begin:end], ROW_OF_CELL[cells]


@lru_cache(maxsize=INDEXES_CACHED)
def tile_index(stored: StoredProjection) -> TileIndex:
    """The index of a projection."""
    x, y = grid(stored).T.astype(np.uint32)
    codes = _morton(x, y)
    order = np.argsort(codes).astype(np.int32)
    codes = codes[order]
    return TileIndex(codes, order, int(np.bincount(codes >> np.uint32(32 - 2 * CELL_BITS)).max(initial=1)))


def grid(stored: StoredProjection, images: NDArray[np.int32] | slice = slice(None)) -> NDArray[np.uint16]:
    """(n, 2) the steps of the coordinates of these images."""
    return np.rint(stored.xy[images] * GRID_STEPS).astype("<u2")


def encode_tile(
    stored: StoredProjection, groups: list[NDArray[np.uint8]], by: int, tile: tuple[int, int, int]
) -> bytes:
    """Cells or points, after the numbers of both (uint32).

    Ids of the points (float64), counts of the cells, ranks of the points (uint32), coordinates of the points
    (2 × uint16), cells (uint16), groups of the cells in the legend `by`, and of the points in each legend (uint8).
    """
    images, cells = tile_index(stored).images(*tile)
    if len(images) <= MAX_TILE_POINTS:
        points, counts, keys = images, np.empty(0, np.int64), np.empty(0, np.int64)
    else:
        points = images[:0]
        totals = np.bincount(cells.astype(np.int64) << 8 | groups[by][images])
        keys = np.flatnonzero(totals)
        counts = totals[keys]
    parts = [
        np.array([len(keys), len(points)], "<u4"),
        stored.ids[points].astype("<f8"),
        counts.astype("<u4"),
        points.astype("<u4"),
        grid(stored, points),
        (keys >> 8).astype("<u2"),
        (keys & 255).astype(np.uint8),
        *(group_of[points] for group_of in groups),
    ]
    return b"".join(part.tobytes() for part in parts)


def density(stored: StoredProjection) -> NDArray[np.uint8]:
    """(height, width, 4) the whole map as a transparent picture, more opaque where more images lie, on a log scale."""
    index = tile_index(stored)
    _, cells = index.images(0, 0, 0)
    counts = np.bincount(cells, minlength=CELLS * CELLS).reshape(CELLS, CELLS)
    picture = np.empty((CELLS, CELLS, 4), np.uint8)
    picture[...] = DENSITY_COLOUR
    shares = np.where(counts > 0, 0.25 + 0.75 * np.log1p(counts) / np.log1p(index.fullest), 0)
    picture[..., 3] = np.rint(255 * shares)
    return picture


def _morton(x: Codes, y: Codes) -> Codes:
    """The bits of 16-bit coordinates, interleaved."""
    return _spread(x) | (_spread(y) << np.uint32(1))


def _spread(values: Codes) -> Codes:
    for shift, mask in HALF_BYTES:
        values = (values | (values << np.uint32(shift))) & np.uint32(mask)
    return values


def _rows_of_cells() -> NDArray[np.uint16]:
    """The index row by row of each cell, by its Morton code."""
    y, x = np.divmod(np.arange(CELLS * CELLS, dtype=np.uint32), np.uint32(CELLS))
    rows = np.empty(CELLS * CELLS, np.uint16)
    rows[_morton(x, y)] = np.arange(CELLS * CELLS)
    return rows


ROW_OF_CELL = _rows_of_cells()
DENSITY_COLOUR = (120, 120, 140, 255)  # visible on light and dark pages
