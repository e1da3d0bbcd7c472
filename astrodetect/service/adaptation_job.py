"""Makes logged images the ordinary ones of a model, from their stored descriptions."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from astrodetect.anomalies import adaptation
from astrodetect.anomalies.novelty import MIN_IMAGES
from astrodetect.errors import AstrodetectError, DataError, Overloaded
from astrodetect.features.extraction import measurement_key
from astrodetect.model_store import store
from astrodetect.records import Floats, PredictionFilters, PredictionPage
from astrodetect.service.job_lease import JobLease, LeaseDatabase

LEASE = "adaptation"
MAX_ORDINARY_IMAGES = 5_000  # the newest ones; their detectors are fitted in seconds
PAGE_ROWS = 1_000
SHOWN_S = 300.0  # how long the outcome is shown

log = logging.getLogger("uvicorn.error")


class LoggedDescriptions(Protocol):
    """The stored descriptions: `db.descriptions.DescriptionLog`."""

    def descriptions(self, kind: str, images: Sequence[str]) -> Floats: ...


class LogDatabase(LeaseDatabase, Protocol):
    """The log: `database.Database`."""

    @property
    def description_log(self) -> LoggedDescriptions: ...
    def predictions(self, filters: PredictionFilters, *, limit: int, before: int | None = None) -> PredictionPage: ...


@dataclass(frozen=True, slots=True)
class AdaptationState:
    """The last adaptation that was started, in any service process."""

    model: str
    running: bool = True
    images: int = 0  # that the detectors were fitted on
    space: str | None = None  # of the new detectors
    error: str = ""


class AdaptationJob:
    """Adapts one model at a time among all service processes, in a thread; a program that changes the model at the
    same time is an error."""

    def __init__(self, database: LogDatabase, models_dir: Path) -> None:
        self._database, self._models_dir = database, models_dir
        self._lease = JobLease(database.leases, LEASE)
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> AdaptationState | None:
        """The adaptation that is running, or that ended less than SHOWN_S ago."""
        lease = self._database.leases.read(LEASE)
        return AdaptationState(**{**lease.state, "running": lease.running}) if lease else None

    def start(self, model: str, filters: PredictionFilters, source: str) -> None:
        """Make the images of matching predictions the ordinary ones; `source` says for people which these are."""
        with self._lock:
            if (self._thread and self._thread.is_alive()) or not self._lease.acquire(asdict(AdaptationState(model))):
                raise Overloaded("a model is being adapted: try again soon")
            self._thread = threading.Thread(
                target=self._run, args=(model, filters, source), name="adaptation", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Waits for the adaptation; one that has not begun to fit is given up."""
        self._closing.set()
        if self._thread:
            self._thread.join()

    def _run(self, model: str, filters: PredictionFilters, source: str) -> None:
        state = AdaptationState(model, running=False)
        try:
            state = self._adapt(state, filters, source)
        except (AstrodetectError, OSError) as error:
            public = error.public if isinstance(error, AstrodetectError) else error.strerror
            state = replace(state, error=public or str(error))
            log.warning("%s was not adapted: %s", model, error)
        except BaseException:
            state = replace(state, error="an internal error: see the server log")
            raise
        finally:
            self._lease.release(asdict(state), shown_s=SHOWN_S)

    def _adapt(self, state: AdaptationState, filters: PredictionFilters, source: str) -> AdaptationState:
        model = state.model
        manifest = store.read_current(self._models_dir, model)
        images = self._images(filters)
        kind = measurement_key(manifest.image)
        parts = [
            self._database.description_log.descriptions(kind, images[at : at + PAGE_ROWS])
            for at in range(0, len(images), PAGE_ROWS)
        ]
        features = np.concatenate([part for part in parts if len(part)] or [np.empty((0, 0), np.float32)])
        if len(features) < MIN_IMAGES:
            raise DataError(
                f"only {len(features):,} of these {len(images):,} images have a stored description for this model, and "
                f"{MIN_IMAGES} or more are needed: give a folder to python -m astrodetect adapt {model}"
            )
        if self._closing.is_set():
            raise DataError("the service stops")
        novelty = adaptation.fit_ordinary(features)
        ordinary = adaptation.describe_source(source, len(features))
        adapted = store.attach_detectors(
            self._models_dir, model, novelty.save, ordinary=ordinary, contract=manifest.image
        )
        return replace(state, images=len(features), space=adapted.space)

    def _images(self, filters: PredictionFilters) -> list[str]:
        """The newest images of the matching predictions (SHA-256), each once."""
        images: dict[str, None] = {}
        before = None
        while len(images) < MAX_ORDINARY_IMAGES and not self._closing.is_set():
            page = self._database.predictions(filters, limit=PAGE_ROWS, before=before)
            images |= dict.fromkeys(row.image_sha256 for row in page.predictions if row.image_sha256)
            if (before := page.next_before) is None:
                break
        return list(images)[:MAX_ORDINARY_IMAGES]
