"""Comparing positions with known objects, of files or of the database, shared by the commands."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrodetect.cli._options import float_between, refuse_unused
from astrodetect.errors import DataError
from astrodetect.progress import ProgressBar, print_notice
from astrodetect.settings import settings
from astrodetect.sky.crossmatch import DEFAULT_RADIUS_ARCSEC, MAX_RADIUS_ARCSEC, NearestObjects
from astrodetect.sky.healpix import cells_of
from astrodetect.sky.known_objects import KNOWN_COLUMNS, KnownColumns, read_known_objects
from astrodetect.storage.references import as_image_path, base_name

if TYPE_CHECKING:
    from astrodetect.anomalies.results import AnomalyResults
    from astrodetect.db.catalogues import CatalogueTables
    from astrodetect.sky.healpix import Degrees

FROM_DATABASE = "database"  # names the imported catalogues in place of a file
MIN_RADIUS_ARCSEC = 0.01


@dataclass(frozen=True, slots=True)
class KnownMatches:
    """What is known of each position: the values of KNOWN_COLUMNS, all None without a position; and the numbers."""

    cells: Sequence[Sequence[Any]]
    summary: Sequence[str]


def add_radius_option(parser: "argparse._ActionsContainer", name: str = "--radius") -> None:
    """Declare --radius, or an option of another name."""
    parser.add_argument(
        name,
        type=float_between(MIN_RADIUS_ARCSEC, MAX_RADIUS_ARCSEC),
        default=DEFAULT_RADIUS_ARCSEC,
        metavar="ARCSEC",
        help=f"how far a known object may be from a position (default: {DEFAULT_RADIUS_ARCSEC:g})",
    )


def add_known_options(parser: argparse.ArgumentParser) -> None:
    """Declare --known and --known-radius."""
    group = parser.add_argument_group("known objects", "columns of which objects are known, for images with a position")
    group.add_argument(
        "--known",
        action="append",
        type=as_image_path,
        metavar="FILE",
        help=f"a catalogue of known objects (.csv, .parquet, FITS table, VOTable), or {FROM_DATABASE}: those imported "
        "by crossmatch; repeatable",
    )
    add_radius_option(group, "--known-radius")


def check_known(arguments: argparse.Namespace) -> None:
    """DataError or DatabaseError where --known cannot be read, before hours of work."""
    if not arguments.known:
        refuse_unused(arguments, "known_radius", "without --known")
    else:
        find_known(np.zeros(0), np.zeros(0), arguments.known, arguments.known_radius, "")


def known_of_results(arguments: argparse.Namespace, results: "AnomalyResults") -> tuple["AnomalyResults", list[str]]:
    """The results with what is known of each image, where --known asks for it, and the numbers in words."""
    if not arguments.known:
        return results, []
    objects = [results.sky_object(image) for image in range(len(results))]
    ra, dec = (np.array([getattr(item, name) for item in objects], np.float64) for name in ("ra", "dec"))
    if np.isnan(ra).all():
        raise DataError("no image has a position to compare with --known: add --catalogue FILE")
    known = find_known(ra, dec, arguments.known, arguments.known_radius, "images with a position")
    return replace(results, known=known.cells), list(known.summary)


def open_catalogues(url: str) -> "CatalogueTables":
    """The tables of catalogues of the database at this URL."""
    from astrodetect.db.catalogues import CatalogueTables  # noqa: PLC0415
    from database import SQL  # noqa: PLC0415

    return CatalogueTables(url, SQL)


def notice_without_objects(nearest: NearestObjects) -> None:
    """Say where there was nothing to compare with: then nothing is known."""
    if not nearest.objects:
        print_notice("no catalogue has an object with a position: import one by crossmatch import")


def ask_online(tables: "CatalogueTables", ra: "Degrees", dec: "Degrees", radius_arcsec: float) -> None:
    """Ask the online catalogues of the settings about the positions that they were not asked about yet."""
    config = settings()
    if not config.online_catalogues:
        return
    from astrodetect.datasets.sources.http import HttpClient  # noqa: PLC0415 - not needed by default
    from astrodetect.datasets.sources.tap import ask, online_catalogues  # noqa: PLC0415

    cells, first = np.unique(cells_of(ra, dec), return_index=True)
    for catalogue in online_catalogues(config):
        missing = tables.missing_lookups(catalogue.name, cells, radius_arcsec, config.online_max_age_days)
        places, asked = first[missing], cells[missing]
        if not len(asked):
            continue
        with ProgressBar(f"asking {catalogue.name}", len(asked)) as bar:
            for block, objects in ask(catalogue, ra[places], dec[places], radius_arcsec, HttpClient(config)):
                tables.save_answer(catalogue.name, catalogue.url, objects, asked[block], radius_arcsec)
                bar.step(len(asked[block]))


def find_known(
    ra: "Degrees", dec: "Degrees", catalogues: Sequence[str | Path], radius_arcsec: float, what: str
) -> KnownMatches:
    """The nearest known object of each position, NaN where there is none, in files or FROM_DATABASE."""
    placed = ~np.isnan(ra)
    files = [str(catalogue) for catalogue in catalogues if str(catalogue) != FROM_DATABASE]
    if files:
        nearest, rows = _in_files(ra[placed], dec[placed], files, radius_arcsec)
    else:
        from database import database_url  # noqa: PLC0415 - not needed with files

        with database_url(settings()) as url:
            tables = open_catalogues(url)
            ask_online(tables, ra[placed], dec[placed], radius_arcsec)
            nearest, rows = tables.match_positions(ra[placed], dec[placed], radius_arcsec)
    notice_without_objects(nearest)
    cells: list[list[Any]] = [[None] * len(KNOWN_COLUMNS) for _ in range(len(ra))]
    matches = zip(np.flatnonzero(placed).tolist(), nearest.ids.tolist(), nearest.arcsec.tolist(), strict=True)
    for position, object_, arcsec in matches:
        cells[position][0] = object_ in rows
        if row := rows.get(object_):
            name = row["name"] or row["object_id"]
            cells[position][1:] = name, row["type"], arcsec, row["reference_count"], row["catalogue"]
    return KnownMatches(cells, nearest.describe(what, radius_arcsec))


def _in_files(
    ra: "Degrees", dec: "Degrees", files: Sequence[str], radius_arcsec: float
) -> tuple[NearestObjects, dict[int, dict[str, Any]]]:
    """As CatalogueTables.match_positions; objects are numbered from 1 through all files."""
    nearest, rows, before = NearestObjects(ra, dec, radius_arcsec), dict[int, dict[str, Any]](), 1
    for file in files:
        objects = read_known_objects(file, KnownColumns())
        placed = np.flatnonzero(objects.placed)
        nearest.add(placed + before, objects.ra[placed], objects.dec[placed])
        for number in {*nearest.ids.tolist()} & {*(placed + before).tolist()}:
            index = number - before
            rows[number] = {
                "catalogue": base_name(file),
                "reference_count": objects.references[index],
                **{name: objects.texts[name][index] for name in ("object_id", "name", "type")},
            }
        before += len(objects)
    return nearest, rows
