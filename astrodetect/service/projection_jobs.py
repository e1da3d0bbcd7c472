"""Maps of the log: drawn in the background by a process of its own, and kept on disk until they are drawn anew."""

import datetime as dt
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import AstrodetectError, DrawingFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages, Floats
from astrodetect.service import projection_store
from astrodetect.service.projection_progress import ProjectionLock
from astrodetect.service.projection_store import StoredProjection

NEWEST = 20_000  # images of the log on a map, beside all that are labelled
PAUSE_S = 0.5  # between two looks whether another worker still draws
MOST_KNOWN = 2  # maps in memory, of as many spaces: each has megabytes

log = logging.getLogger("uvicorn.error")


class EmbeddingDatabase(Protocol):
    """What keeps predictions and labels: `database.Database`."""

    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages: ...
    def count_newer_images(self, space: str, *, after: int, most: int) -> int: ...
    def current_labels(self) -> Mapping[str, LabelValue]: ...


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """The map of a space as it stands, and how the next one goes."""

    space: str
    map: StoredProjection | None  # None where none was ever drawn
    new: int  # images that the space has and the map has not, counted up to NEWEST
    working: bool = False
    share: float = 0.0  # of that work, 0 to 1
    left_s: float | None = None  # until it is done, where that can be told
    failed: str = ""  # why the last try came to nothing, if it did

    @property
    def due(self) -> bool:
        """Whether there is a first map to draw."""
        return self.map is None and self.new >= projection.MIN_IMAGES and not self.working and not self.failed


class _Job:
    """A map that is being drawn, in a thread that waits for a process."""

    def __init__(self, space: str, work: Callable[["_Job"], None]) -> None:
        self.space = space
        self.first: StoredProjection | None = None  # what there is to see meanwhile
        self.failed = ""
        self._guard, self._stopped = threading.Lock(), threading.Event()
        self._drawing: ProjectionProcess | None = None
        self._thread = threading.Thread(target=work, args=(self,), name="atlas", daemon=True)

    @property
    def at_work(self) -> bool:
        """Whether there is more to come."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def pause(self) -> None:
        """Waits a little; DrawingFailed once it is stopped."""
        if self._stopped.wait(PAUSE_S):
            raise DrawingFailed("it was stopped")

    def draw(self, vectors: Floats, told: Callable[[float], None]) -> Floats:
        """In another process; DrawingFailed once it is stopped."""
        with self._guard:
            if self._stopped.is_set():
                raise DrawingFailed("it was stopped")
            drawing = self._drawing = ProjectionProcess()
        try:
            return drawing.project(vectors, told)
        finally:
            with self._guard:
                self._drawing = None
            drawing.close()

    def stop(self) -> None:
        """From any thread."""
        with self._guard:
            self._stopped.set()
            if self._drawing:
                self._drawing.stop()

    def join(self) -> None:
        """Waits until nothing is at work."""
        self._thread.join()


class ProjectionJobs:
    """Maps of the log, one for each space; never two are drawn at a time, nor by two workers."""

    def __init__(self, log_: EmbeddingDatabase, folder: Path) -> None:
        self._log, self._folder, self._underway = log_, folder, ProjectionLock(folder)
        self._guard = threading.Lock()
        self._job: _Job | None = None
        self._known: dict[str, tuple[int, StoredProjection | None]] = {}  # by their spaces, and how old the files were

    def view(self, space: str) -> ProjectionState:
        """It reads little: the map of a space, and how many images are not on it."""
        job = self._job if self._job and self._job.space == space else None
        told = self._underway.told(space)  # by whichever worker
        working = told is not None or bool(job and job.at_work)  # before the map is looked for: then it is there
        found = self._find(space) or (job.first if job else None) or (self._find(_first(space)) if told else None)
        new = self._log.count_newer_images(space, after=found.newest if found else 0, most=NEWEST)
        share, left_s = (told.share, told.left_s) if told else (0.0, None)
        return ProjectionState(space, found, new, working, share, left_s, job.failed if job and not working else "")

    def draw(self, space: str) -> None:
        """Begins to draw the map anew, unless that is going on; one of another space is given up for it."""
        with self._guard:
            before = self._job
            if before and before.space == space and before.at_work:
                return
            if before:
                before.stop()
            self._job = _Job(space, lambda job: self._work(job, before))
            self._job.start()

    def labels(self, map_: StoredProjection) -> list[LabelValue | None]:
        """What people said of each image on it."""
        said = self._log.current_labels()
        return [said.get(image) for image in map_.images]

    def close(self) -> None:
        """Ends what is at work."""
        with self._guard:
            job = self._job
        if job:
            job.stop()
            job.join()

    def _work(self, job: _Job, before: _Job | None) -> None:
        if before:
            before.join()
        try:
            crowd = projection_store.ranked(self._log.embedded_images(job.space, newest=NEWEST))
            if len(crowd.ids) >= projection.MIN_IMAGES:
                job.first = StoredProjection.first(crowd)
                self._finish(job, job.first, crowd.vectors)
        except (AstrodetectError, OSError) as error:
            job.failed = _why(error)
            log.warning("the map was not drawn: %s", error)

    def _finish(self, job: _Job, first: StoredProjection, vectors: Floats) -> None:
        while not self._underway.begin(job.space):
            job.pause()
        try:
            found = self._find(job.space)
            if found and found.drawn > first.drawn:
                return  # by another worker
            xy, method = first.xy, first.method
            if projection.has_neighbours(vectors):
                with suppress(OSError):  # for the other workers
                    projection_store.write(self._folder, _first(job.space), first)
                xy, method = job.draw(vectors, self._underway.tell), projection.TSNE_METHOD
            drawn = replace(first, xy=xy, method=method, drawn=dt.datetime.now(dt.UTC))
            self._know(job.space, self._age(job.space), drawn)  # whether or not the disk takes it
            projection_store.write(self._folder, job.space, drawn)
        finally:
            with suppress(OSError):
                for old in self._folder.glob(_first("*.npz")):
                    old.unlink()
            self._underway.end()

    def _find(self, space: str) -> StoredProjection | None:
        """As it lies on disk, where another worker may have put it."""
        age, (known, found) = self._age(space), self._known.get(space, (0, None))
        if age != known:
            found = projection_store.read(self._folder, space)
            self._know(space, age, found)
        return found

    def _know(self, space: str, age: int, found: StoredProjection | None) -> None:
        with self._guard:
            self._known.pop(space, None)
            self._known[space] = age, found
            for old in list(self._known)[:-MOST_KNOWN]:
                del self._known[old]

    def _age(self, space: str) -> int:
        with suppress(OSError):
            return projection_store.path(self._folder, space).stat().st_mtime_ns
        return 0


def _first(space: str) -> str:
    """The name under which other workers find what there is to see until the map of a space is drawn."""
    return f".{space}"


def _why(error: AstrodetectError | OSError) -> str:
    """In words that anybody may read: an OSError's own name places on the disk."""
    if isinstance(error, OSError):
        return error.strerror or "the disk does not take it"
    return error.public or str(error)
