"""A model opened to serve: verified, compiled, with its detectors."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from astrodetect.anomalies.novelty import Novelty
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.model_store.manifest import Precision
from astrodetect.service.uvicorn_workers import worker_count
from astrodetect.settings import Settings


class OpenedModel(NamedTuple):
    """What a served model consists of."""

    engine: Engine
    novelty: Novelty | None  # None where the model carries no anomaly detectors
    stamp: tuple[int, int] | None  # of the manifest's file


def open_model(folder: Path, name: str, precision: Precision | Literal["auto"], threads: int) -> OpenedModel:
    """The published model of that name; ModelError where there is none that can be served."""
    stamp = published_stamp(folder, name)  # before the files: what is published meanwhile is found by the next check
    loaded = load_verified(folder, name, precision)
    processes = 1 if threads else worker_count()
    engine = Engine(loaded, cores=threads or None, processes=processes, keep_weights=False)
    return OpenedModel(engine, None if loaded.novelty is None else Novelty.load(loaded.novelty), stamp)


def start_opening(settings: Settings) -> Future[OpenedModel]:
    """Opens the default model in a thread, where most of the work needs no interpreter."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="opening")
    opening = pool.submit(open_model, settings.models_dir, settings.model, settings.precision, settings.threads)
    pool.shutdown(wait=False)
    return opening


def published_stamp(folder: Path, name: str) -> tuple[int, int] | None:
    """Modification time and inode of a model's manifest, which is written last; None where there is none."""
    try:
        status = (folder / f"{name}.json").stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
