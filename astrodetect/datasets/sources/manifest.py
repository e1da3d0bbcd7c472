"""A folder of collected images and its `catalogue.csv`: where each came from. Every image whole, its row after it."""

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
from astrodetect.errors import DataError
from astrodetect.progress import track

CATALOGUE, SKIPPED = "catalogue.csv", "skipped.csv"
SKIPPED_COLUMNS = ("label", "source", "source_id", "url", "reason")
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "FITS": ".fits"}
LONGEST_NAME_BYTES = 120  # file systems take 255; a temporary name is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestEntry:
    """A row of the catalogue; what a source does not tell is empty."""

    path: str = ""  # below the folder; this, the sum and the time are known once it is saved
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
    pxscale: str = ""  # arcseconds a pixel
    sha256: str = ""
    fetched: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What is collected once; spaces as a row has them."""
        return self.source, _plain(self.source_id)


COLUMNS = [field.name for field in fields(ManifestEntry)]


class CollectionManifest:
    """What a folder holds and where from, while one process adds to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()  # images of each label
        self.skipped = self.shared = 0  # in this run: not usable; wanted again under another label
        self._labels: dict[tuple[str, str], str] = {}  # of what is here, and of what was tried in vain
        self._mend()
        atomic_files.write_bytes(folder / SKIPPED, _line(SKIPPED_COLUMNS).encode())

    def knows(self, entry: ManifestEntry) -> bool:
        """Whether it is here, or was tried; an image has one label, its first."""
        label = self._labels.get(entry.key)
        self.shared += label not in {None, entry.label}
        return label is not None

    def save(self, entry: ManifestEntry, data: bytes, name: str) -> None:
        """First the image, whole, then its row: a row speaks of what is there."""
        path = Path(file_name(entry.label)) / f"{file_name(name)}{SUFFIXES[images.sniff(data)]}"
        (self.folder / path.parent).mkdir(exist_ok=True)
        atomic_files.write_bytes(self.folder / path, data)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        entry = replace(entry, path=path.as_posix(), sha256=hashlib.sha256(data).hexdigest(), fetched=now)
        _append(self.folder / CATALOGUE, _line(asdict(entry).values()))
        self._count(entry)

    def skip(self, entry: ManifestEntry, reason: str) -> None:
        """Lists it as not usable; the next run tries it again."""
        _append(self.folder / SKIPPED, _line([entry.label, entry.source, entry.source_id, entry.url, reason]))
        self._labels[entry.key] = entry.label
        self.skipped += 1

    def _count(self, entry: ManifestEntry) -> None:
        self._labels[entry.key] = entry.label
        self.counts[entry.label] += 1

    def _mend(self) -> None:
        """Leaves the rows whose images are here and whole; a row or a file that a crash cut short is dropped."""
        for part in self.folder.glob("**/.*.part"):
            part.unlink()
        rows = _rows(self.folder / CATALOGUE)
        checked = track(rows, "checking what is here", len(rows)) if rows else ()
        good = [entry for entry in checked if self._is_here(entry)]
        for entry in good:
            self._count(entry)
        lines = [_line(COLUMNS), *(_line(asdict(entry).values()) for entry in good)]
        atomic_files.write_bytes(self.folder / CATALOGUE, "".join(lines).encode())

    def _is_here(self, entry: ManifestEntry) -> bool:
        path = self.folder / entry.path
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256


@contextmanager
def open_manifest(folder: Path) -> Iterator[CollectionManifest]:
    """The ledger of this folder, which is made if missing; one process at a time has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = fasteners.InterProcessLock(folder / ".collect.lock")
    if not lock.acquire(blocking=False):
        raise DataError(f"another process collects into {folder}: wait for it, or name another folder")
    try:
        yield CollectionManifest(folder)
    finally:
        lock.release()


def file_name(text: str) -> str:
    """A name that every file system takes, another one for another text."""
    name = re.sub(r"[^\w .+()=,@-]|^\.|[. ]$", lambda found: _encoded(found[0]), text.strip())
    if len(name.encode()) > LONGEST_NAME_BYTES:
        cut = name.encode()[: LONGEST_NAME_BYTES - 17].decode(errors="ignore")
        name = f"{cut}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return name


def _encoded(character: str) -> str:
    return f"%{ord(character):02X}" if character == "." else quote(character, safe="")


def _rows(path: Path) -> list[ManifestEntry]:
    """The rows of a catalogue that are whole."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    first, *lines = text.split("\n")[:-1] or [",".join(COLUMNS)]  # what has no end was cut short
    if first.split(",") != COLUMNS:
        raise DataError(f"{path} is not a catalogue of collected images: name another folder")
    rows = [next(csv.reader([line.replace("\0", "")]), []) for line in lines]
    return [ManifestEntry(**dict(zip(COLUMNS, row, strict=True))) for row in rows if len(row) == len(COLUMNS)]


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(line)


def _line(values: Iterable[str]) -> str:
    """A row of CSV, on one line whatever is in it."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_plain(value) for value in values])
    return buffer.getvalue()


def _plain(text: str) -> str:
    return " ".join(text.split())
