"""The maps of the sky: equal areas, where things are on them, and what their cells and marks say."""

import re

import numpy as np
import pytest

from astrodetect.records import Cone, SkyCell
from astrodetect.reports.sky_map import (
    WIDTH,
    Projection,
    SkyMark,
    draw_sky_map,
    enclosing_cone,
    format_angle,
    map_order,
)
from astrodetect.sky.healpix import cell_corners, cells_of, centres, separation

FIELD = Cone(202.47, 47.2, 2.0)


@pytest.mark.parametrize("cone", [None, FIELD, Cone(10.0, 90.0, 5.0)])
def test_maps_have_equal_areas(cone: Cone | None) -> None:
    order = map_order(cone)
    indexes = np.arange(12 * 4**order) if cone is None else cells_near(cone, order)
    middle, _ = centres(indexes, order)
    ra, dec = cell_corners(indexes, order)
    x, y = Projection(cone).xy(middle[:, None] + (ra - middle[:, None] + 180) % 360 - 180, dec)
    areas = 0.5 * np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1))
    ordinary = np.abs(dec).max(axis=1) < 80 if cone is None else np.full(len(areas), fill_value=True)
    assert areas[ordinary] == pytest.approx(np.median(areas), rel=0.2)  # the edges of cells are not straight


def cells_near(cone: Cone, order: int) -> np.ndarray:
    random = np.random.default_rng(0)
    dec = np.clip(cone.dec + random.uniform(-1, 1, 300), -90, 90)
    return np.unique(cells_of(cone.ra + random.uniform(-1, 1, 300), dec, order))


def test_north_is_up_and_east_to_the_left() -> None:
    for cone in (None, FIELD):
        projection = Projection(cone)
        ra, dec = (cone.ra, cone.dec) if cone else (180.0, 0.0)
        x, y = projection.xy(np.array([ra, ra, ra + 1]), np.array([dec, dec + 1, dec]))
        assert (x[0], y[0]) == pytest.approx((WIDTH / 2, projection.height / 2))
        assert (x[1], y[1] < y[0], x[2] < x[0]) == (pytest.approx(x[0]), True, True)


def test_all_positions_are_within_the_outline() -> None:
    random = np.random.default_rng(0)
    ra, dec = random.uniform(0, 360, 1000), np.degrees(np.arcsin(random.uniform(-1, 1, 1000)))
    projection = Projection(None)
    x, y = projection.xy(ra, dec)
    half = WIDTH / 2 - 16
    assert ((x - WIDTH / 2) ** 2 / half**2 + (y - projection.height / 2) ** 2 / (half / 2) ** 2).max() <= 1 + 1e-9
    everything = Cone(0.0, 0.0, 180.0)
    x, y = Projection(everything).xy(ra, dec)
    assert np.hypot(x - WIDTH / 2, y - WIDTH / 2).max() <= half


@pytest.mark.parametrize(
    ("ra", "dec"), [([359.9, 0.1, 0.0], [1.0, 1.2, 0.8]), ([0.0, 120.0, 240.0], [89.0, 89.5, 89.0]), ([5.0], [-90.0])]
)
def test_a_field_holds_all_positions_also_across_0_h_and_a_pole(ra: list[float], dec: list[float]) -> None:
    cone = enclosing_cone(np.array(ra), np.array(dec))
    assert separation(cone.ra, cone.dec, np.array(ra), np.array(dec)).max() <= cone.radius <= 1.2
    assert "nan" not in draw_sky_map([], cone).svg


def test_cells_and_marks_link_and_say_what_they_are() -> None:
    cells = [SkyCell(n, count) for n, count in enumerate((2, 3, 9, 1000))]
    mark = SkyMark(180.0, 0.0, '/history/1?a="b"', "<M51>", prominent=True)
    drawn = draw_sky_map(cells, None, marks=[mark], cell_url=lambda cell, cone: f"/x?{cell.count}&{cone.radius:.1f}")
    assert re.findall(r'href="([^"]+)"', drawn.svg) == [
        *(f"/x?{count}&amp;3.7" for count in (2, 3, 9, 1000)),
        "/history/1?a=&#34;b&#34;",
    ]
    assert "<M51>" not in drawn.svg
    assert "&lt;M51&gt;" in drawn.svg
    colours = re.findall(r'<path fill="(#\w+)"', drawn.svg)
    assert colours == [drawn.legend[index][0] for index in (0, 0, 1, -1)]
    assert [text for _, text in drawn.legend] == ["2 to 4", "5 to 16", "17 to 63", "64 to 251", "252 to 1,000"]
    assert "<a" not in draw_sky_map(cells, None).svg


def test_angles_are_in_the_unit_that_keeps_them_short() -> None:
    assert [format_angle(angle) for angle in (40, 0.5, 0.002, 1e-6)] == ["40°", "30′", "7.2″", "0.0036″"]
