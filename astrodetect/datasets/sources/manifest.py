"""`catalogue.csv`: the provenance of a folder of collected images; an image is complete before its row is written."""

import csv
import datetime as dt
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from urllib.parse import quote

import fasteners

from astrodetect import atomic_files, images
from astrodetect.csv_cells import literal_text
from astrodetect.errors import DataError
from astrodetect.progress import track_progress

CATALOGUE, SKIPPED = "catalogue.csv", "skipped.csv"
SKIPPED_COLUMNS = ("label", "source", "source_id", "url", "reason")
MAX_NAME_BYTES = 120  # file systems allow 255, and a temporary name is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """A row of catalogue.csv; fields that a source does not provide are empty."""

    path: str = ""  # relative to the folder; `save` fills in path, sha256 and fetched
    label: str
    source: str
    source_id: str
    url: str
    title: str = ""
    license: str = ""
    center: str = ""
    date: str = ""
    ra: str = ""  # degrees
    dec: str = ""
    redshift: str = ""
    pxscale: str = ""  # arcseconds per pixel
    sha256: str = ""
    fetched: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Identity of the image within its source; whitespace normalised as in the table."""
        return self.source, _single_line(self.source_id)


COLUMNS = [field.name for field in fields(ManifestEntry)]


class CollectionManifest:
    """The images of a folder and their sources, opened for adding by one process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()  # images of each label
        self.skipped = self.in_other_class = 0  # in this run: unusable; already collected under another label
        self._labels: dict[tuple[str, str], str] = {}  # of collected images and of those skipped in this run
        self._repair()
        atomic_files.write_bytes(folder / SKIPPED, _line(SKIPPED_COLUMNS).encode())

    def already_tried(self, entry: ManifestEntry) -> bool:
        """Whether the image was collected before or skipped in this run; it keeps its first label."""
        label = self._labels.get(entry.key)
        self.in_other_class += label not in {None, entry.label}
        return label is not None

    def save(self, entry: ManifestEntry, data: bytes, name: str) -> None:
        """Write the image, then its row, so that every row has a complete image."""
        suffix = images.FILE_FORMATS[images.detect_format(data)].suffixes[0]
        path = Path(file_name(entry.label)) / f"{file_name(name)}{suffix}"
        (self.folder / path.parent).mkdir(exist_ok=True)
        atomic_files.write_bytes(self.folder / path, data)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        entry = replace(entry, path=path.as_posix(), sha256=hashlib.sha256(data).hexdigest(), fetched=now)
        _append(self.folder / CATALOGUE, _entry_line(entry))
        self._count(entry)

    def skip(self, entry: ManifestEntry, reason: str) -> None:
        """Add the image to skipped.csv; the next run tries it again."""
        _append(self.folder / SKIPPED, _line([entry.label, entry.source, entry.source_id, entry.url, reason]))
        self._labels[entry.key] = entry.label
        self.skipped += 1

    def _count(self, entry: ManifestEntry) -> None:
        self._labels[entry.key] = entry.label
        self.counts[entry.label] += 1

    def _repair(self) -> None:
        """Remove what a crash left incomplete: temporary files, and rows without an intact image."""
        for part in self.folder.glob("**/.*.part"):
            part.unlink()
        rows = _read_rows(self.folder / CATALOGUE)
        tracked = track_progress(rows, "checking collected images", len(rows)) if rows else ()
        intact = [entry for entry in tracked if self._is_intact(entry)]
        for entry in intact:
            self._count(entry)
        lines = [_line(COLUMNS), *(_entry_line(entry) for entry in intact)]
        atomic_files.write_bytes(self.folder / CATALOGUE, "".join(lines).encode())

    def _is_intact(self, entry: ManifestEntry) -> bool:
        path = self.folder / entry.path
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256


@contextmanager
def open_manifest(folder: Path) -> Iterator[CollectionManifest]:
    """Open the manifest of this folder, created if missing, under an exclusive inter-process lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = fasteners.InterProcessLock(folder / ".collect.lock")
    if not lock.acquire(blocking=False):
        raise DataError(f"another process collects into {folder}: wait for it to finish, or choose another folder")
    try:
        yield CollectionManifest(folder)
    finally:
        lock.release()


def file_name(text: str) -> str:
    """A file name valid on every file system; different texts give different names."""
    name = re.sub(r"[^\w .+()=,@-]|^[.=+@-]|[. ]$", lambda match: _percent_encode(match[0]), text.strip())
    if len(name.encode()) > MAX_NAME_BYTES:
        prefix = name.encode()[: MAX_NAME_BYTES - 17].decode(errors="ignore")
        name = f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return name


def _percent_encode(character: str) -> str:
    return f"%{ord(character):02X}" if character in ".-" else quote(character, safe="")


def _read_rows(path: Path) -> list[ManifestEntry]:
    """The complete rows of catalogue.csv."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    first, *lines = text.split("\n")[:-1] or [",".join(COLUMNS)]  # a line without an end is incomplete
    if first.split(",") != COLUMNS:
        raise DataError(f"{path} is not a catalogue of collected images: choose another folder")
    rows = [next(csv.reader([line.replace("\0", "")]), []) for line in lines]
    return [ManifestEntry(**dict(zip(COLUMNS, row, strict=True))) for row in rows if len(row) == len(COLUMNS)]


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(line)


def _entry_line(entry: ManifestEntry) -> str:
    """What a source says of an image is written so that no spreadsheet evaluates it; what identifies it, as it is."""
    values = asdict(entry)
    identity = {"label", "source", "source_id", "url"}
    return _line(text if name in identity else literal_text(text) for name, text in values.items())


def _line(values: Iterable[str]) -> str:
    """A CSV row on a single line."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_single_line(value) for value in values])
    return buffer.getvalue()


def _single_line(text: str) -> str:
    return " ".join(text.split())
