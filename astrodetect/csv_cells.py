"""CSV files of results, which a spreadsheet may open."""

import csv
import io
import re
from collections.abc import Iterable
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


def write_csv(file: BinaryIO, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table of cells as they are: those of a catalogue do not change, so that tables can be joined."""
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*columns])
    table.writerows(rows)
    text.detach()  # flushed; the file stays open for its owner
