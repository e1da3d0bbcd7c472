"""Projections of the recorded images: computed by a subprocess of one service process at a time, shared by all."""

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import AstrodetectError, ProjectionFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages, Floats
from astrodetect.service import projection_store
from astrodetect.service.job_lease import JobLease, LeaseDatabase
from astrodetect.service.projection_store import StoredProjection

MAX_PROJECTED = 20_000  # the newest images, in addition to all labelled ones
LEASE = "map"
LEASE_RETRY_S = 0.5  # while another service process computes
ERROR_SHOWN_S = 3600.0  # unless it is computed again
MAX_CACHED = 3  # projections in memory, preliminary ones included: megabytes each

log = logging.getLogger("uvicorn.error")


class MapStorage(Protocol):
    """The stored maps: `db.shared_state.MapTable`."""

    def drawn(self, space: str, *, preliminary: bool) -> dt.datetime | None: ...
    def read(self, space: str, *, preliminary: bool) -> bytes | None: ...
    def save(self, space: str, content: bytes, drawn: dt.datetime, *, preliminary: bool) -> None: ...
    def delete_preliminary(self, space: str) -> None: ...


class EmbeddingDatabase(LeaseDatabase, Protocol):
    """The database of predictions and labels: `database.Database`."""

    @property
    def maps(self) -> MapStorage: ...
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

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopped.is_set()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def pause(self) -> None:
        """Waits LEASE_RETRY_S; ProjectionFailed once the job is stopped."""
        if self._stopped.wait(LEASE_RETRY_S):
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

    def __init__(self, database: EmbeddingDatabase) -> None:
        self._database, self._lease = database, JobLease(database.leases, LEASE)
        self._lock = threading.Lock()
        self._job: _Job | None = None
        self._cache: dict[tuple[str, bool], StoredProjection] = {}  # by space, and whether it is the preliminary one

    def state(self, space: str) -> ProjectionState:
        """The state of one space."""
        job = self._job if self._job and self._job.space == space else None
        lease = self._database.leases.read(LEASE)  # of any service process
        shared = lease.state if lease and lease.state.get("space") == space else {}
        progress = shared if lease and lease.running else {}
        running = bool(progress or (job and job.running))  # before the stored one: once done, that is there
        stored = (
            self._read(space)
            or (job.preliminary if job else None)
            or (self._read(space, preliminary=True) if shared else None)
        )
        new = self._database.count_newer_images(space, after=stored.newest if stored else 0, most=MAX_PROJECTED)
        error = "" if running else (job.error if job else "") or shared.get("error", "")
        share, left_s = progress.get("share", 0.0), progress.get("left_s")
        return ProjectionState(space, stored, new, running, share, left_s, error)

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
        finally:
            state = {"space": job.space, "error": job.error}
            self._lease.release(state, shown_s=0.0 if job.stopped or not job.error else ERROR_SHOWN_S)

    def _compute(self, job: _Job, preliminary: StoredProjection, vectors: Floats) -> None:
        while not self._lease.acquire({"space": job.space}):
            job.pause()
        stored = self._read(job.space)
        if stored and stored.drawn > preliminary.drawn:
            return  # by another process
        xy, method = preliminary.xy, preliminary.method
        if projection.has_neighbours(vectors):
            self._save(job.space, preliminary)  # for the other processes
            xy, method = job.project(vectors, self._report_progress(job.space)), projection.TSNE_METHOD
        self._save(job.space, replace(preliminary, xy=xy, method=method, drawn=dt.datetime.now(dt.UTC)), final=True)

    def _report_progress(self, space: str) -> Callable[[float], None]:
        started = time.monotonic()

        def report(share: float) -> None:
            left_s = (time.monotonic() - started) * (1 - share) / share if share else None
            self._lease.report({"space": space, "share": share, "left_s": left_s})

        return report

    def _save(self, space: str, drawn: StoredProjection, *, final: bool = False) -> None:
        content = projection_store.projection_to_bytes(drawn)
        self._database.maps.save(space, content, drawn.drawn, preliminary=not final)
        self._remember(space, drawn, preliminary=not final)
        if final:
            self._database.maps.delete_preliminary(space)

    def _read(self, space: str, *, preliminary: bool = False) -> StoredProjection | None:
        """From memory, unless another process has stored another one."""
        drawn = self._database.maps.drawn(space, preliminary=preliminary)
        if drawn is None:
            return None
        stored = self._cache.get((space, preliminary))
        if stored is None or stored.drawn != drawn:
            content = self._database.maps.read(space, preliminary=preliminary)
            stored = projection_store.projection_from_bytes(content) if content else None
            if stored:
                self._remember(space, stored, preliminary=preliminary)
        return stored

    def _remember(self, space: str, stored: StoredProjection, *, preliminary: bool) -> None:
        with self._lock:
            self._cache.pop((space, preliminary), None)
            self._cache[space, preliminary] = stored
            for old in list(self._cache)[:-MAX_CACHED]:
                del self._cache[old]


def _message(error: AstrodetectError | OSError) -> str:
    """Without paths, which the text of an OSError has."""
    if isinstance(error, OSError):
        return error.strerror or "the process that computes the map cannot be started"
    return error.public or str(error)
