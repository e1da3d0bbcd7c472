"""A worker process's side of scoring: chunks of references to parts of the table, in one pipeline."""

import queue
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.listing import ImageFile, open_cutouts, open_images
from astrodetect.errors import ImageError
from astrodetect.inference import pipeline
from astrodetect.inference.heat_maps import heat_map
from astrodetect.inference.pipeline import ScoredFile
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import BatchRunner, HeatMap, ImageContract, ScoredImage, SkyObject, Thumbnail
from astrodetect.scoring import worker_messages
from astrodetect.scoring.chunks import QUARANTINED, Counts, WorkerReady, WorkerTask
from astrodetect.scoring.part_files import ScoreRow, encode_part
from astrodetect.scoring.table_rows import predict_file, score_columns, table_row
from astrodetect.scoring.worker_messages import Message, WorkerChannel
from astrodetect.sky.cutouts import CutoutSource

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine

# Writes predictions that are not in the log yet, with their thumbnails and heat maps.
RecordBatch = Callable[[list[ScoredImage], list[Thumbnail], list[HeatMap]], object]

REPORT_EVERY_S = 0.25


class _Stopped(Exception):
    """The supervisor has closed the channel."""


@dataclass(slots=True)
class _OpenChunk:
    """A chunk whose batches are in the pipeline."""

    number: int
    run: uuid.UUID
    rows: list[ScoreRow] = field(default_factory=list)
    positions: list[SkyObject | None] = field(default_factory=list)  # of the images of the rows
    results: Counter[str] = field(default_factory=Counter)
    bad: int = 0

    @property
    def counts(self) -> Counts:
        return Counts(len(self.rows), self.bad, self.results)


class ChunkWorker:
    """Scores the chunks that come through the channel, until it is closed.

    The batches of all chunks form one sequence, so that the next chunk is read while the last batches of one are
    computed. Batches never cross the end of a chunk.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        task: WorkerTask,
        engine: "Engine",
        novelty: Novelty | None,
        record: RecordBatch | None,
        *,
        max_pixels: int,
        thumbnail_px: int,
    ) -> None:
        self._channel, self._task, self._engine, self._novelty = channel, task, engine, novelty
        self._record, self._max_pixels = record, max_pixels
        self._thumbnail_px = thumbnail_px if record else 0
        source = CutoutSource.of_message(task.cutouts) if task.cutouts else None
        self._open = partial(open_cutouts, source) if source else open_images
        self._columns = score_columns(engine.manifest, novelty)
        self._requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopped = False
        # Of each batch in the pipeline: its chunk, and whether it is the empty one that ends it.
        self._in_pipeline: deque[tuple[_OpenChunk | None, bool]] = deque()

    def run(self) -> None:
        """Works until the channel is closed."""
        threading.Thread(target=self._receive, name="requests", daemon=True).start()
        engine = self._engine
        manifest = engine.manifest
        ready = WorkerReady(
            manifest.version,
            engine.precision,
            engine.batch_size,
            tuple(self._columns),
            engine.prior,
            manifest.threshold,
        )
        self._channel.send({worker_messages.READY: asdict(ready)})
        runner: BatchRunner = partial(_one_by_one, self._announce) if self._task.careful else pipeline.read_ahead
        batches = pipeline.score_batches(
            self._batches(), self._engine, self._read, self._novelty, name=attrgetter("name"), run_batches=runner
        )
        reported = time.monotonic()
        try:
            with closing(batches):
                for batch in batches:
                    chunk, ended = self._in_pipeline.popleft()
                    if chunk and ended:
                        part = {worker_messages.CHUNK_PART: chunk.number, "counts": chunk.counts.as_message()}
                        self._channel.send(part, encode_part(self._columns, chunk.rows, chunk.positions))
                    elif chunk:
                        self._add(chunk, batch)
                        if time.monotonic() - reported > REPORT_EVERY_S:
                            reported = time.monotonic()
                            self._channel.send(
                                {worker_messages.CHUNK_PROGRESS: chunk.number, "counts": chunk.counts.as_message()}
                            )
        except (_Stopped, BrokenPipeError):
            pass

    def _receive(self) -> None:
        while (message := self._channel.receive()) is not None:
            self._requests.put(message)
        self._stopped = True
        self._requests.put(None)

    def _batches(self) -> Iterator[list[ImageFile]]:
        """The batches of all chunks. Empty ones make room in the pipeline for results while no chunk waits."""
        while True:
            try:
                request = self._requests.get(block=not self._in_pipeline)
            except queue.Empty:
                self._in_pipeline.append((None, True))
                yield []
                continue
            if request is None:
                raise _Stopped
            chunk = _OpenChunk(request["number"], uuid.UUID(request["run"]))
            files = _without(request["quarantined"], self._open(request["references"]))
            while batch := list(islice(files, self._engine.batch_size)):
                if self._stopped:
                    raise _Stopped
                self._in_pipeline.append((chunk, False))
                yield batch
            self._in_pipeline.append((chunk, True))
            yield []

    def _read(self, image: ImageFile, contract: ImageContract) -> pipeline.ReadImage:
        if self._task.careful:
            self._announce([image.name])
        read = pipeline.decode_image(image.read(), contract, self._max_pixels, self._thumbnail_px)
        return read._replace(position=image.sky_object) if image.sky_object else read

    def _announce(self, names: list[str]) -> None:
        self._channel.send({worker_messages.SUSPECTS: names})

    def _add(self, chunk: _OpenChunk, batch: list[ScoredFile]) -> None:
        """Records a batch, then adds its rows, which mark it done."""
        manifest = self._engine.manifest
        predictions = [predict_file(file, manifest, chunk.run) for file in batch]
        if self._record and (scored := [prediction for prediction in predictions if prediction]):
            thumbnails = [file.thumbnail for file in batch if file.thumbnail]
            self._record(scored, thumbnails, _heat_maps(batch, manifest))
        for file, prediction in zip(batch, predictions, strict=True):
            chunk.rows.append(table_row(file, prediction, self._columns, manifest))
            chunk.positions.append(file.position)
            if prediction:
                chunk.results[prediction.result] += 1
            else:
                chunk.bad += 1


def _without(quarantined: Sequence[str] | None, images: Iterator[ImageFile]) -> Iterator[ImageFile]:
    """The images, of which those that are quarantined (all, if that is None) have an error instead of contents."""
    for image in images:
        if quarantined is None or image.name in quarantined:
            yield ImageFile(image.name, _refuse)
        else:
            yield image


def _refuse() -> bytes:
    raise ImageError(QUARANTINED)


def _one_by_one(
    announce: Callable[[list[str]], None],
    batches: Iterable[pipeline.Batch],
    read: Callable[[pipeline.Batch], pipeline.Material],
    compute: Callable[[pipeline.Material], pipeline.BatchResult],
    streams: int,  # noqa: ARG001 - of the BatchRunner
) -> Generator[pipeline.BatchResult]:
    """A BatchRunner that does one thing at a time, and announces the images of a batch before it is computed."""
    for batch in batches:
        material = read(batch)
        announce([image.name for image in batch])  # type: ignore[attr-defined]
        yield compute(material)


def _heat_maps(batch: list[ScoredFile], manifest: Manifest) -> list[HeatMap]:
    """The heat maps of files that have a thumbnail."""
    return [
        heat_map(manifest, np.array(file.probabilities), file.activation_map, file.sha256)
        for file in batch
        if file.thumbnail and file.activation_map is not None
    ]
