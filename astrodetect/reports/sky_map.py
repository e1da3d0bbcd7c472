"""Maps of the sky as SVG: the whole sky in Mollweide's projection, or a field in Lambert's, both of equal areas."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape

from astrodetect.records import Cone, SkyCell
from astrodetect.sky.archives import format_position
from astrodetect.sky.healpix import Degrees, cell_corners, centres, separation

WIDTH, MARGIN = 1000.0, 16.0
CENTRE_RA = 180.0  # of the map of the whole sky; RA grows to the left, as one sees it
ALL_SKY_ORDER = 4  # 3,072 cells of 3.7°
FIELD_CELLS = 24.0  # across half a field
BASE_CELL_DEG = 58.6  # the width of a cell of order 0
MAX_FIELD_ORDER = 20  # cells of 0.2 arcseconds
LEVEL_COLOURS = ("#2c718e", "#219089", "#4fb86a", "#b5dd2c", "#fde725")  # of cells, as of heat maps: few to many
SKY, LINES, TEXT, OBJECT, PROMINENT = "#0b0e13", "#4a5563", "#b8c0ca", "#86b8ea", "#e3cbff"  # in every colour scheme
NEWTON_STEPS, NEWTON_TINY = 60, 1e-9
CURVE_POINTS = 181
MARK_RADIUS = 6
MIN_RADIUS = 1e-6  # of a field, in degrees
ANGLE_UNITS = (1, "°"), (60, "′"), (3600, "″")
RING_STEPS = [
    value * 10.0**power for power in range(-6, 3) for value in (1, 2, 5)
]  # degrees between the rings of a field
# The north galactic pole, and the galactic longitude of the celestial pole, in degrees (Hipparcos, vol. 1, 1.5.3)
GALACTIC_POLE_RA, GALACTIC_POLE_DEC, POLE_LONGITUDE = 192.85948, 27.12825, 122.93192


@dataclass(frozen=True, slots=True)
class SkyMark:
    """An object on a map, with the page that it links to."""

    ra: float
    dec: float
    url: str
    title: str
    prominent: bool = False


@dataclass(frozen=True, slots=True)
class SkyMap:
    """A map, and what the colours of its cells mean: the numbers of objects of each."""

    svg: Markup
    legend: list[tuple[str, str]]


class Projection:
    """From positions to the coordinates of a map; `cone` is the field, None the whole sky."""

    def __init__(self, cone: Cone | None) -> None:
        self.cone = cone
        self.height = WIDTH if cone else WIDTH / 2 + MARGIN
        half = 2 * math.sin(math.radians(max(cone.radius, MIN_RADIUS)) / 2) if cone else 2 * math.sqrt(2)
        self.scale = (WIDTH / 2 - MARGIN) / half

    def xy(self, ra: Degrees, dec: Degrees) -> tuple[Degrees, Degrees]:
        """The coordinates, x to the right and y down; `ra` may be beyond 0 or 360, and so beyond the map's edge."""
        x, y = self._field(ra, dec, self.cone) if self.cone else _mollweide(ra - CENTRE_RA, dec)
        return WIDTH / 2 - self.scale * x, self.height / 2 - self.scale * y

    @staticmethod
    def _field(ra: Degrees, dec: Degrees, cone: Cone) -> tuple[Degrees, Degrees]:
        delta, dec = np.radians(ra - cone.ra), np.radians(dec)
        sin_centre, cos_centre = math.sin(math.radians(cone.dec)), math.cos(math.radians(cone.dec))
        along = sin_centre * np.sin(dec) + cos_centre * np.cos(dec) * np.cos(delta)
        stretch = np.sqrt(2 / np.maximum(1 + along, NEWTON_TINY))
        north = cos_centre * np.sin(dec) - sin_centre * np.cos(dec) * np.cos(delta)
        return stretch * np.cos(dec) * np.sin(delta), stretch * north


def map_order(cone: Cone | None) -> int:
    """The HEALPix order of the cells of a map."""
    if cone is None:
        return ALL_SKY_ORDER
    width = max(cone.radius / FIELD_CELLS, BASE_CELL_DEG / 2**MAX_FIELD_ORDER)
    return max(0, min(MAX_FIELD_ORDER, math.ceil(math.log2(BASE_CELL_DEG / width))))


def cell_cones(cells: Sequence[SkyCell], order: int) -> list[Cone]:
    """A cone around the centre of each cell that holds the whole cell."""
    ra, dec = centres(np.array([cell.cell for cell in cells], np.int64), order)
    radius = BASE_CELL_DEG / 2**order
    return [Cone(*position, radius) for position in zip(ra.tolist(), dec.tolist(), strict=True)]


def draw_sky_map(
    cells: Sequence[SkyCell],
    cone: Cone | None,
    *,
    marks: Sequence[SkyMark] = (),
    cell_url: Callable[[SkyCell, Cone], str] | None = None,
) -> SkyMap:
    """Cells of the order `map_order(cone)` by their numbers of objects, and marks; cells are links by `cell_url`."""
    projection, order = Projection(cone), map_order(cone)
    counts = [cell.count for cell in cells] or [1]
    fewest, edges = min(counts), _level_edges(max(counts))
    parts = [_frame(projection)]
    if cells:
        parts += _cell_paths(cells, order, projection, edges, cell_url)
    parts += [_mark(mark, projection) for mark in marks]
    ranges = [(max(low + 1, fewest), high) for low, high in pairwise([0, *edges])]
    legend = [
        (colour, f"{low:,}" if low == high else f"{low:,} to {high:,}")
        for colour, (low, high) in zip(LEVEL_COLOURS, ranges, strict=True)
        if low <= high
    ]
    svg = Markup(  # noqa: S704 - numbers, and texts that are escaped
        f'<svg class="sky-map" viewBox="0 0 {WIDTH:g} {projection.height:g}" role="group" aria-label="Map of the sky"'
        f' stroke="{LINES}" fill="none">'
        f"{''.join(parts)}</svg>"
    )
    return SkyMap(svg, legend if cells else [])


def enclosing_cone(ra: Degrees, dec: Degrees) -> Cone:
    """A cone around the mean direction that holds all of these positions, with a margin."""
    cos_dec = np.cos(np.radians(dec))
    vectors = cos_dec * np.cos(np.radians(ra)), cos_dec * np.sin(np.radians(ra)), np.sin(np.radians(dec))
    x, y, z = (float(part.mean()) for part in vectors)
    centre_ra, centre_dec = math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))
    radius = float(separation(centre_ra, centre_dec, ra, dec).max())
    return Cone(centre_ra, centre_dec, min(180.0, 1.1 * radius))


def _mollweide(longitude: Degrees, dec: Degrees) -> tuple[Degrees, Degrees]:
    target = np.pi * np.sin(np.radians(dec))
    theta = np.radians(dec).copy()
    for _ in range(NEWTON_STEPS):
        slope = 2 + 2 * np.cos(2 * theta)
        step = np.where(
            slope > NEWTON_TINY, (2 * theta + np.sin(2 * theta) - target) / np.maximum(slope, NEWTON_TINY), 0
        )
        theta = np.clip(theta - step, -np.pi / 2, np.pi / 2)
        if np.abs(step).max(initial=0) < NEWTON_TINY:
            break
    return 2 * math.sqrt(2) / np.pi * np.radians(longitude) * np.cos(theta), math.sqrt(2) * np.sin(theta)


def _frame(projection: Projection) -> str:
    """The outline, the grid, and for the whole sky the galactic plane."""
    if projection.cone:
        return _field_frame(projection, projection.cone)
    middle, half = projection.height / 2, WIDTH / 2 - MARGIN
    parts = [f'<ellipse fill="{SKY}" cx="{WIDTH / 2:g}" cy="{middle:g}" rx="{half:g}" ry="{half / 2:g}"/>']
    ra, dec = np.linspace(0, 360, CURVE_POINTS), np.linspace(-90, 90, CURVE_POINTS)
    parts += [_curve(projection, ra, np.full(CURVE_POINTS, float(at))) for at in range(-60, 61, 30)]
    parts += [_curve(projection, np.full(CURVE_POINTS, float(at)), dec) for at in range(60, 301, 60)]
    parts.append(_curve(projection, *_galactic_plane(), dashes="6 5"))
    for at in range(60, 301, 60):
        x, y = (values[0] for values in projection.xy(np.array([float(at)]), np.array([0.0])))
        parts.append(_text(x, y, f"{at // 15} h"))
    for at in (-60, -30, 30, 60):
        x, y = (values[0] for values in projection.xy(np.array([CENTRE_RA]), np.array([float(at)])))
        parts.append(_text(x, y, f"{at:+}°"))
    return "".join(parts)


def _field_frame(projection: Projection, cone: Cone) -> str:
    """Circles of equal distance from the centre, and where north and east are."""
    middle, half = WIDTH / 2, WIDTH / 2 - MARGIN
    parts = [f'<circle fill="{SKY}" cx="{middle:g}" cy="{middle:g}" r="{half:g}"/>']
    step = next((step for step in RING_STEPS if cone.radius / step <= 4), RING_STEPS[-1])
    for ring in range(1, math.ceil(cone.radius / step)):
        radius = projection.scale * 2 * math.sin(math.radians(ring * step) / 2)
        parts.append(f'<circle cx="{middle:g}" cy="{middle:g}" r="{radius:.1f}"/>')
        parts.append(_text(middle, middle - radius, format_angle(ring * step)))
    parts.append(f'<path d="M{middle:g} {MARGIN:g}V{WIDTH - MARGIN:g}M{MARGIN:g} {middle:g}H{WIDTH - MARGIN:g}"/>')
    parts += [_text(middle, MARGIN + 22, "N"), _text(MARGIN + 4, middle, "E")]
    return "".join(parts)


def format_angle(degrees: float) -> str:
    """An angle in the unit that keeps it short: degrees, arcminutes or arcseconds."""
    factor, unit = next((unit for unit in ANGLE_UNITS if degrees * unit[0] >= 1), ANGLE_UNITS[-1])
    return f"{degrees * factor:.3g}{unit}"


def _galactic_plane() -> tuple[Degrees, Degrees]:
    angle = np.radians(POLE_LONGITUDE - np.linspace(0, 360, 2 * CURVE_POINTS))
    sin_pole, cos_pole = math.sin(math.radians(GALACTIC_POLE_DEC)), math.cos(math.radians(GALACTIC_POLE_DEC))
    dec = np.degrees(np.arcsin(cos_pole * np.cos(angle)))
    return np.mod(GALACTIC_POLE_RA + np.degrees(np.arctan2(np.sin(angle), -sin_pole * np.cos(angle))), 360), dec


def _text(x: float, y: float, text: str) -> str:
    return f'<text fill="{TEXT}" stroke="none" x="{x + 4:.1f}" y="{y - 5:.1f}">{text}</text>'


def _curve(projection: Projection, ra: Degrees, dec: Degrees, dashes: str = "none") -> str:
    """A line, interrupted where it leaves the map at one edge and comes back at the other."""
    points = np.stack(projection.xy(ra, dec), axis=1).tolist()
    steps = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (before, _), (x, y) in pairwise(points):
        steps.append(f"{'M' if abs(x - before) > WIDTH / 4 else 'L'}{x:.1f} {y:.1f}")
    return f'<path stroke-dasharray="{dashes}" d="{"".join(steps)}"/>'


def _cell_paths(
    cells: Sequence[SkyCell],
    order: int,
    projection: Projection,
    edges: Sequence[int],
    cell_url: Callable[[SkyCell, Cone], str] | None,
) -> list[str]:
    cones, indexes = cell_cones(cells, order), np.array([cell.cell for cell in cells], np.int64)
    corner_ra, corner_dec = cell_corners(indexes, order)
    middle_ra = np.array([[cone.ra] for cone in cones])
    corner_ra = middle_ra + (corner_ra - middle_ra + 180) % 360 - 180  # on the same side of the map
    x, y = projection.xy(corner_ra, corner_dec)
    parts = []
    for cell, cone, across, down in zip(cells, cones, x.tolist(), y.tolist(), strict=True):
        colour = LEVEL_COLOURS[int(np.searchsorted(edges, cell.count))]
        outline = "L".join(f"{at:.1f} {below:.1f}" for at, below in zip(across, down, strict=True))
        path = f'<path fill="{colour}" stroke="none" d="M{outline}Z"><title>{cell.count:,}</title></path>'
        if cell_url:
            title = f"{cell.count:,} around {format_position(cone.ra, cone.dec)}"
            path = f'<a href="{escape(cell_url(cell, cone))}" tabindex="-1" aria-label="{title}">{path}</a>'
        parts.append(path)
    return parts


def _mark(mark: SkyMark, projection: Projection) -> str:
    x, y = (values[0] for values in projection.xy(np.array([mark.ra]), np.array([mark.dec])))
    url, title = escape(mark.url), escape(mark.title)
    fill, stroke, width = (PROMINENT, "#fff", 2) if mark.prominent else (OBJECT, SKY, 1)
    circle = (
        f'<circle fill="{fill}" stroke="{stroke}" stroke-width="{width}" cx="{x:.1f}" cy="{y:.1f}" r="{MARK_RADIUS}">'
        f"<title>{title}</title></circle>"
    )
    return f'<a href="{url}" tabindex="-1" aria-label="{title}">{circle}</a>'


def _level_edges(largest: int) -> list[int]:
    """The largest number of each level, in equal ratios."""
    return [round(largest ** ((level + 1) / len(LEVEL_COLOURS))) for level in range(len(LEVEL_COLOURS))]
