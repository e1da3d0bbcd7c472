"""Positions as people write them, HEALPix cells and cones beside another implementation, and the WCS of FITS."""

import io
import math
from typing import Any

import numpy as np
import pytest

from astrodetect import images
from astrodetect.records import Cone, SkyObject
from astrodetect.sky import healpix
from astrodetect.sky.archives import format_position
from astrodetect.sky.crossmatch import unit_vectors
from astrodetect.sky.positions import parse_dec, parse_ra, parse_sky_object, split_position
from astrodetect.sky.wcs import quiet

POSITIONS = 5_000


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("187.5", 187.5),
        (" 0 ", 0.0),
        ("360", 0.0),
        ("12:30:00", 187.5),
        ("12 30 36.6", 187.6525),
        ("12h30m36.6s", 187.6525),
        ("12h30.5m", 187.625),
        ("187d30m00s", 187.5),
    ],
)
def test_right_ascensions_are_read_in_degrees_and_hours(text: str, degrees: float) -> None:
    assert parse_ra(text) == pytest.approx(degrees, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "degrees"),
    [("-45.25", -45.25), ("+90", 90), ("-00:30:00", -0.5), ("+47d11m42.9s", 47.195250), ("−45°30′18″", -45.505)],
)
def test_declinations_are_read_in_degrees_and_sexagesimal(text: str, degrees: float) -> None:
    assert parse_dec(text) == pytest.approx(degrees, abs=1e-12)


@pytest.mark.parametrize("text", ["400", "-1", "nan", "inf", "1e400", "12:61:00", "25:00:00", "abc", "", "12:30.5:10"])
def test_what_is_no_right_ascension_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^RA in degrees from 0 to 360.*[^\n]$"):
        parse_ra(text)


@pytest.mark.parametrize("text", [f"1{' ' * 30_000}2{' ' * 30_000}x", "1" * 100_000])
def test_a_long_text_that_is_no_angle_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r"^RA in degrees from 0 to 360.{1,150}$"):  # else it takes days
        parse_ra(text)


@pytest.mark.parametrize("text", ["91", "-90.1", "nan", "-91:00:00", "5h30m", "north"])
def test_what_is_no_declination_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Dec in degrees from -90 to 90"):
        parse_dec(text)


def test_a_position_has_both_coordinates_and_an_object_may_have_none() -> None:
    assert parse_sky_object(None, "", " ") is None
    assert parse_sky_object("10", "-20", None) == SkyObject(10, -20)
    assert parse_sky_object(None, None, "M51") == SkyObject(object_id="M51")
    for ra, dec in (("10", None), ("", "20")):
        with pytest.raises(ValueError, match="alone is no position"):
            parse_sky_object(ra, dec, "M51")
    with pytest.raises(ValueError, match="255"):
        parse_sky_object(None, None, "x" * 256)


def sky_positions() -> tuple[Any, Any]:
    """Positions everywhere, many of them at the poles, on the meridian, the equator and the edges of base cells."""
    random = np.random.default_rng(5)
    ra = random.uniform(0, 360, POSITIONS)
    dec = np.degrees(np.arcsin(random.uniform(-1, 1, POSITIONS)))
    dec[:200], dec[200:400] = 90 - 10 ** random.uniform(-12, 0, 200), -90 + 10 ** random.uniform(-12, 0, 200)
    dec[400:402], dec[402:500] = (90, -90), 0
    ra[500:600] = random.choice([0, 45, 90, 180, 270, 360 - 1e-13], 100)
    return ra, dec


@pytest.mark.parametrize("order", [0, 3, 29])
def test_cells_and_their_centres_are_those_of_cdshealpix(order: int) -> None:
    import astropy.units as u
    import cdshealpix.nested

    ra, dec = sky_positions()
    cells = healpix.cells_of(ra, dec, order)
    assert cells.tolist() == cdshealpix.nested.lonlat_to_healpix(ra * u.deg, dec * u.deg, order).tolist()
    centre_ra, centre_dec = healpix.centres(cells, order)
    expected_ra, expected_dec = cdshealpix.nested.healpix_to_lonlat(cells.astype(np.uint64), order)
    assert np.abs(centre_dec - expected_dec.deg).max() < 1e-12
    across = np.abs((centre_ra - expected_ra.deg + 180) % 360 - 180) * np.cos(np.radians(centre_dec))
    assert across.max() < 1e-12


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.99, 41.8, 0.0, -63.2])
@pytest.mark.parametrize("radius", [1e-4, 0.1, 5.0, 100.0, 180.0])
def test_a_cone_is_covered_by_few_ranges_that_hold_all_of_it(dec: float, radius: float) -> None:
    random = np.random.default_rng(6)
    for ra in (0.0, 359.99999, 211.7):
        low, high = np.array(healpix.cover_cone(Cone(ra, dec, radius))).T
        assert len(low) < 100
        assert (low[1:] > high[:-1] + 1).all()
        # positions in the cone, half of them at its edge
        distances = radius * np.where(random.random(400) < 0.5, 1 - 1e-9, np.sqrt(random.random(400)))
        near_ra, near_dec = offset(ra, dec, distances, random.uniform(0, 360, 400))
        cells = healpix.cells_of(near_ra, near_dec)
        ranges = np.searchsorted(low, cells, side="right") - 1
        assert (ranges >= 0).all()
        assert (cells <= high[ranges]).all()


def offset(ra: float, dec: float, distances: Any, angles: Any) -> tuple[Any, Any]:
    """The positions at these distances from one, in these directions from north, in degrees."""
    lat, far, angle = math.radians(dec), np.radians(distances), np.radians(angles)
    north = np.sin(lat) * np.cos(far) + np.cos(lat) * np.sin(far) * np.cos(angle)
    east = np.arctan2(np.sin(angle) * np.sin(far) * np.cos(lat), np.cos(far) - np.sin(lat) * north)
    return (ra + np.degrees(east)) % 360, np.degrees(np.arcsin(north.clip(-1, 1)))


def test_the_cells_of_a_cone_are_near_it() -> None:
    low, high = np.array(healpix.cover_cone(Cone(10, 20, 1.0))).T
    share = float((high - low + 1).sum()) / (12 * 4.0**29)
    assert share < 2 * (1 - math.cos(math.radians(1))) / 2


def test_distances_are_exact_from_milliarcseconds_to_half_a_turn() -> None:
    mas = 1 / 3.6e6
    distances = healpix.separation(359.9999999, 60.0, np.array([0.0, 179.9999999]), np.array([60.0, -60.0]))
    assert distances.tolist() == pytest.approx([1e-7 / 2, 180.0], abs=mas / 1e3)


def fits_with_wcs(kind: tuple[str, str], **fields: Any) -> tuple[bytes, Any]:
    from astropy.io import fits
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = list(kind), [202.5, 47.2], [100, 50], [-1e-3, 1e-3]
    for name, value in fields.items():
        setattr(wcs.wcs, name, value)
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.zeros((2, 64, 80), np.float32), header=wcs.to_header()).writeto(buffer)
    return buffer.getvalue(), wcs


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (("RA---TAN", "DEC--TAN"), {}),
        (("RA---SIN", "DEC--SIN"), {"radesys": "FK5", "equinox": 2000.0}),
        (("RA---TAN", "DEC--TAN"), {"radesys": "FK5", "equinox": 1950.0}),
        (("GLON-CAR", "GLAT-CAR"), {"crval": [202.5, 0.0]}),
    ],
)
def test_the_position_of_a_fits_is_its_middle(kind: tuple[str, str], fields: dict[str, Any]) -> None:
    data, wcs = fits_with_wcs(kind, **fields)
    expected = wcs.pixel_to_world(39.5, 31.5).icrs
    found = images.sky_object(data, SkyObject(object_id="M51"))
    assert found is not None
    assert found.object_id == "M51"
    [distance] = healpix.separation(expected.ra.deg, expected.dec.deg, np.array([found.ra]), np.array([found.dec]))
    assert distance * 3600 < 0.03
    given = SkyObject(1, 2, "M51")
    assert images.sky_object(data, given) == given


TNX = 'wtype=tnx axtype={} {}cor = "3. 2. 2. 2. -1 1 -1 1 .01 0 0 0 "'


@pytest.mark.parametrize(
    "cards",
    [
        {"EPOCH": 1950.0},
        {"RADECSYS": "FK4"},
        {"PC001001": 0.8, "PC001002": -0.6, "PC002001": 0.6, "PC002002": 0.8},
        {"CTYPE1": "RA---TNX", "CTYPE2": "DEC--TNX", "WAT1_001": TNX.format("ra", "lng"),
         "WAT2_001": TNX.format("dec", "lat")},
    ],
)  # fmt: skip
def test_the_position_of_a_fits_heeds_older_keywords(cards: dict[str, Any]) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 202.5, "CRVAL2": 47.2} | cards)
    header.update({"CRPIX1": 100.0, "CRPIX2": 50.0, "CDELT1": -1e-3, "CDELT2": 1e-3})
    image, buffer = fits.PrimaryHDU(np.zeros((64, 80), np.float32), header=header), io.BytesIO()
    image.writeto(buffer)
    with quiet():  # astropy warns of them
        expected = WCS(image.header).pixel_to_world(39.5, 31.5).icrs
    found = images.sky_object(buffer.getvalue())
    assert found is not None
    [distance] = healpix.separation(expected.ra.deg, expected.dec.deg, np.array([found.ra]), np.array([found.dec]))
    assert distance * 3600 < 0.03


@pytest.mark.parametrize("header", [{}, {"CTYPE1": "FREQ", "CTYPE2": "DEC--TAN"}, {"CTYPE1": "RA---TAN", "CTYPE2": 3}])
def test_a_fits_without_a_celestial_wcs_has_no_position(header: dict[str, Any]) -> None:
    from astropy.io import fits

    buffer = io.BytesIO()
    fits.PrimaryHDU(np.zeros((64, 80), np.float32), header=fits.Header(header)).writeto(buffer)
    assert images.sky_object(buffer.getvalue()) is None
    assert images.sky_object(buffer.getvalue()[:2000]) is None
    assert images.sky_object(b"\xff\xd8\xff no FITS") is None


@pytest.mark.parametrize(
    ("ra", "dec", "text"),
    [
        (202.46957, 47.19525, "13:29:52.70 +47:11:42.9"),
        (359.99999999, -0.00001, "00:00:00.00 +00:00:00.0"),
        (0.0, -0.25, "00:00:00.00 -00:15:00.0"),
        (15.0, 89.9999999, "01:00:00.00 +90:00:00.0"),
    ],
)
def test_positions_are_written_as_people_write_them(ra: float, dec: float, text: str) -> None:
    assert format_position(ra, dec) == text
    ra_text, dec_text = split_position(text)
    assert (parse_ra(ra_text), parse_dec(dec_text)) == pytest.approx((ra % 360 if ra < 359.99 else 0, dec), abs=5e-5)


@pytest.mark.parametrize("text", ["", "12", "1 2 3", "1,2,3"])
def test_a_text_without_two_halves_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="a position is RA and Dec"):
        split_position(text)


def test_the_cells_around_a_small_circle_contain_all_of_it() -> None:
    random, radius = np.random.default_rng(2), 2 / 3600
    order = healpix.cells_around(np.zeros(1), np.zeros(1), radius)[1]
    cells = random.integers(0, 12 << (2 * order), 3000)
    cells[:24] = np.concatenate([np.arange(12) << (2 * order), (np.arange(1, 13) << (2 * order)) - 1])  # poles, edges
    corner_ra, corner_dec = (corners.ravel() for corners in healpix.cell_corners(cells, order))

    def moved(ra: Any, dec: Any, distance: Any) -> tuple[Any, Any]:
        bearing = random.uniform(0, 2 * np.pi, len(ra))
        x, y, z = (
            np.cos(distance)[:, None] * unit_vectors(ra, dec)
            + (np.sin(distance) * np.cos(bearing))[:, None] * unit_vectors(ra, dec + 90)
            + (np.sin(distance) * np.sin(bearing))[:, None] * unit_vectors(ra + 90, np.zeros(len(ra)))
        ).T
        return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))

    ra, dec = moved(corner_ra, corner_dec, math.radians(1.3 * radius) * np.sqrt(random.random(len(corner_ra))))
    around, _, circle = healpix.cells_around(ra, dec, radius)
    covered = {*zip(circle.tolist(), around.tolist(), strict=True)}
    for share in (1.0, 0.999, 0.9, 0.5, 0.0):
        inside = moved(ra, dec, np.full(len(ra), math.radians(share * radius)))
        assert covered >= {*enumerate(healpix.cells_of(*inside, order).tolist())}
    assert len(around) < 5 * len(ra)
