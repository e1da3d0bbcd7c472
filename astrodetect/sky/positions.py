"""Positions as people and catalogues write them: decimal degrees or sexagesimal, checked."""

import math
import re
from collections.abc import Container
from itertools import chain, count

from astrodetect.records import Cone, SkyObject

MAX_ID_CHARS = 255
MAX_ANGLE_CHARS = 64  # the expression below takes time by the cube of the length of what is no angle
HOURS_TO_DEGREES = 15.0
# 12:34:56.7, 12 34 56.7, 12h34m56.7s, -45d30m, +45°30′15″; the last part may have decimals, seconds may be missing
SEXAGESIMAL = re.compile(
    r"""([-+−]?)\s*(\d{1,3}) \s*[:\shd°]\s* (\d{1,2}(?:\.\d*)?)
    \s*(?:[:\sm'′]\s*(?:(\d{1,2}(?:\.\d*)?) \s*["″s]?)?)?""",
    re.VERBOSE | re.ASCII,
)
MINUS = ("-", "−")


def parse_ra(text: str) -> float:
    """Right ascension in degrees, from degrees or sexagesimal hours; ValueError says what is wrong."""
    degrees = _parse_angle(text, hours=True)
    if degrees is None or not 0 <= degrees <= 360:
        raise ValueError(f"RA in degrees from 0 to 360, or as 12:34:56.7 in hours, not {_quoted(text)}")
    return degrees % 360


def parse_dec(text: str) -> float:
    """Declination in degrees, from degrees or sexagesimal degrees; ValueError says what is wrong."""
    degrees = _parse_angle(text, hours=False)
    if degrees is None or not -90 <= degrees <= 90:
        raise ValueError(f"Dec in degrees from -90 to 90, or as -12:34:56.7, not {_quoted(text)}")
    return degrees


def format_name(ra: float, dec: float) -> str:
    """The name of an object after its position, as the IAU recommends: truncated, not rounded."""
    hundredths = int(ra % 360 / HOURS_TO_DEGREES * 360_000 + 1e-6)
    tenths = int(abs(dec) * 36_000 + 1e-6)
    hours, minutes, seconds = hundredths // 360_000, hundredths // 6000 % 60, hundredths % 6000 / 100
    degrees, arcminutes, arcseconds = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    sign = "-" if dec < 0 else "+"
    return f"J{hours:02}{minutes:02}{seconds:05.2f}{sign}{degrees:02}{arcminutes:02}{arcseconds:04.1f}"


def unused_name(ra: float, dec: float, taken: Container[str]) -> str:
    """`format_name`, with a number where another object has that name."""
    name = format_name(ra, dec)
    return next(unused for unused in chain([name], (f"{name}-{number}" for number in count(2))) if unused not in taken)


def parse_sky_object(ra: str | None, dec: str | None, object_id: str | None) -> SkyObject | None:
    """What a caller says of an image; None where that is nothing. ValueError says what is wrong."""
    ra, dec, object_id = ((text or "").strip() for text in (ra, dec, object_id))
    if bool(ra) != bool(dec):
        raise ValueError(f"{'RA' if ra else 'Dec'} alone is no position: give ra and dec")
    if len(object_id) > MAX_ID_CHARS:
        raise ValueError(f"an object_id of at most {MAX_ID_CHARS} characters, not {len(object_id)}")
    if not (ra or object_id):
        return None
    return SkyObject(parse_ra(ra) if ra else None, parse_dec(dec) if dec else None, object_id or None)


def split_position(text: str) -> tuple[str, str]:
    """RA and Dec of a text such as `13 29 52.7 +47 11 43` or `202.47, 47.2`; ValueError if it does not have both."""
    parts = text.split(",") if "," in text else text.split()
    if not parts or len(parts) % 2:
        raise ValueError(f"a position is RA and Dec, such as 202.47 47.2 or 13:29:52.7 +47:11:43, not {text.strip()}")
    half = len(parts) // 2
    return " ".join(parts[:half]), " ".join(parts[half:])


def parse_cone(ra: str | None, dec: str | None, radius: str | None) -> Cone | None:
    """A cone of a query, in degrees; None where nothing is given. ValueError says what is wrong."""
    given = {"ra": (ra or "").strip(), "dec": (dec or "").strip(), "radius": (radius or "").strip()}
    missing = [name for name, text in given.items() if not text]
    if len(missing) == len(given):
        return None
    if missing:
        raise ValueError(f"a cone needs ra, dec and radius: {' and '.join(missing)} missing")
    try:
        degrees = float(given["radius"])
    except ValueError:
        degrees = math.nan
    if not 0 <= degrees <= 180:
        raise ValueError(f"a radius in degrees from 0 to 180, not {_quoted(given['radius'])}")
    return Cone(parse_ra(given["ra"]), parse_dec(given["dec"]), degrees)


def _quoted(text: str) -> str:
    """What a caller wrote, cut to what an angle may have."""
    return text.strip()[:MAX_ANGLE_CHARS] or "nothing"


def _parse_angle(text: str, *, hours: bool) -> float | None:
    """Degrees; None of what is no angle."""
    text = text.strip()
    if len(text) > MAX_ANGLE_CHARS:
        return None
    try:
        degrees = float(text)
    except ValueError:
        return _parse_sexagesimal(text, hours=hours)
    return degrees if math.isfinite(degrees) else None


def _parse_sexagesimal(text: str, *, hours: bool) -> float | None:
    match = SEXAGESIMAL.fullmatch(text)
    if match is None or (not hours and "h" in text):
        return None
    sign, whole, minutes, seconds = match.groups()
    if max(float(minutes), float(seconds or 0)) >= 60 or ("." in minutes and seconds):
        return None
    value = int(whole) + float(minutes) / 60 + float(seconds or 0) / 3600
    scale = HOURS_TO_DEGREES if hours and not {"d", "°"} & {*text} else 1.0
    return (-value if sign in MINUS else value) * scale
