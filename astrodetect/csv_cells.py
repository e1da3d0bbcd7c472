"""Text in CSV files that a spreadsheet may open."""

import re

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")  # also after spaces, and as full-width characters

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)  # such as a declination: it evaluates to itself


def literal_text(text: str) -> str:
    """The text, preceded by a ' if a spreadsheet would evaluate it."""
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text
