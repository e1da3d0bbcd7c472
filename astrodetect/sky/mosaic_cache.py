"""Mosaics at URLs, downloaded once to the disk of each machine that cuts them out, of which windows are then read."""

import hashlib
import os
import shutil
import threading
from pathlib import Path

import fasteners

from astrodetect.errors import DataError
from astrodetect.progress import ProgressBar
from astrodetect.settings import settings
from astrodetect.storage import clients, objects
from astrodetect.storage.references import base_name, printable_url

BLOCK_BYTES = 8 * 2**20
FREE_SHARE = 0.5  # of the disk's free space that may be used: the database may be on it
MEGABYTE = 10**6

_threads = threading.Lock()  # the lock below is of processes
_in_use: set[Path] = set()  # by this process: windows of packed ones are read by their paths


def local_copy(url: str) -> Path:
    """The file with the present contents of a mosaic; DataError or StorageError says why there is none."""
    name, folder = printable_url(url), settings().data_dir / "cache" / "mosaics"
    meta = clients.head(url)
    if meta is None:
        raise DataError(f"the mosaic {name} does not exist")
    size, version = int(meta["size"]), f"{url} {meta['e_tag']} {meta['last_modified']} {meta['size']}"
    path = folder / hashlib.sha256(version.encode()).hexdigest()[:16] / base_name(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _threads, fasteners.InterProcessLock(folder / ".lock"):  # one process downloads, for all of this machine
            if not path.is_file():
                _make_room(folder, size, name)
                _download(url, path, size, name)
            os.utime(path)  # the least recently used are deleted
            _in_use.add(path)
    except OSError as error:
        raise DataError(f"cannot store the mosaic {name} in {folder}: {error.strerror or error}") from error
    return path


def _download(url: str, path: Path, size: int, name: str) -> None:
    part = path.with_name(".part")
    with (
        objects.open_reader(url) as source,
        part.open("wb") as target,
        ProgressBar(f"downloading {name}, MB", -(-size // MEGABYTE)) as bar,
    ):
        while block := source.read(BLOCK_BYTES):
            before = -(-target.tell() // MEGABYTE)
            target.write(block)
            bar.step(-(-target.tell() // MEGABYTE) - before)
    if part.stat().st_size != size:
        raise DataError(f"the mosaic {name} changed while it was downloaded: try again")
    part.replace(path)


def _make_room(folder: Path, size: int, name: str) -> None:
    """Delete the mosaics that were not used for the longest time, beyond the limits; not those of this process."""
    stored = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob("*/*"))
    used = sum(length for _, length, _ in stored)
    needed = size + sum(length for _, length, file in stored if file in _in_use)
    limit = min(settings().mosaic_cache_bytes, used + int(shutil.disk_usage(folder).free * FREE_SHARE))
    if needed > limit:
        raise DataError(
            f"the mosaics to {name} have {needed:,} bytes, and {limit:,} are allowed in {folder} by "
            "ASTRODETECT_MOSAIC_CACHE_BYTES and its free space"
        )
    for _, length, file in stored:
        if used + size <= limit:
            return
        if file not in _in_use:
            file.unlink()
            used -= length
