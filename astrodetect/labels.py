"""Labels that people give to images: rows of the table `labels`, and CSV files to export and import."""

import csv
import datetime as dt
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from astrodetect.errors import DataError
from astrodetect.records import BIGINT_MAX, ImagePath
from astrodetect.storage.references import is_url

LabelValue: TypeAlias = str  # one of LABELS, or a name of one's own for a kind of interesting images: "merger"
LABELS = INTERESTING, ORDINARY, ARTEFACT = "interesting", "ordinary", "artefact"
MAX_LABEL_LENGTH = 40  # characters
LABEL_PATTERN = re.compile(rf"\w[\w .-]{{0,{MAX_LABEL_LENGTH - 1}}}")
MARK_CATEGORIES = {"Mn", "Mc"}  # signs of vowels, as in Devanagari, and accents that Unicode has no letter with
MAX_UNNORMALISED_LENGTH = 1_000  # of a label as it is typed; normalising takes a time by the square of the length
MAX_MARKS = 4  # after a letter; more would be drawn over other lines
# Marks and letters that show nothing: with them, names that differ look alike.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
COLUMNS = (
    "id", "prediction_id", "image_name", "image_sha256", "label", "who", "note", "timestamp", "role", "tags"
)  # fmt: skip
TAG_SEPARATOR = ";"
MAX_NOTE_LENGTH = 10_000  # characters
MAX_LABEL_NAMES = 100
DIGITS = "123456789"  # what names without a key of their own get
LABEL_KEYS = f"{DIGITS}bcdefghmpqvwxyz"  # the others are those of `label_buttons` in _macros.html and of other actions

_CsvRow: TypeAlias = "dict[str | Any, str | Any]"  # of csv.DictReader; missing and surplus fields are None


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A label of one image, which is identified by its SHA-256, by one of its predictions or by its path."""

    label: LabelValue  # empty of an image that has tags only
    id: int | None = None
    prediction_id: int | None = None
    image_name: str | None = None
    image_sha256: str | None = None  # not recorded in rows of older versions
    who: str | None = None
    note: str | None = None
    timestamp: dt.datetime | None = None
    path: str | None = None  # never in the table
    role: LabelValue | None = None  # which of LABELS a name of one's own counts as; None: interesting
    tags: tuple[str, ...] = ()  # of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLabel(Label):
    """A label in the table."""

    id: int
    prediction_id: int
    image_name: str
    timestamp: dt.datetime


@dataclass(frozen=True, slots=True)
class LabelName:
    """A name of one's own, its key in Review, what it counts as, and how many labels have it."""

    name: LabelValue
    key: str | None  # None: the next free digit
    role: LabelValue  # one of LABELS
    labels: int


@dataclass(frozen=True, slots=True)
class ImportCounts:
    """Labels of an import by outcome."""

    new: int
    known: int  # in the table already
    unmatched: int  # of images without a prediction here
    tags: int = 0  # new ones


def parse_label(text: str) -> LabelValue:
    """The label in lower case with single spaces; ValueError says what a label is."""
    return _parse_name(text, f"a label is {', '.join(LABELS)}, or a name of")


def parse_tag(text: str) -> str:
    """The tag in lower case with single spaces; ValueError says what a tag is."""
    return _parse_name(text, "a tag has")


def _parse_name(text: str, what: str) -> str:
    if len(text) > MAX_UNNORMALISED_LENGTH:
        raise ValueError(f"{what} up to {MAX_LABEL_LENGTH} characters, not {len(text):,}")
    lower = unicodedata.normalize("NFC", text).lower()  # macOS separates accents from letters
    name = " ".join(unicodedata.normalize("NFC", lower).split())
    if len(name) > MAX_LABEL_LENGTH or INVISIBLE.search(name) or not LABEL_PATTERN.fullmatch(_without_marks(name)):
        quoted = text.encode(errors="replace").decode()  # JSON may have half of a surrogate pair
        raise ValueError(
            f"{what} letters, digits and . _ - of up to {MAX_LABEL_LENGTH} characters, not {quoted or 'nothing'}"
        )
    return name


def _without_marks(name: str) -> str:
    """The name without the marks of its letters; those of anything else, and too many, are left in it."""
    characters: list[str] = []
    marks = MAX_MARKS
    for character in name:
        if unicodedata.category(character) not in MARK_CATEGORIES:
            marks = 0 if character.isalpha() else MAX_MARKS
            characters.append(character)
        elif (marks := marks + 1) > MAX_MARKS:
            characters.append(character)
    return "".join(characters)


def is_wanted(label: LabelValue) -> bool:
    """Whether more images like one with this label are wanted: `interesting` and names of one's own."""
    return label not in {ORDINARY, ARTEFACT}


def require_label(like: str | None, labels: Iterable[LabelValue]) -> LabelValue | None:
    """The label whose kind is searched for; DataError if no image has it."""
    known = sorted({*labels})
    if like is not None and like.lower() not in known:
        raise DataError(f"no image here is labelled {like}: the labels are {', '.join(known)}")
    return like and like.lower()


def own_names(labels: Iterable[LabelValue]) -> list[LabelValue]:
    """The names among these labels that are not built in, in alphabetical order."""
    return sorted({*labels} - {*LABELS})


def assign_keys(names: Sequence[LabelName]) -> list[LabelName]:
    """The names with free digits for those without a key; those for which there is none come without, at the end."""
    free = iter(sorted({*DIGITS} - {name.key for name in names if name.key}))
    keyed = [name if name.key else replace(name, key=next(free, None)) for name in names]
    return sorted(keyed, key=lambda name: name.key is None)


def to_csv(pages: Iterable[Sequence[Label]]) -> Iterator[str]:
    """A CSV file in parts, one for each page.

    Names are written literally, even where a spreadsheet would read one as a formula: an import must give the same.
    """
    rows: list[Sequence[str]] = [COLUMNS]
    for page in pages:
        rows += [[_cell(getattr(label, column)) for column in COLUMNS] for label in page]
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        yield text.getvalue()
        rows = []


def read_table_labels(path: Path) -> list[Label]:
    """Labels to import into the table, without duplicates: of images by SHA-256 or prediction id."""
    labels = _read_csv(path, ("image_sha256", "prediction_id"), _table_label, strict=True)
    return list(dict.fromkeys(labels))


def read_image_labels(path: Path) -> list[Label]:
    """Labels of image files, by path or SHA-256, in the order of the file."""
    labels = _read_csv(path, ("path", "image_sha256"), _image_label, strict=False)
    if not labels:
        raise DataError(f"{path} holds no label")
    return labels


def match_images(
    labels: Sequence[Label], paths: Sequence[ImagePath], sha256: Sequence[str]
) -> tuple[dict[int, LabelValue], int]:
    """Image index → label, the last one given at the end; and the number of labels of other images."""
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for index, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
        indices[_absolute(path)].append(index)
        indices[digest].append(index)
    matched: dict[int, LabelValue] = {}
    unmatched = 0
    for label in labels:
        images = indices.get(label.image_sha256 or _absolute(label.path or ""), [])
        unmatched += not images
        for image in images:
            matched.pop(image, None)
            matched[image] = label.label
    if not matched:
        raise DataError("no label is of an image here: paths count from the working folder, as in anomalies.csv")
    return matched, unmatched


def _read_csv(
    path: Path, keys: tuple[str, str], parse: Callable[[_CsvRow], Label | None], *, strict: bool
) -> list[Label]:
    """The labels of a file with a column `label` and one of `keys`; DataError names the first line that is invalid.

    Unless `strict`, rows may be ragged and paths may hold bytes that are not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="strict" if strict else "surrogateescape")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not a CSV file in UTF-8; no label was read") from error
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=strict)
    labels: list[Label] = []
    try:
        if not ({"label"} <= set(rows.fieldnames or ()) and set(keys) & set(rows.fieldnames or ())):
            raise DataError(f"{path}: its first line must name label, and {keys[0]} or {keys[1]}, with commas between")
        for row in rows:
            label = parse(_complete(row) if strict else row)
            labels += [label] if label else []
    except (ValueError, csv.Error) as error:
        line = rows.line_num + isinstance(error, csv.Error)  # that of the last row that could be read
        raise DataError(f"{path}, line {line}: {error}; no label was read") from error
    return labels


def _complete(row: _CsvRow) -> _CsvRow:
    if None in row or None in row.values():
        raise ValueError("more or fewer fields than the first line has")
    return row


def _table_label(row: _CsvRow) -> Label:
    row = {column: text or None for column, text in row.items()}
    tags = _tags(row)
    label = parse_label(row.get("label") or "") if row.get("label") or not tags else ""
    digits, sha256, role = row.get("prediction_id"), row.get("image_sha256"), row.get("role")
    if role and role not in LABELS:
        raise ValueError(f"a role is {', '.join(LABELS)}, not {role}")
    if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"an image_sha256 is 64 digits from 0 to f, not {sha256}")
    if digits and not (re.fullmatch(r"[0-9]{1,19}", digits) and 0 < int(digits) <= BIGINT_MAX):
        raise ValueError(f"a prediction_id is a number, not {digits}")
    if not (sha256 or digits):
        raise ValueError("neither an image_sha256 nor a prediction_id")
    text = row.get("timestamp")
    try:
        timestamp = dt.datetime.fromisoformat(text) if text else None
    except ValueError:
        raise ValueError(f"a timestamp is such as 2026-11-21T06:30:00+00:00, not {text}") from None
    return Label(
        label=label,
        prediction_id=int(digits) if digits else None,
        image_name=row.get("image_name"),
        image_sha256=sha256,
        who=row.get("who"),
        note=row.get("note"),
        timestamp=timestamp.replace(tzinfo=timestamp.tzinfo or dt.UTC) if timestamp else None,
        role=None if label in LABELS else role,
        tags=tags,
    )


def _image_label(row: _CsvRow) -> Label | None:
    """The label as rankings read it; None of a row that has tags only."""
    label, sha256, path, role = (
        (row.get(column) or "").strip() or None for column in ("label", "image_sha256", "path", "role")
    )
    if not label and _tags(row):
        return None
    parsed = parse_label(label or "")
    counts_as = role if role in {ORDINARY, ARTEFACT} and parsed not in LABELS else parsed
    return Label(label=counts_as or "", image_sha256=sha256, path=path)


def _tags(row: _CsvRow) -> tuple[str, ...]:
    """The tags of a row, each once."""
    return tuple(dict.fromkeys(map(parse_tag, filter(None, (row.get("tags") or "").split(TAG_SEPARATOR)))))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return TAG_SEPARATOR.join(value)
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


def _absolute(path: str | Path) -> str:
    """The absolute path, symbolic links not resolved."""
    return str(path) if is_url(str(path)) else os.path.abspath(path)  # noqa: PTH100
