"""CSV files of results, which a spreadsheet may open."""

import csv
import io
import re
from collections.abc import Iterable
from itertools import chain
from typing import BinaryIO

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")  # also after spaces, and as full-width characters

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)  # such as a declination: it evaluates to itself


def literal_text(text: str) -> str:
    """The text, preceded by a ' if a spreadsheet would evaluate it."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def csv_cell(value: object) -> object:
    """A value as the cell of a table: numbers in single precision, and no text that a spreadsheet would evaluate."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return literal_text(value)
    return f"{value:.7g}" if isinstance(value, float) else value


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV with these cells as they are."""
    text = io.StringIO()
    csv.writer(text).writerow(cells)  # with CR LF as line end, so that a CR in a name is quoted too
    return text.getvalue().removesuffix("\r\n") + "\n"


def write_csv(file: BinaryIO, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table of cells as they are: those of a catalogue do not change, so that tables can be joined."""
    for cells in chain([columns], rows):
        file.write(csv_line(cells).encode(errors="surrogateescape"))
