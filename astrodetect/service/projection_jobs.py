"""Projections of the recorded images: computed by a subprocess of one service process at a time, shared by all."""

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astrodetect.anomalies import projection
from astrodetect.anomalies.projection import ProjectionProcess
from astrodetect.errors import AstrodetectError, ProjectionFailed
from astrodetect.labels import LabelValue
from astrodetect.records import EmbeddedImages, Floats
from astrodetect.service import projection_store
from astrodetect.service.job_lease import JobLease, LeaseDatabase
from astrodetect.service.projection_store import StoredProjection

MAX_PROJECTED = 20_000  # by t-SNE: the labelled images and a sample of the others, which are placed among these
MAX_MAPPED = 1_000_000  # the newest images, in addition to the labelled ones
PLACED_AT_ONCE = 10_000  # images, whose vectors are in memory
TSNE_SHARE = 0.7  # of the progress, if others are placed afterwards
NO_VECTORS: Floats = np.empty((0, 0), np.float32)
LEASE = "map"
LEASE_RETRY_S = 0.5  # while another service process computes
ERROR_SHOWN_S = 3600.0  # unless it is computed again
MAX_CACHED = 3  # projections in memory, preliminary ones included: 24 MB of a million images

log = logging.getLogger("uvicorn.error")


class MapStorage(Protocol):
    """The stored maps: `db.shared_state.MapTable`."""

    def drawn(self, space: str, *, preliminary: bool) -> dt.datetime | None: ...
    def read(self, space: str, *, preliminary: bool) -> bytes | None: ...
    def save(self, space: str, content: bytes, drawn: dt.datetime, *, preliminary: bool) -> None: ...
    def delete_preliminary(self, space: str) -> None: ...


class Embeddings(Protocol):
    """The images of a space: `db.embeddings.EmbeddingTable`."""

    def ids(self, space: str, *, most: int) -> NDArray[np.int64]: ...
    def labels(self, space: str) -> Mapping[int, LabelValue]: ...
    def images(self, space: str, ids: Sequence[int]) -> EmbeddedImages: ...
    def count_newer(self, space: str, *, after: int, most: int) -> int: ...


class EmbeddingDatabase(LeaseDatabase, Protocol):
    """The database of predictions and labels: `database.Database`."""

    @property
    def maps(self) -> MapStorage: ...
    @property
    def embeddings(self) -> Embeddings: ...


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

    def project(
        self, images: EmbeddedImages, others: Iterator[EmbeddedImages], count: int, report: Callable[[float], None]
    ) -> StoredProjection:
        """The t-SNE projection, with the `count` others placed on it, by another process.

        ProjectionFailed once the job is stopped.
        """
        parts, tsne_share = [images], TSNE_SHARE if count else 1.0
        with self._lock:
            if self._stopped.is_set():
                raise ProjectionFailed("it was stopped")
            process = self._process = ProjectionProcess()
        try:
            positions = [process.project(images.vectors, lambda share: report(tsne_share * share))]
            for part in others:
                positions.append(process.place(part.vectors))
                parts.append(replace(part, images=[], vectors=NO_VECTORS))
                placed = sum(len(part.ids) for part in parts[1:])
                report(tsne_share + (1 - tsne_share) * min(1.0, placed / count))
            return StoredProjection.of_images(parts, np.concatenate(positions), projection.TSNE_METHOD)
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
        job = self._job_of(space)
        lease = self._database.leases.read(LEASE)  # of any service process
        shared = lease.state if lease and lease.state.get("space") == space else {}
        progress = shared if lease and lease.running else {}
        running = bool(progress or (job and job.running))  # before the stored one: once done, that is there
        stored = (
            self._read(space)
            or (job.preliminary if job else None)
            or (self._read(space, preliminary=True) if shared else None)
        )
        new = self._database.embeddings.count_newer(space, after=stored.newest if stored else 0, most=MAX_PROJECTED)
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

    def shown(self, space: str) -> StoredProjection | None:
        """The projection of one space that `state` has, without the state of the computation."""
        job = self._job_of(space)
        stored = self._read(space) or (job.preliminary if job else None)
        return stored or self._read(space, preliminary=True)

    def labels(self, space: str, stored: StoredProjection) -> list[tuple[int, LabelValue]]:
        """The index and the label of each labelled image of a projection."""
        return stored.labels(self._database.embeddings.labels(space))

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
            embeddings = self._database.embeddings
            ids, labelled = embeddings.ids(job.space, most=MAX_MAPPED), embeddings.labels(job.space)
            sample = _sample(ids, [*labelled])
            images = embeddings.images(job.space, sample.tolist())
            if len(images.ids) >= projection.MIN_IMAGES:
                job.preliminary = StoredProjection.from_pca(images)
                self._compute(job, job.preliminary, images, np.setdiff1d(ids, sample))
        except (AstrodetectError, OSError) as error:
            job.error = _message(error)
            log.warning("the projection was not computed: %s", error)
        finally:
            state = {"space": job.space, "error": job.error}
            self._lease.release(state, shown_s=0.0 if job.stopped or not job.error else ERROR_SHOWN_S)

    def _job_of(self, space: str) -> _Job | None:
        return self._job if self._job and self._job.space == space else None

    def _compute(
        self, job: _Job, preliminary: StoredProjection, images: EmbeddedImages, others: NDArray[np.int64]
    ) -> None:
        while not self._lease.acquire({"space": job.space}):
            job.pause()
        stored = self._read(job.space)
        if stored and stored.drawn > preliminary.drawn:
            return  # by another process
        if not projection.has_neighbours(images.vectors):
            self._save(job.space, replace(preliminary, drawn=dt.datetime.now(dt.UTC)), final=True)
            return
        self._save(job.space, preliminary)  # for the other processes
        parts = (
            self._database.embeddings.images(job.space, others[start : start + PLACED_AT_ONCE].tolist())
            for start in range(0, len(others), PLACED_AT_ONCE)
        )
        self._save(job.space, job.project(images, parts, len(others), self._report_progress(job.space)), final=True)

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


def _sample(ids: NDArray[np.int64], labelled: Sequence[int]) -> NDArray[np.int64]:
    """Of the images those that t-SNE places: all, or the labelled ones and a random sample of the others."""
    first = np.array(labelled[:MAX_PROJECTED], np.int64)
    others = np.setdiff1d(ids, first)
    most = MAX_PROJECTED - len(first)
    if len(others) > most:
        others = np.random.default_rng(0).permutation(others)[:most]
    return np.sort(np.concatenate([first, others]))


def _message(error: AstrodetectError | OSError) -> str:
    """Without paths, which the text of an OSError has."""
    if isinstance(error, OSError):
        return error.strerror or "the process that computes the map cannot be started"
    return error.public or str(error)
