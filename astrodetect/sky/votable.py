"""VOTables, the tables of the Virtual Observatory, written row by row without astropy."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

from astrodetect.parquet_table import ColumnType

MEDIA_TYPE = "application/x-votable+xml"
NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")  # what XML 1.0 cannot hold
KEPT = {"\r": "&#13;"}  # XML reads the character itself as a line feed
ROWS_PER_PIECE = 500
CONTROLLED_UCDS = "1.4"  # the version of tables whose UCDs are of the second list, UCD1+
OLD_UCDS = "1.1"  # the version in which UCDs may be of the first list, as Simple Cone Search 1.03 asks for


@dataclass(frozen=True, slots=True)
class VOField:
    """A column: its type in VOTable's words, what it measures, and in which unit."""

    name: str
    datatype: str = "unicodeChar"  # of any length; or double, long, boolean, char
    ucd: str = ""
    unit: str = ""
    description: str = ""

    def declaration(self) -> str:
        """The element FIELD."""
        attributes = {"name": self.name, "datatype": self.datatype}
        if self.datatype in {"unicodeChar", "char"}:
            attributes["arraysize"] = "*"
        attributes |= {name: value for name, value in (("ucd", self.ucd), ("unit", self.unit)) if value}
        text = " ".join(f"{name}={quoteattr(_xml_text(value))}" for name, value in attributes.items())
        content = f"<DESCRIPTION>{escape(_xml_text(self.description))}</DESCRIPTION>" if self.description else ""
        if self.datatype == "long":
            content += f'<VALUES null="{NO_INTEGER}"/>'
        return f"<FIELD {text}>{content}</FIELD>" if content else f"<FIELD {text}/>"


DATATYPES: dict[ColumnType, str] = {
    "text": "unicodeChar",
    "number": "double",
    "integer": "long",
    "boolean": "boolean",
    "bytes": "char",
}
UCDS = {  # and unit, of columns in tables of results
    "ra": ("pos.eq.ra;meta.main", "deg"),
    "dec": ("pos.eq.dec;meta.main", "deg"),
    "object_id": ("meta.id;meta.main",),
    "path": ("meta.id;meta.file",),
    "score": ("stat.probability",),
}
NO_INTEGER = -(2**63)  # stands for no value in a column of integers


def votable(
    fields: Sequence[VOField],
    rows: Iterable[Sequence[Any]],
    *,
    title: str,
    version: str = CONTROLLED_UCDS,
    overflow: bool = False,
) -> Iterator[str]:
    """The document in pieces; `overflow`: there are more rows than it has."""
    yield _head(version)
    yield f'<RESOURCE type="results">\n<DESCRIPTION>{escape(_xml_text(title))}</DESCRIPTION>\n'
    status = "OVERFLOW" if overflow else "OK"  # before the table: version 1.1 allows it nowhere else
    yield f'<INFO name="QUERY_STATUS" value="{status}"/>\n<TABLE>\n'
    yield "".join(f"{field.declaration()}\n" for field in fields) + "<DATA><TABLEDATA>\n"
    remaining = iter(rows)
    while piece := "".join(_row(row) for row in islice(remaining, ROWS_PER_PIECE)):
        yield piece
    yield "</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def write_votable(file: BinaryIO, columns: Mapping[str, ColumnType], rows: Iterable[Sequence[Any]], title: str) -> None:
    """A table of values in the order of the columns, whose UCDs are known for the usual ones."""
    fields = [VOField(name, DATATYPES[kind], *UCDS.get(name, ())) for name, kind in columns.items()]
    for piece in votable(fields, rows, title=title):
        file.write(piece.encode())


def votable_error(message: str, version: str) -> str:
    """The document that says why there is no table: as Simple Cone Search and as DALI ask for it."""
    text = _xml_text(message)
    return (
        f'{_head(version)}<INFO name="Error" value={quoteattr(text)}/>\n'
        f'<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">{escape(text)}</INFO></RESOURCE>\n'
        "</VOTABLE>\n"
    )


def _head(version: str) -> str:
    namespace = f"http://www.ivoa.net/xml/VOTable/v{'1.3' if version == CONTROLLED_UCDS else version}"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<VOTABLE version="{version}" xmlns="{namespace}">\n'


def _row(row: Sequence[Any]) -> str:
    return f"<TR>{''.join(map(_cell, row))}</TR>\n"


def _cell(value: Any) -> str:
    if value is None:
        return "<TD/>"
    if isinstance(value, bool):
        return "<TD>true</TD>" if value else "<TD>false</TD>"
    if isinstance(value, float) and not math.isfinite(value):
        return f"<TD>{'NaN' if math.isnan(value) else '+Inf' if value > 0 else '-Inf'}</TD>"
    return f"<TD>{escape(_xml_text(str(value)), KEPT)}</TD>"


def _xml_text(text: str) -> str:
    return NOT_XML.sub(_as_xml, text)


def _as_xml(character: re.Match[str]) -> str:
    r"""A byte of a file name that is not UTF-8 as \xff, others that XML does not have as U+FFFD."""
    byte = ord(character[0]) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else "\ufffd"
