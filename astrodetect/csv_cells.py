"""Text in CSV files that a spreadsheet may open."""

import re

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")  # also after spaces, and as full-width characters


def literal_text(text: str) -> str:
    """The text, preceded by a ' if a spreadsheet would evaluate it."""
    return f"'{text}" if FORMULA.match(text) else text
