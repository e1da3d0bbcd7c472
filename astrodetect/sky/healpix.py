"""HEALPix, nested: the cell of a position at order 29, and the ranges of cells that cover a cone.

The arithmetic of Górski et al. 2005 (ApJ 622, 759). Tests compare it with cdshealpix, whose import, as that of
astropy-healpix, takes longer than half of a service's start.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Cone

ORDER = 29  # cells of 0.4 milliarcseconds, the smallest that 64 bits hold
BASE_CELLS = 12
# Ring of a base cell's southernmost corner, in quarters of the way from pole to pole; and the longitude of its centre,
# in eighths of a turn.
CORNER_RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
CENTRE_LONGITUDE = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
EQUATORIAL_Z = 2 / 3  # |sin Dec| below which cells have equal widths
BIT_SPREADS = [
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
]
BIT_JOINS = [
    (1, 0x3333333333333333),
    (2, 0x0F0F0F0F0F0F0F0F),
    (4, 0x00FF00FF00FF00FF),
    (8, 0x0000FFFF0000FFFF),
    (16, 0x00000000FFFFFFFF),
]
CELLS_PER_RADIUS = 8  # how finely a cone's edge is covered
MAX_EDGE_CELLS = 64  # cells on the edge of a cone are divided no further than that
CORNER_ORDERS = 5  # a corner is the centre of a cell so many orders smaller
CELLS_PER_CIRCLE = 12  # how much wider than a small circle the cells around it are
CIRCLE_STEPS = np.linspace(-2.5, 2.5, 9)  # in radii: see cells_around
ROUNDING_DEG = 1e-9  # of angles near 180°, so that no cell on the edge is lost

Degrees = NDArray[np.float64]
Cells = NDArray[np.int64]


def cell_index(ra: float, dec: float) -> int:
    """The nested index of the cell of order 29 that contains this position."""
    return int(cells_of(np.array([ra]), np.array([dec]))[0])


def cells_of(ra: Degrees, dec: Degrees, order: int = ORDER) -> Cells:
    """The nested indexes of the cells that contain these positions."""
    side = 1 << order
    z = np.sin(np.radians(dec))
    longitude = np.mod(ra, 360.0) / 90.0  # in quarters of a turn
    longitude[longitude >= 4.0] = 0.0  # of tiny negative angles
    # Equatorial: diagonal lines through the position, ascending and descending.
    middle, offset = side * (0.5 + longitude), side * z * 0.75
    ascending, descending = (middle - offset).astype(np.int64), (middle + offset).astype(np.int64)
    quarter_up, quarter_down = ascending >> order, descending >> order
    base = np.where(
        quarter_up == quarter_down, quarter_up | 4, np.where(quarter_up < quarter_down, quarter_up, quarter_down + 8)
    )
    x, y = descending & (side - 1), side - (ascending & (side - 1)) - 1
    # Polar caps: cos Dec instead of 1 - sin Dec, which has no digits left near the pole.
    quarter = np.minimum(longitude.astype(np.int64), 3)
    fraction = longitude - quarter
    shrink = side * np.cos(np.radians(dec)) * np.sqrt(3 / (1 + np.abs(z)))
    near = np.minimum((fraction * shrink).astype(np.int64), side - 1)
    far = np.minimum(((1.0 - fraction) * shrink).astype(np.int64), side - 1)
    polar, north = np.abs(z) > EQUATORIAL_Z, z >= 0
    base = np.where(polar, np.where(north, quarter, quarter + 8), base & 15)
    x = np.where(polar, np.where(north, side - far - 1, near), x)
    y = np.where(polar, np.where(north, side - near - 1, far), y)
    return (base << (2 * order)) + _spread(x) + (_spread(y) << 1)


def centres(cells: Cells, order: int) -> tuple[Degrees, Degrees]:
    """RA and Dec of the centres of these cells."""
    side = 1 << order
    base, within = cells >> (2 * order), cells & ((1 << (2 * order)) - 1)
    x, y = _compress(within), _compress(within >> 1)
    ring = CORNER_RING[base] * side - x - y - 1  # from the north pole, 1 to 4 · side - 1
    from_pole = np.minimum(ring, 4 * side - ring)
    polar = from_pole < side
    width = np.where(polar, from_pole, side)  # cells of a ring, in each quarter
    cap = from_pole / (math.sqrt(3) * side)  # sqrt(1 - |z|)
    z = np.where(polar, 1 - cap**2, np.abs(2 * side - ring) * 2 / (3 * side))
    cos_dec = np.where(polar, cap * np.sqrt(2 - cap**2), np.sqrt(np.maximum(1 - z**2, 0)))
    dec = np.degrees(np.arctan2(np.where(ring < 2 * side, z, -z), cos_dec))
    ra = np.mod((CENTRE_LONGITUDE[base] * width + x - y) / (2 * width) * 90.0, 360.0)
    return ra, dec


def cell_corners(cells: Cells, order: int) -> tuple[Degrees, Degrees]:
    """RA and Dec just inside of the four corners of these cells, two arrays of four columns."""
    side = (1 << CORNER_ORDERS) - 1
    across, along = np.array([0, side, side, 0]), np.array([0, 0, side, side])
    ra, dec = centres(
        (cells[:, None] << (2 * CORNER_ORDERS)) + _spread(across) + (_spread(along) << 1), order + CORNER_ORDERS
    )
    return ra, dec


def cover_cone(cone: Cone) -> list[tuple[int, int]]:
    """Ranges of cells of order 29, first and last, that contain every position of the cone, and few others."""
    inside: list[tuple[Cells, int]] = []
    cells = np.arange(BASE_CELLS)
    for order in range(ORDER + 1):
        size = _largest_radius(order)
        distances = separation(cone.ra, cone.dec, *centres(cells, order))
        contained = distances + size <= cone.radius
        inside.append((cells[contained], order))
        cells = cells[~contained & (distances <= cone.radius + size + ROUNDING_DEG)]
        if not cells.size or order == ORDER or size * CELLS_PER_RADIUS < cone.radius or cells.size > MAX_EDGE_CELLS:
            inside.append((cells, order))
            break
        cells = (cells[:, None] * 4 + np.arange(4)).ravel()
    first = np.concatenate([first_cells(found, order) for found, order in inside])
    last = np.concatenate([first_cells(found + 1, order) - 1 for found, order in inside])
    ranges: list[tuple[int, int]] = []
    for low, high in sorted(zip(first.tolist(), last.tolist(), strict=True)):
        if ranges and ranges[-1][1] + 1 == low:
            ranges[-1] = ranges[-1][0], high
        else:
            ranges.append((low, high))
    return ranges


def first_cells(cells: Cells, order: int) -> Cells:
    """The first cell of order 29 in each of these."""
    return cells << (2 * (ORDER - order))


def cells_around(ra: Degrees, dec: Degrees, radius: float) -> tuple[Cells, int, NDArray[np.intp]]:
    """The cells that small circles of this radius (degrees) touch, their order, and the index of each one's circle.

    For many circles at once, 0.03 ms each. Corners of cells have at least 52°, so from any place of a cell within
    the circle a disc of 0.44 radii in the same cell is no farther than 2.45 radii from the centre: a grid of points
    0.625 radii apart has one in it.
    """
    order = int(min(ORDER, max(0, math.log2(math.degrees(math.sqrt(math.pi / 3)) / (CELLS_PER_CIRCLE * radius)))))
    east, north = (step.ravel() * math.radians(radius) for step in np.meshgrid(CIRCLE_STEPS, CIRCLE_STEPS))
    longitude, latitude = np.radians(ra)[:, None], np.radians(dec)[:, None]
    # on the plane that touches the sphere at each centre
    outward = np.cos(latitude) - north * np.sin(latitude)
    x, y = (
        outward * np.cos(longitude) - east * np.sin(longitude),
        outward * np.sin(longitude) + east * np.cos(longitude),
    )
    z = np.sin(latitude) + north * np.cos(latitude)
    cells = cells_of(np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y))), order)
    cells.sort(axis=1)
    differs = np.concatenate([np.ones((len(cells), 1), bool), cells[:, 1:] != cells[:, :-1]], axis=1)
    return cells[differs], order, np.nonzero(differs)[0]


def separation(ra: float, dec: float, others_ra: Degrees, others_dec: Degrees) -> Degrees:
    """Angular distances from one position to others in degrees, exact for the smallest and the largest."""
    delta = np.radians(others_ra - ra)
    sin_dec, cos_dec = math.sin(math.radians(dec)), math.cos(math.radians(dec))
    sin_other, cos_other = np.sin(np.radians(others_dec)), np.cos(np.radians(others_dec))
    across = np.hypot(cos_other * np.sin(delta), cos_dec * sin_other - sin_dec * cos_other * np.cos(delta))
    along = sin_dec * sin_other + cos_dec * cos_other * np.cos(delta)
    distances: Degrees = np.degrees(np.arctan2(across, along))
    return distances


@cache
def _largest_radius(order: int) -> float:
    """The largest distance of a cell's corner from its centre, over all cells of this order, in degrees."""
    side = 1 << order
    corner_z = 1 - (1 - 1 / side) ** 2 / 3
    corner_dec = math.degrees(math.atan2(corner_z, math.sqrt(1 - corner_z**2)))
    centre_dec = math.degrees(math.asin(EQUATORIAL_Z))
    return float(separation(45 / side, centre_dec, np.array([0.0]), np.array([corner_dec]))[0])


def _spread(values: Cells) -> Cells:
    """The bits of these numbers, at every second place."""
    for shift, mask in BIT_SPREADS:
        values = (values | (values << shift)) & mask
    return values


def _compress(values: Cells) -> Cells:
    """The bits at every second place."""
    values = values & BIT_SPREADS[-1][1]
    for shift, mask in BIT_JOINS:
        values = (values | (values >> shift)) & mask
    return values
