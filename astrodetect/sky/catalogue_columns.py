"""The columns of a catalogue: which of them hold positions, identifiers and paths, and what their cells are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from astrodetect.errors import DataError
from astrodetect.parquet_table import ColumnType
from astrodetect.sky.positions import HOURS_TO_DEGREES, parse_dec, parse_ra
from astrodetect.sky.table_readers import ObjectTable

# usual column names, in lower case
RA_COLUMNS = ("ra", "ra_deg", "raj2000", "_raj2000", "ra_j2000", "ra_icrs", "right_ascension", "radeg")
DEC_COLUMNS = ("dec", "dec_deg", "dej2000", "_dej2000", "dec_j2000", "de_icrs", "dec_icrs", "declination", "decdeg")
ID_COLUMNS = ("object_id", "objid", "objectid", "id", "name", "iauname", "dr7objid", "source_id", "galaxyid", "main_id")
PATH_COLUMNS = ("path", "filename", "file", "image_name")
RA_UCDS = ("pos.eq.ra;meta.main", "pos_eq_ra_main", "pos.eq.ra")
DEC_UCDS = ("pos.eq.dec;meta.main", "pos_eq_dec_main", "pos.eq.dec")
ID_UCDS = ("meta.id;meta.main", "id_main", "meta.id")
NO_VALUE = {"", "nan", "null", "none"}  # texts of cells without one
HOURS = {"h", "hr", "hrs", "hour", "hours", "hourangle", "15 deg", '"h:m:s"', "h:m:s"}  # units, in lower case
DEGREES = {"d", "decimal degrees", '"d:m:s"', "d:m:s"}  # beside what begins with deg


@dataclass(frozen=True, slots=True)
class CatalogueColumns:
    """The names of a catalogue's columns; None: found by their usual names or UCDs."""

    ra: str | None = None
    dec: str | None = None
    object_id: str | None = None
    path: str | None = None


def find_column(
    table: ObjectTable, name: str, requested: str | None, usual: Sequence[str], ucds: Sequence[str]
) -> str | None:
    """The requested column; or the first with a UCD of these, or with a usual name."""
    if requested is not None and requested not in table.columns:
        raise DataError(f"{name} has no column {requested}: it has {', '.join(table.columns)}")
    by_ucd, by_name = dict[str, str](), dict[str, str]()
    for column in table.columns:
        by_ucd.setdefault(table.ucds.get(column, "").lower(), column)
        if (lower := column.strip().lower()) == column:  # before RA, so that ra and dec are of one pair
            by_name[lower] = column
        by_name.setdefault(lower, column)
    candidates = [by_ucd.get(ucd) for ucd in ucds] + [by_name.get(usual_name) for usual_name in usual]
    return requested or min(filter(None, candidates), key=lambda column: bool(table.other_frame(column)), default=None)


def position_columns(table: ObjectTable, name: str, ra: str | None, dec: str | None) -> tuple[str, str]:
    """The columns of RA and Dec; DataError where there are none, or where they are neither ICRS nor J2000."""
    ra = find_column(table, name, ra, RA_COLUMNS, RA_UCDS)
    dec = find_column(table, name, dec, DEC_COLUMNS, DEC_UCDS)
    if not (ra and dec):
        missing = "dec" if ra else "ra"
        raise DataError(f"{name} has no column with a usual name for {missing.upper()}: name it with --{missing}")
    for column in (ra, dec):
        if frame := table.other_frame(column):
            raise DataError(f"{name}: {column} is in {frame}, and positions are read in ICRS or J2000: convert them")
    return ra, dec


def read_angles(table: ObjectTable, column: str, name: str, *, hours: bool) -> list[float | None]:
    """Degrees of each row; DataError names the first row whose value is no angle."""
    parse = parse_ra if hours else parse_dec
    unit = table.units.get(column, "")
    scale = _unit_degrees(unit)
    angles: list[float | None] = []
    for row, value in enumerate(table.columns[column], start=1):
        if value is None or (isinstance(value, str) and value.strip().lower() in NO_VALUE):
            angles.append(None)
            continue
        number = _decimal(value)
        if scale is None and number is not None:
            raise DataError(f"{name}: {column} has the unit {unit}: degrees, hours or radians are read")
        try:
            angles.append(parse(value if number is None or scale is None else repr(number * scale)))
        except ValueError as error:
            raise DataError(f"{name}, row {row}: {error}") from error
    return angles


def _decimal(value: str | float) -> float | None:
    """The number that a cell is, or spells; None of a sexagesimal one, whose unit is in it."""
    try:
        return float(value)
    except ValueError:
        return None


def _unit_degrees(unit: str) -> float | None:
    """How many degrees a unit has; None if it is no unit of angles."""
    text = unit.strip().lower()
    if text in HOURS:
        return HOURS_TO_DEGREES
    if not text or text in DEGREES or text.startswith("deg"):
        return 1.0
    from astropy.units import Unit  # noqa: PLC0415 - slow to import

    try:
        return float(Unit(text.removesuffix("s")).to("deg"))
    except (ValueError, TypeError):
        return None


def column_type(values: Sequence[Any]) -> ColumnType:
    """The type that holds every value, and no integer rounded: of texts, what they all spell."""
    kinds: set[ColumnType] = set()
    for value in values:
        if isinstance(value, bool):
            kinds.add("boolean")
        elif isinstance(value, str):
            if value.strip().lower() not in NO_VALUE:
                kinds.add(_spelt_type(value))
        elif value is not None:
            kinds.add(_spelt_type(str(value)) if isinstance(value, int) else "number")
        if "text" in kinds:
            return "text"
    if kinds == {"integer", "number"}:
        return "number" if all(map(_is_exact_float, values)) else "text"
    return kinds.pop() if len(kinds) == 1 else "text"


def is_decimal(values: Sequence[Any]) -> bool:
    """Whether the values are positions in degrees as they stand."""
    return column_type([value for value in values if cell_text(value)]) != "text" or not any(
        value for value in map(cell_text, values) if value and value.lower() not in NO_VALUE
    )


def _spelt_type(text: str) -> ColumnType:
    try:
        number = int(text)
    except ValueError:
        try:
            float(text)
        except ValueError:
            return "text"
        return "number"
    return "integer" if str(number) == text and -(2**63) <= number < 2**63 else "text"  # not 007


def _is_exact_float(value: Any) -> bool:
    """False for an integer, also one that a text spells, which 64 bits of floating point round."""
    try:
        number = int(value) if isinstance(value, str | int) else 0
    except ValueError:
        return True
    return float(number) == number


def typed_cell(value: Any, kind: ColumnType) -> Any:
    """A cell as a value of its column's type; None without a value."""
    if kind == "text":
        return cell_text(value)
    if isinstance(value, str):
        return None if value.strip().lower() in NO_VALUE else int(value) if kind == "integer" else float(value)
    return float(value) if kind == "number" and value is not None else value


def cell_text(value: Any) -> str | None:
    """A cell as text; None of an empty one."""
    return None if value is None else str(value).strip() or None
