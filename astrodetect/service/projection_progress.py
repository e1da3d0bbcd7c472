"""The map that is being drawn: by one worker at a time, while the others can tell how far it is."""

import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import fasteners

from astrodetect import atomic_files

EVERY_S = 0.5  # between two words of how far it is


@dataclass(frozen=True, slots=True)
class ProjectionProgress:
    """How far the map of a space is."""

    space: str
    share: float = 0.0  # of the work, 0 to 1
    left_s: float | None = None  # until it is done, by the rate so far


class ProjectionLock:
    """The right to draw into a folder: whoever has it tells the others how far it is, and loses it when it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._said = folder, folder / ".drawing"
        self._lock = fasteners.InterProcessLock(folder / ".lock")
        self._guard = threading.Lock()  # a process that closes the lock's file loses it, whichever thread does so
        self._space, self._began, self._last = "", 0.0, 0.0

    def begin(self, space: str) -> bool:
        """Whether nobody else draws: then this one does, until `end`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._guard:
            if not self._taken():
                return False
        self._space, self._began, self._last = space, time.monotonic(), 0.0
        self._say(ProjectionProgress(space))
        return True

    def tell(self, share: float) -> None:
        """So much of it is done."""
        now = time.monotonic()
        if share and now - self._last >= EVERY_S:
            self._last = now
            self._say(ProjectionProgress(self._space, share, (now - self._began) * (1 - share) / share))

    def end(self) -> None:
        """Lets others draw."""
        with suppress(OSError):
            self._said.unlink()
        with self._guard:
            self._lock.release()

    def told(self, space: str) -> ProjectionProgress | None:
        """What whoever draws the map of this space says of it; None where nobody draws it."""
        with suppress(OSError, ValueError, TypeError):
            told = ProjectionProgress(**json.loads(self._said.read_text(encoding="utf-8")))
            if told.space == space and self._at_work():
                return told
        return None

    def _say(self, told: ProjectionProgress) -> None:
        with suppress(OSError):  # the map is drawn all the same
            atomic_files.write_text(self._said, json.dumps(asdict(told)), sync=False)

    def _at_work(self) -> bool:
        """Whether somebody has the right: what was told by whoever was killed stays behind, the right does not."""
        with self._guard:
            if self._lock.acquired or not self._taken():
                return True
            self._lock.release()
        return False

    def _taken(self) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        self._lock.lockfile.close()
        return False
