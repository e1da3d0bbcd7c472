"""The worker process of `score`, `python -m astrodetect.cli.score_worker`: speaks with its supervisor by pipes."""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from importlib import import_module
from typing import TYPE_CHECKING

from astrodetect.errors import AstrodetectError, DatabaseError
from astrodetect.records import SkyObject
from astrodetect.scoring import worker_messages
from astrodetect.scoring.chunks import WorkerTask
from astrodetect.scoring.worker_messages import WorkerChannel
from astrodetect.settings import PROGRAMS, Settings, settings

if TYPE_CHECKING:
    from astrodetect.records import HeatMap, ScoredImage, Thumbnail
    from astrodetect.scoring.chunk_worker import RecordBatch
    from astrodetect.sky.catalogue import Catalogue
    from database import Database

PRUNE_INTERVAL = 10_000  # thumbnails


def main() -> None:
    """Score chunks until the supervisor closes the channel; report an error and end."""
    channel = WorkerChannel()
    message = channel.receive()
    if message is None:
        return
    try:
        _work(channel, WorkerTask(**message))
    except BrokenPipeError:
        return  # the supervisor has ended
    except AstrodetectError as error:
        _report(channel, error)
    except Exception as error:  # noqa: BLE001 - the supervisor ends the run
        traceback.print_exc()
        _report(channel, AstrodetectError(f"{type(error).__name__}: {error}"))


def _report(channel: WorkerChannel, error: AstrodetectError) -> None:
    with suppress(BrokenPipeError):  # the supervisor has ended
        channel.send(worker_messages.error_message(error))


def _work(channel: WorkerChannel, task: WorkerTask) -> None:
    from astrodetect.anomalies.novelty import Novelty  # noqa: PLC0415 - slow to import
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415
    from astrodetect.scoring.chunk_worker import ChunkWorker  # noqa: PLC0415

    config = settings()
    loaded = load_verified(config.models_dir, task.model, config.precision, prior=task.prior)
    threading.Thread(target=import_module, args=["pyarrow.parquet"]).start()  # while the network is compiled
    engine = Engine(loaded, cores=task.cores)
    novelty = None if loaded.novelty is None else Novelty.load(loaded.novelty)
    with open_recorder(config, _read_catalogue(task)) if task.log else nullcontext() as record:
        thumbnail_px = config.thumbnail_px if config.thumbnail_max_bytes else 0
        worker = ChunkWorker(
            channel,
            task,
            engine,
            novelty,
            record,
            max_pixels=config.max_image_pixels,
            thumbnail_px=thumbnail_px,
        )
        worker.run()


def _read_catalogue(task: WorkerTask) -> "Catalogue | None":
    from astrodetect.sky.catalogue import read_catalogue  # noqa: PLC0415
    from astrodetect.sky.catalogue_columns import CatalogueColumns  # noqa: PLC0415

    return read_catalogue(task.catalogue, CatalogueColumns(*task.catalogue_columns)) if task.catalogue else None


@contextmanager
def open_recorder(config: Settings, catalogue: "Catalogue | None" = None) -> "Iterator[RecordBatch]":
    """A function that records batches in the table `predictions`, with the positions of a catalogue."""
    from database import open_database  # noqa: PLC0415 - imported here because most runs do not need it

    with open_database(config, connections=1) as database:
        recorder = _PredictionsRecorder(database, config, catalogue)
        yield recorder.record
        recorder.prune()


class _PredictionsRecorder:
    """Records scores with their thumbnails, within the limits of the settings on thumbnails."""

    def __init__(self, database: "Database", config: Settings, catalogue: "Catalogue | None") -> None:
        self._database, self._config, self._catalogue = database, config, catalogue
        self._since_pruning, self._warned = 0, False

    def record(self, scored: "list[ScoredImage]", thumbnails: "list[Thumbnail]", heat_maps: "list[HeatMap]") -> None:
        """Record a batch; its rows are committed on return."""
        if self._catalogue:
            scored = [self._with_object(image, self._catalogue) for image in scored]
        self._database.record_many(scored)
        with self._warn_once("some scores are recorded without thumbnails"):
            self._database.save_thumbnails(thumbnails, heat_maps)
        self._since_pruning += len(thumbnails)
        if self._since_pruning >= PRUNE_INTERVAL:
            self.prune()

    @staticmethod
    def _with_object(image: "ScoredImage", catalogue: "Catalogue") -> "ScoredImage":
        """With its object; its own position counts where the catalogue has none."""
        item = catalogue.sky_object(image.image_name) or SkyObject()
        return replace(image, **{name: value for name, value in asdict(item).items() if value is not None})

    def prune(self) -> None:
        """Delete thumbnails that are too old or exceed the size limit."""
        self._since_pruning = 0
        with self._warn_once("old thumbnails were not deleted"):
            self._database.prune_thumbnails(
                days=self._config.thumbnail_days, max_bytes=self._config.thumbnail_max_bytes
            )

    @contextmanager
    def _warn_once(self, consequence: str) -> "Iterator[None]":
        """Thumbnails are optional: report the first database error and continue."""
        try:
            yield
        except DatabaseError as error:
            if not self._warned:
                print(f"{consequence}: {error}", file=sys.stderr)
            self._warned = True


if __name__ == "__main__":
    if str(PROGRAMS) not in sys.path:
        sys.path.insert(0, str(PROGRAMS))  # where database.py is
    main()
    os._exit(0)  # a thread may still wait for a message
