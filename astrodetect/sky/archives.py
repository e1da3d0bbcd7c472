"""Where a position is looked up: the pages of archives, and the position as people write it."""

from urllib.parse import quote

RADIUS_ARCSEC = 10  # of the searches
ARCHIVES = {  # the page of a position, which is in degrees
    "SIMBAD": "https://simbad.cds.unistra.fr/simbad/sim-coo?Coord={ra}d{dec}d&CooFrame=ICRS"
    f"&Radius={RADIUS_ARCSEC}&Radius.unit=arcsec",
    "NED": "https://ned.ipac.caltech.edu/conesearch?search_type=Near%20Position%20Search&in_csys=Equatorial"
    f"&in_equinox=J2000&ra={{ra}}d&dec={{dec}}d&radius={RADIUS_ARCSEC / 60:.3f}",
    "VizieR": f"https://vizier.cds.unistra.fr/viz-bin/VizieR-4?-c={{ra}}{{dec}}&-c.r={RADIUS_ARCSEC}&-c.u=arcsec",
    "Legacy Surveys": "https://www.legacysurvey.org/viewer?ra={ra}&dec={dec}&zoom=15&mark={ra},{dec}",
    "SDSS": "https://skyserver.sdss.org/dr18/VisualTools/navi?ra={ra}&dec={dec}&scale=0.2",
    "ESASky": "https://sky.esa.int/esasky/?target={ra}%20{dec}&cooframe=J2000&fov=0.05&sci=true",
}
SIGNED = "SIMBAD", "VizieR"  # that read RA and Dec as one text


def archive_links(ra: float, dec: float) -> list[tuple[str, str]]:
    """The name and the URL of each archive's page of this position."""
    return [
        (name, url.format(ra=f"{ra:.6f}", dec=quote(f"{dec:+.6f}" if name in SIGNED else f"{dec:.6f}")))
        for name, url in ARCHIVES.items()
    ]


def format_position(ra: float, dec: float) -> str:
    """RA in hours to 0.01 s and Dec in degrees to 0.1 arcsec, such as `13:29:52.70 +47:11:42.9`."""
    ra_steps = round(ra / 15 * 360_000) % (24 * 360_000)
    dec_steps = round(abs(dec) * 36_000)
    return f"{_sexagesimal(ra_steps, 100)} {'-' if dec < 0 and dec_steps else '+'}{_sexagesimal(dec_steps, 10)}"


def _sexagesimal(steps: int, per_second: int) -> str:
    seconds, fraction = divmod(steps, per_second)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{fraction:0{len(str(per_second)) - 1}}"
