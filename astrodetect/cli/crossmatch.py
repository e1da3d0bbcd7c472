"""`crossmatch`: which objects are known: compare positions with catalogues, and import these."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from astrodetect.cli._known import (
    FROM_DATABASE,
    add_radius_option,
    ask_online,
    find_known,
    notice_without_objects,
    open_catalogues,
)
from astrodetect.cli._options import Subparsers, check_not_input, command_parser, local_path, refuse_unused
from astrodetect.csv_cells import csv_cell, write_csv
from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.progress import ProgressBar, printable
from astrodetect.settings import settings
from astrodetect.sky.catalogue_columns import column_type, typed_cell
from astrodetect.sky.known_objects import KNOWN_COLUMNS, KnownColumns, read_known_objects, read_positions
from astrodetect.sky.table_readers import ObjectTable, read_object_table
from astrodetect.sky.table_writers import CSV, ENDINGS, HATS, check_hats, ending, write_table
from astrodetect.storage import objects
from astrodetect.storage.references import as_image_path

if TYPE_CHECKING:
    from astrodetect.db.catalogues import CatalogueKind

IMPORT, LIST, REMOVE = "import", "list", "remove"
DESCRIPTION = """find which objects are known, by comparing positions with catalogues

Without a TABLE, every prediction in the database that has a position is compared with all imported catalogues; the
nearest object within --radius is stored (catalogue_matches) and shown wherever the prediction is. Run it again after
an import, or every night: what has not changed is not written again. With a TABLE (.csv, .parquet, FITS table or
VOTable with positions, such as the anomalies.csv of `anomalies --catalogue`), the columns known, known_name,
known_type, known_arcsec, known_references and known_catalogue are added to it; with --catalogue no database is needed.

import FILE --name NAME stores a catalogue: a .csv, .parquet, FITS table or VOTable with positions, whose other columns
are kept too. Importing a name again replaces that catalogue as a whole. list shows the catalogues; remove NAME removes
one. The images that `collect` downloaded are listed too, but do not count as known objects.

With ASTRODETECT_ONLINE_CATALOGUES (simbad, ned, vizier:TABLE; off by default) these are asked too, about 50 positions
at a time, once each; the answers are stored with their date. The positions leave this machine then.

The number of matches that chance alone would give is estimated by moving all positions by an arcminute (or ten radii)
to four sides.
"""
EXAMPLES = """examples:
  python -m astrodetect crossmatch import hyperleda.fits --name HyperLEDA
  python -m astrodetect crossmatch
  python -m astrodetect crossmatch anomalies/anomalies.csv --output known.csv
  python -m astrodetect crossmatch objects.vot --catalogue lenses.fits --radius 3 --output known.vot
  python -m astrodetect crossmatch list
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "crossmatch", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "action", nargs="?", metavar="TABLE|import|list|remove", help="a table to compare (default: the predictions)"
    )
    parser.add_argument("target", nargs="?", metavar="FILE|NAME", help="the file to import, or the catalogue to remove")
    parser.add_argument("--name", help="what an imported catalogue is called")
    parser.add_argument(
        "--catalogue",
        action="append",
        type=as_image_path,
        metavar="FILE",
        help="compare a TABLE with this file instead of the imported catalogues; repeatable",
    )
    parser.add_argument(
        "--output", type=local_path, metavar="FILE", help=f"where a TABLE is written: {', '.join(ENDINGS)}"
    )
    add_radius_option(parser)
    group = parser.add_argument_group("columns of the TABLE, or of the file to import (default: by name or UCD)")
    for name, what in (
        ("ra", "right ascensions"),
        ("dec", "declinations"),
        ("id", "identifiers"),
        ("object-name", "names"),
        ("type", "types"),
        ("references", "numbers of publications"),
    ):
        group.add_argument(f"--{name}", metavar="COLUMN", help=f"column of {what}")


def run(arguments: argparse.Namespace) -> int:
    """Import, list, remove or compare."""
    action, target = arguments.action, arguments.target
    if (target is None) == (action in {IMPORT, REMOVE}):
        arguments.parser.error(
            "import needs a file, remove the name of a catalogue; nothing else takes a second argument"
        )
    if (arguments.name is None) == (action == IMPORT):
        arguments.parser.error("import needs --name, nothing else takes it")
    is_table = action not in {None, IMPORT, LIST, REMOVE}
    if (arguments.output is None) == is_table or (arguments.catalogue and not is_table):
        arguments.parser.error("--output is needed for a TABLE; --output and --catalogue are for a TABLE only")
    if action in {IMPORT, LIST, REMOVE}:
        refuse_unused(arguments, "radius", f"with {action}")
    if action != IMPORT:
        refuse_unused(arguments, "id object_name type references", "without import")
    if action in {None, LIST, REMOVE}:
        refuse_unused(arguments, "ra dec", "without a TABLE or import")
    if is_table:
        lines = _match_table(arguments)
    else:
        from database import database_url  # noqa: PLC0415 - a program at the top

        with database_url(settings()) as url:
            lines = _use_database(arguments, url)
    for line in lines:
        print(line)
    return 0


def _use_database(arguments: argparse.Namespace, url: str) -> list[str]:
    catalogues, name = open_catalogues(url), arguments.target
    if arguments.action == LIST:
        rows = [
            f"{printable(row.name)}: {row.objects:,} objects, {row.kind} {row.timestamp:%Y-%m-%d} from "
            f"{printable(row.source)}"
            for row in catalogues.list_catalogues()
        ]
        return rows or ["no catalogues"]
    if arguments.action == REMOVE:
        return [f"removed {name}: {catalogues.remove(name):,} objects"]
    if arguments.action == IMPORT:
        known = read_known_objects(name, _columns(arguments))
        kind: CatalogueKind = "collected" if known.collected else "imported"
        with ProgressBar(f"importing {arguments.name}", len(known)) as bar:
            catalogues.replace(arguments.name, kind, name, known, bar.step)
        without = len(known) - int(known.placed.sum())
        lines = [
            f"imported {arguments.name}: {len(known):,} objects" + (f", {without:,} without a position" * bool(without))
        ]
        return [*lines, "compare the predictions with it: python -m astrodetect crossmatch"]
    if settings().online_catalogues:
        _, ra, dec = catalogues.prediction_positions()
        ask_online(catalogues, ra, dec, arguments.radius)
    nearest = catalogues.match_predictions(arguments.radius)
    notice_without_objects(nearest)
    return nearest.describe("predictions with a position", arguments.radius)


def _match_table(arguments: argparse.Namespace) -> list[str]:
    output = str(arguments.output)
    if (suffix := ending(output)) is None:
        raise DataError(f"the table is written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, not {output}")
    if suffix == HATS:
        check_hats(output)
    check_not_input(output, arguments.catalogue or ())
    table = read_object_table(arguments.action)
    chosen = _columns(arguments)
    ra, dec = read_positions(table, f"the table {arguments.action}", chosen.ra, chosen.dec)
    known = find_known(ra, dec, arguments.catalogue or [FROM_DATABASE], arguments.radius, "rows with a position")
    try:
        _write_table(output, table, known.cells)
    except OSError as error:
        raise DataError(f"cannot write {output}: {error.strerror or error}") from error
    return [*known.summary, output]


def _write_table(output: str, table: ObjectTable, known: Sequence[Sequence[Any]]) -> None:
    """The columns of a table, except those of an earlier comparison, and what is known of each row."""
    columns = {name: values for name, values in table.columns.items() if name not in KNOWN_COLUMNS}
    rows = zip(zip(*columns.values(), strict=True), known, strict=True)
    if ending(output) == CSV:
        with objects.open_writer(output) as file:
            write_csv(file, [*columns, *KNOWN_COLUMNS], ([*row, *map(csv_cell, matched)] for row, matched in rows))
        return
    kinds: dict[str, ColumnType] = {name: column_type(values) for name, values in columns.items()}
    values = (
        [*(typed_cell(value, kind) for value, kind in zip(row, kinds.values(), strict=True)), *matched]
        for row, matched in rows
    )
    write_table(output, kinds | KNOWN_COLUMNS, values, "Which objects are known")


def _columns(arguments: argparse.Namespace) -> KnownColumns:
    names = ("ra", "dec", "id", "object_name", "type", "references")
    return KnownColumns(*(getattr(arguments, name) for name in names))
