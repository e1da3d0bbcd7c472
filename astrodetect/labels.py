"""What people call images: as rows of the table `labels`, and as CSV to take elsewhere and back."""

import csv
import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from astrodetect.anomalies import active_learning
from astrodetect.db.values import BIGINT_MAX
from astrodetect.errors import DataError

LONGEST_NOTE = 10_000  # characters


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody called the image of a prediction."""

    id: int
    prediction_id: int
    image_name: str
    image_sha256: str | None  # unknown of what an older program logged
    label: active_learning.LabelValue
    who: str | None
    note: str | None
    timestamp: dt.datetime


@dataclass(frozen=True, slots=True)
class Labelling:
    """A label that comes from elsewhere, for the image with this sum, or where there is none for this prediction."""

    label: active_learning.LabelValue
    who: str | None
    note: str | None
    timestamp: dt.datetime | None
    prediction_id: int | None
    image_name: str | None
    image_sha256: str | None


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of labels from elsewhere."""

    new: int
    known: int  # here already
    unmatched: int  # of images that were never scored here


def written(pages: Iterable[Sequence[Label]]) -> Iterator[str]:
    """The text of a CSV file, some lines at a time, the first time with those that name the columns.

    Names stand as they are, also where a spreadsheet would take one for a formula: what is read back must be the same.
    """
    rows = [[field.name for field in fields(Label)]]
    for page in pages:
        rows += [[_shown(value) for value in astuple(label)] for label in page]
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        yield text.getvalue()
        rows = []


def read(path: Path) -> list[Labelling]:
    """Every label in a CSV file, each once; DataError names the first line that cannot be used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            given = rows.fieldnames or []
            if "label" not in given or not {"image_sha256", "prediction_id"} & set(given):
                raise DataError(f"{path}: its first line must name label, and image_sha256 or prediction_id")
            found: dict[Labelling, None] = {}
            for row in rows:
                try:
                    found[_labelling(row)] = None
                except ValueError as error:
                    raise DataError(f"{path}, line {rows.line_num}: {error}; nothing was imported") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return list(found)


def _labelling(row: "dict[str | None, str | None]") -> Labelling:
    if None in row or None in row.values():
        raise ValueError("more or fewer fields than the first line has")
    value = {name: text or None for name, text in row.items()}
    label, digits, sha256 = value.get("label"), value.get("prediction_id"), value.get("image_sha256")
    if label not in active_learning.LABELS:
        raise ValueError(f"a label is {', '.join(active_learning.LABELS)}, not {label or 'nothing'}")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"an image_sha256 is 64 digits from 0 to f, not {sha256}")
    if digits and not (re.fullmatch(r"[0-9]{1,19}", digits) and 0 < int(digits) <= BIGINT_MAX):
        raise ValueError(f"a prediction_id is a number, not {digits}")
    if not (sha256 or digits):
        raise ValueError("neither an image_sha256 nor a prediction_id")
    moment = value.get("timestamp")
    try:
        timestamp = dt.datetime.fromisoformat(moment) if moment else None
    except ValueError:
        raise ValueError(f"a timestamp is such as 2026-11-21T06:30:00+00:00, not {moment}") from None
    return Labelling(
        label,
        value.get("who"),
        value.get("note"),
        timestamp.replace(tzinfo=timestamp.tzinfo or dt.UTC) if timestamp else None,
        int(digits) if digits else None,
        value.get("image_name"),
        sha256,
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
