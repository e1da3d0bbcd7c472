"""Descriptions kept on disk by the content of their images: nothing is described twice.

Each process adds files of its own, whole or not at all: a cut loses the last few hundred images, and processes at the
same time do not meet. Past MOST_BYTES those that were used longest ago go.
"""

import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from astrodetect import atomic_files
from astrodetect.errors import DataError
from astrodetect.records import Floats

MOST_BYTES = 4_000_000_000  # of all descriptions, whatever they were made by
IMAGES_A_FILE = 512
LEFT_BEHIND_S = 3600.0  # an unfinished file that has not grown for so long is nobody's any more
DIGEST, ROW = "sha256", "row"


class FeatureCache:
    """The descriptions that one describer, which goes by `name`, has made; `with Kept(…) as kept` adds more."""

    def __init__(self, folder: Path, name: str) -> None:
        self._root, self._folder = folder, folder / name
        self._new: list[tuple[bytes, Floats]] = []
        self._files: list[NDArray[np.void]] = []
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot(error) from error
        for path in sorted(self._folder.glob("*.npy")):
            # Another process may have removed it; a disk may have lost its end: it is described again.
            with suppress(OSError, ValueError, EOFError):
                found = np.load(path, mmap_mode="r", allow_pickle=False)
                if found.dtype.names == (DIGEST, ROW) and found.ndim == 1:
                    path.touch()
                    self._places |= {digest.tobytes(): (len(self._files), i) for i, digest in enumerate(found[DIGEST])}
                    self._files.append(found)
        return self

    def get(self, sha256: bytes) -> Floats | None:
        """What is known of the image with these bytes."""
        place = self._places.get(sha256)
        return None if place is None else np.array(self._files[place[0]][ROW][place[1]])

    def add(self, sha256: bytes, row: Floats) -> None:
        """Keeps a description."""
        self._new.append((sha256, row))
        if len(self._new) == IMAGES_A_FILE:
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write()
        self._trim()

    def _write(self) -> None:
        if not self._new:
            return
        table = np.empty(len(self._new), [(DIGEST, np.uint8, (32,)), (ROW, np.float32, self._new[0][1].shape)])
        table[DIGEST] = [np.frombuffer(digest, np.uint8) for digest, _ in self._new]
        table[ROW] = [row for _, row in self._new]
        self._new.clear()
        name = uuid.uuid4().hex
        try:
            with atomic_files.replacing(self._folder / f"{name}.npy") as part, part.open("wb") as file:
                np.save(file, table, allow_pickle=False)
        except OSError as error:
            raise self._cannot(error) from error

    def _trim(self) -> None:
        """Removes what is too much, of any describer, and what a killed process left unfinished."""
        with suppress(OSError):  # another process tidies up too
            for part in self._root.glob("*/.*.part"):
                if time.time() - part.stat().st_mtime > LEFT_BEHIND_S:
                    part.unlink()
            used = [(path.stat(), path) for path in self._root.glob("*/*.npy")]
            total = sum(stat.st_size for stat, _ in used)
            for stat, path in sorted(used, key=lambda one: one[0].st_mtime):
                if total <= MOST_BYTES:
                    break
                path.unlink()
                total -= stat.st_size

    def _cannot(self, error: OSError) -> DataError:
        return DataError(f"cannot keep descriptions in {self._folder}: {error.strerror or error}")
