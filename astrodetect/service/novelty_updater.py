"""Describes the log anew, in the background, where a model's detectors were replaced."""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from astrodetect.anomalies.novelty import Novelty
from astrodetect.db.descriptions import NoveltyUpdate, OutdatedRows, RowNovelty
from astrodetect.features.extraction import measurement_key
from astrodetect.model_store.manifest import Manifest
from astrodetect.service.job_lease import JobLease, LeaseDatabase
from astrodetect.service.periodic_thread import PeriodicThread

CHECK_S = 2.0  # between checks for other detectors, and between steps while images are being processed
STEP_ROWS = 1_000  # of the log, described and not

log = logging.getLogger("uvicorn.error")


class NoveltyLog(Protocol):
    """The descriptions and the novelty in the log: `db.descriptions.DescriptionLog`."""

    def update(self, model: str) -> NoveltyUpdate | None: ...
    def begin_update(self, model: str, space: str) -> None: ...
    def outdated(self, model: str, space: str, kind: str, *, rows: int) -> OutdatedRows | None: ...
    def finish_step(self, model: str, space: str, step: OutdatedRows, values: RowNovelty | None) -> None: ...


class DescriptionDatabase(LeaseDatabase, Protocol):
    """A database with such a log: `database.Database`."""

    @property
    def description_log(self) -> NoveltyLog: ...


class NoveltyUpdater(PeriodicThread):
    """Keeps each loaded model's part of the log described by its present detectors.

    One process at a time updates a model. Steps and progress are in the database: another process continues an
    interrupted update, and no step is done twice.
    Detectors that compare network features describe new images only.
    """

    def __init__(
        self,
        database: DescriptionDatabase,
        detectors: Callable[[], Mapping[str, tuple[Manifest, Novelty]]],
        *,
        refresh: Callable[[], object],
        in_flight: Callable[[], int],
    ) -> None:
        self._database, self._detectors, self._refresh, self._in_flight = database, detectors, refresh, in_flight
        self._spaces: dict[str, str] = {}  # model → space of its detectors at the last check
        self._done: set[str] = set()  # models whose update to that space is finished
        super().__init__("novelty-updater", CHECK_S, "the log waits to be described by new detectors")

    def step(self) -> None:
        """Describes the log for every loaded model whose detectors are not those of its last update."""
        self._refresh()  # so that new detectors are loaded although no request comes
        for name, (manifest, novelty) in self._detectors().items():
            if not manifest.space or novelty.feature_kind != "shapes":
                continue
            if self._spaces.get(name) != manifest.space:
                self._spaces[name] = manifest.space
                self._done.discard(name)
            if name not in self._done:
                self._update(manifest, manifest.space, novelty)

    def _update(self, manifest: Manifest, space: str, novelty: Novelty) -> None:
        """One update, and another of the rows that arrived meanwhile, which may be of the replaced detectors."""
        lease = JobLease(self._database.leases, f"novelty {manifest.name}")
        if not lease.acquire({"space": space}):
            return
        try:
            self._update_leased(manifest, space, novelty)
        finally:
            lease.release()

    def _update_leased(self, manifest: Manifest, space: str, novelty: Novelty) -> None:
        described = self._database.description_log
        for _ in range(2):
            described.begin_update(manifest.name, space)
            while step := described.outdated(manifest.name, space, measurement_key(manifest.image), rows=STEP_ROWS):
                described.finish_step(manifest.name, space, step, _values(novelty, step))
                if self._closing.wait(CHECK_S if self._in_flight() else 0):
                    return
        update = described.update(manifest.name)
        if update is None or update.space != space or update.running:
            return  # another process goes on, or has begun another one
        self._done.add(manifest.name)
        if update.described or update.missing:
            log.info(
                "%s: %d predictions are described by the present detectors, %d have no stored description",
                manifest.name,
                update.described,
                update.missing,
            )


def _values(novelty: Novelty, step: OutdatedRows) -> RowNovelty | None:
    if not step.ids:
        return None
    result = novelty.score(step.features)
    return RowNovelty(result.novelty, result.in_domain, result.views, result.vectors)
