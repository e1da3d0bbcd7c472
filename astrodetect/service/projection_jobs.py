"""Projections of the recorded images: computed by another process, by one service process at a time, and stored."""

import datetime as dt
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import fasteners

from astrodetect import atomic_files
from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import AstrodetectError, ProjectionFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages, Floats
from astrodetect.service import projection_store
from astrodetect.service.projection_store import StoredProjection

MAX_PROJECTED = 20_000  # the newest images, in addition to all labelled ones
LOCK_RETRY_S = 0.5  # while another service process computes
PROGRESS_INTERVAL_S = 0.5
MAX_CACHED = 2  # projections in memory, of as many embedding spaces: megabytes each

log = logging.getLogger("uvicorn.error")


class EmbeddingDatabase(Protocol):
    """The database of predictions and labels: `database.Database`."""

    def embedded_images(self, space: str, *, newest: int) -> EmbeddedImages: ...
    def count_newer_images(self, space: str, *, after: int, most: int) -> int: ...
    def current_labels(self) -> Mapping[str, LabelValue]: ...


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """The stored projection of an embedding space, and the computation of the next one."""

    space: str
    stored: StoredProjection | None  # None before the first
    new_images: int  # not in the stored one, counted up to MAX_PROJECTED
    running: bool = False
    progress: float = 0.0  # of the computation, 0 to 1
    remaining_s: float | None = None  # estimated
    error: str = ""  # of the last computation, if it failed

    @property
    def due(self) -> bool:
        """Whether the first projection can be computed."""
        return self.stored is None and self.new_images >= projection.MIN_IMAGES and not self.running and not self.error


@dataclass(frozen=True, slots=True)
class ProjectionProgress:
    """The progress of a computation, as other service processes read it."""

    space: str
    share: float = 0.0  # 0 to 1
    left_s: float | None = None  # estimated from the rate so far


class ProjectionLock:
    """Inter-process lock on a folder of projections; its holder publishes the progress in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._progress_file = folder, folder / ".drawing"
        self._lock = fasteners.InterProcessLock(folder / ".lock")
        self._thread_lock = threading.Lock()  # closing the lock file in any thread would release the lock
        self._space, self._started, self._last_report = "", 0.0, 0.0

    def acquire(self, space: str) -> bool:
        """Whether no other process holds the lock; if so, it is held until `release`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._thread_lock:
            if not self._try_acquire():
                return False
        self._space, self._started, self._last_report = space, time.monotonic(), 0.0
        self._write(ProjectionProgress(space))
        return True

    def report(self, share: float) -> None:
        """Publishes the progress, at most every PROGRESS_INTERVAL_S."""
        now = time.monotonic()
        if share and now - self._last_report >= PROGRESS_INTERVAL_S:
            self._last_report = now
            self._write(ProjectionProgress(self._space, share, (now - self._started) * (1 - share) / share))

    def release(self) -> None:
        """Lets other processes compute."""
        with suppress(OSError):
            self._progress_file.unlink()
        with self._thread_lock:
            self._lock.release()

    def progress(self, space: str) -> ProjectionProgress | None:
        """The progress of the process that computes the projection of this space; None where there is none."""
        with suppress(OSError, ValueError, TypeError):
            progress = ProjectionProgress(**json.loads(self._progress_file.read_text(encoding="utf-8")))
            if progress.space == space and self._is_held():
                return progress
        return None

    def _write(self, progress: ProjectionProgress) -> None:
        with suppress(OSError):  # the computation goes on without
            atomic_files.write_text(self._progress_file, json.dumps(asdict(progress)), sync=False)

    def _is_held(self) -> bool:
        """Whether any process holds the lock: one that was killed leaves its progress file behind."""
        with self._thread_lock:
            if self._lock.acquired or not self._try_acquire():
                return True
            self._lock.release()
        return False

    def _try_acquire(self) -> bool:
        if self._lock.acquire(blocking=False):
            return True
        self._lock.lockfile.close()
        return False


class _Job:
    """One computation, in a thread that waits for its process."""

    def __init__(self, space: str, work: Callable[["_Job"], None]) -> None:
        self.space = space
        self.preliminary: StoredProjection | None = None  # shown until the computation is done
        self.error = ""
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._process: ProjectionProcess | None = None
        self._thread = threading.Thread(target=work, args=(self,), name="projection", daemon=True)

    @property
    def running(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def pause(self) -> None:
        """Waits LOCK_RETRY_S; ProjectionFailed once the job is stopped."""
        if self._stopped.wait(LOCK_RETRY_S):
            raise ProjectionFailed("it was stopped")

    def project(self, vectors: Floats, report: Callable[[float], None]) -> Floats:
        """The t-SNE projection, computed by another process; ProjectionFailed once the job is stopped."""
        with self._lock:
            if self._stopped.is_set():
                raise ProjectionFailed("it was stopped")
            process = self._process = ProjectionProcess()
        try:
            return process.project(vectors, report)
        finally:
            with self._lock:
                self._process = None
            process.close()

    def stop(self) -> None:
        """Asks the job to stop, from any thread."""
        with self._lock:
            self._stopped.set()
            if self._process:
                self._process.stop()

    def join(self) -> None:
        """Waits for the thread."""
        self._thread.join()


class ProjectionJobs:
    """The projections, one for each embedding space; at most one is computed at a time, by all service processes."""

    def __init__(self, database: EmbeddingDatabase, folder: Path) -> None:
        self._database, self._folder, self._folder_lock = database, folder, ProjectionLock(folder)
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._cache: dict[str, tuple[int, StoredProjection | None]] = {}  # by space, with the file's time

    def state(self, space: str) -> ProjectionState:
        """The state of one space."""
        job = self._job if self._job and self._job.space == space else None
        progress = self._folder_lock.progress(space)  # of any service process
        running = progress is not None or bool(job and job.running)  # before the stored one: once done, that is there
        stored = (
            self._read(space)
            or (job.preliminary if job else None)
            or (self._read(_preliminary(space)) if progress else None)
        )
        new = self._database.count_newer_images(space, after=stored.newest if stored else 0, most=MAX_PROJECTED)
        share, left_s = (progress.share, progress.left_s) if progress else (0.0, None)
        return ProjectionState(space, stored, new, running, share, left_s, job.error if job and not running else "")

    def start(self, space: str) -> None:
        """Starts a new computation, unless one of this space is running; one of another space is stopped."""
        with self._lock:
            previous = self._job
            if previous and previous.space == space and previous.running:
                return
            if previous:
                previous.stop()
            self._job = _Job(space, lambda job: self._run(job, previous))
            self._job.start()

    def labels(self, stored: StoredProjection) -> list[LabelValue | None]:
        """The label of each image of a projection."""
        labels = self._database.current_labels()
        return [labels.get(image) for image in stored.images]

    def close(self) -> None:
        """Stops the computation."""
        with self._lock:
            job = self._job
        if job:
            job.stop()
            job.join()

    def _run(self, job: _Job, previous: _Job | None) -> None:
        if previous:
            previous.join()
        try:
            images = projection_store.sort_by_novelty(self._database.embedded_images(job.space, newest=MAX_PROJECTED))
            if len(images.ids) >= projection.MIN_IMAGES:
                job.preliminary = StoredProjection.from_pca(images)
                self._compute(job, job.preliminary, images.vectors)
        except (AstrodetectError, OSError) as error:
            job.error = _message(error)
            log.warning("the projection was not computed: %s", error)

    def _compute(self, job: _Job, preliminary: StoredProjection, vectors: Floats) -> None:
        while not self._folder_lock.acquire(job.space):
            job.pause()
        try:
            stored = self._read(job.space)
            if stored and stored.drawn > preliminary.drawn:
                return  # by another process
            xy, method = preliminary.xy, preliminary.method
            if projection.has_neighbours(vectors):
                with suppress(OSError):  # for the other processes
                    projection_store.write_projection(self._folder, _preliminary(job.space), preliminary)
                xy, method = job.project(vectors, self._folder_lock.report), projection.TSNE_METHOD
            result = replace(preliminary, xy=xy, method=method, drawn=dt.datetime.now(dt.UTC))
            self._remember(job.space, self._modified(job.space), result)  # even if it cannot be written
            projection_store.write_projection(self._folder, job.space, result)
        finally:
            with suppress(OSError):
                for old in self._folder.glob(_preliminary("*.npz")):
                    old.unlink()
            self._folder_lock.release()

    def _read(self, space: str) -> StoredProjection | None:
        """From memory, unless the file was replaced by another process."""
        modified, (cached, stored) = self._modified(space), self._cache.get(space, (0, None))
        if modified != cached:
            stored = projection_store.read_projection(self._folder, space)
            self._remember(space, modified, stored)
        return stored

    def _remember(self, space: str, modified: int, stored: StoredProjection | None) -> None:
        with self._lock:
            self._cache.pop(space, None)
            self._cache[space] = modified, stored
            for old in list(self._cache)[:-MAX_CACHED]:
                del self._cache[old]

    def _modified(self, space: str) -> int:
        with suppress(OSError):
            return projection_store.path(self._folder, space).stat().st_mtime_ns
        return 0


def _preliminary(space: str) -> str:
    """The name under which other processes find the preliminary projection of a space."""
    return f".{space}"


def _message(error: AstrodetectError | OSError) -> str:
    """Without paths, which the text of an OSError has."""
    if isinstance(error, OSError):
        return error.strerror or "the disk cannot be written"
    return error.public or str(error)
