"""Online catalogues by the Table Access Protocol (TAP): SIMBAD, NED and tables of VizieR, asked about positions."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.datasets.sources.http import HttpClient
from astrodetect.errors import DataError, SourceError, SourceUrlError
from astrodetect.settings import Settings
from astrodetect.sky.known_objects import KnownColumns, KnownObjects, known_objects
from astrodetect.sky.table_readers import read_votable_table

POSITIONS_PER_QUERY = 50
MAX_ROWS = 100_000  # of an answer
# In time that is linear in the answer's length; elements may have a namespace's prefix.
INFO = re.compile(rb"""<(?:[\w.-]+:)?INFO\b((?:[^<>"']|"[^<"]*"|'[^<']*')*)>(?:<!\[CDATA\[)?([^<]*)""")
END = re.compile(rb"</(?:[\w.-]+:)?VOTABLE\s*>")
STATUS = re.compile(rb"""value\s*=\s*["'](\w+)["']""")
VIZIER = "vizier:"
MAX_MESSAGE = 200  # characters of a service's message


@dataclass(frozen=True, slots=True)
class OnlineCatalogue:
    """A table of a TAP service."""

    name: str
    url: str  # of the service
    table: str
    columns: str  # that are asked for
    known: KnownColumns  # of the answer; RA and Dec of the table too

    def query(self, ra: NDArray[np.float64], dec: NDArray[np.float64], radius_arcsec: float) -> str:
        """ADQL for the objects in cones around these positions."""
        cones = (
            f"CONTAINS(POINT('ICRS', {self.known.ra}, {self.known.dec}), "
            f"CIRCLE('ICRS', {at_ra:.8f}, {at_dec:.8f}, {radius_arcsec / 3600:.8f})) = 1"
            for at_ra, at_dec in zip(ra.tolist(), dec.tolist(), strict=True)
        )
        return f"SELECT {self.columns} FROM {self.table} WHERE {' OR '.join(cones)}"  # noqa: S608 - for TAP, of settings


def online_catalogues(chosen: Settings) -> list[OnlineCatalogue]:
    """Those that the settings name."""
    catalogues = []
    for name in filter(None, (part.strip() for part in chosen.online_catalogues.split(","))):
        if name == "simbad":
            known = KnownColumns("ra", "dec", "main_id", "main_id", "otype", "nbref")
            columns = "main_id, otype, ra, dec, nbref"
            catalogues.append(OnlineCatalogue("SIMBAD", chosen.simbad_tap_url, "basic", columns, known))
        elif name == "ned":
            known = KnownColumns("ra", "dec", "prefname", "prefname", "prefphytype")
            columns = "prefname, prefphytype, ra, dec, z"
            catalogues.append(OnlineCatalogue("NED", chosen.ned_tap_url, "NEDTAP.objdir", columns, known))
        else:
            table = name.removeprefix(VIZIER)
            known = KnownColumns("RAJ2000", "DEJ2000")
            catalogues.append(OnlineCatalogue(f"VizieR {table}", chosen.vizier_tap_url, f'"{table}"', "*", known))
    return catalogues


def ask(
    catalogue: OnlineCatalogue,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    radius_arcsec: float,
    client: HttpClient,
) -> Iterator[tuple[slice, KnownObjects]]:
    """The objects around these positions, one block of positions after the other; SourceError says what failed."""
    for begin in range(0, len(ra), POSITIONS_PER_QUERY):
        block = slice(begin, min(begin + POSITIONS_PER_QUERY, len(ra)))
        form = {
            "REQUEST": "doQuery",
            "LANG": "ADQL",
            "FORMAT": "votable",
            "MAXREC": str(MAX_ROWS),
            "QUERY": catalogue.query(ra[block], dec[block], radius_arcsec),
        }
        try:
            objects = client.get(f"{catalogue.url}/sync", lambda data: _read_answer(data, catalogue), form=form)
        except SourceUrlError as error:
            raise SourceError(f"{catalogue.name} {error}: run the same command again to continue") from error
        yield block, objects


def _read_answer(data: bytes, catalogue: OnlineCatalogue) -> KnownObjects:
    """The objects of an answer; ValueError of one that is incomplete or no VOTable, SourceUrlError of a refusal."""
    if not END.search(data):
        raise ValueError("answered with half a VOTable, or none")
    for attributes, text in INFO.findall(data):
        status = STATUS.search(attributes)
        if b"QUERY_STATUS" not in attributes or status is None:
            continue
        if status[1] == b"ERROR":
            message = " ".join(text.decode("utf-8", "replace").split()) or "no reason given"
            raise SourceUrlError(f"refused: {message[:MAX_MESSAGE]}")
        if status[1] == b"OVERFLOW":
            raise SourceUrlError("has more objects there than it sends: choose a smaller --radius")
    try:
        table = read_votable_table(io.BytesIO(data))
    except Exception as error:  # astropy raises almost any exception for damaged tables
        raise ValueError(f"answered with a damaged VOTable ({type(error).__name__})") from error
    try:
        return known_objects(table, f"the answer of {catalogue.name}", catalogue.known)
    except DataError as error:
        raise SourceUrlError(str(error)) from error
