"""A pool of one worker in a thread of this process, for tests that hand it an engine and what records its rows."""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import Any, cast

from astrodetect.anomalies.novelty import Novelty
from astrodetect.inference.engine import Engine
from astrodetect.scoring import worker_messages
from astrodetect.scoring.chunk_worker import ChunkWorker, RecordBatch
from astrodetect.scoring.chunks import Chunk, ChunkEvent, ChunkProgress, Counts, ScoredChunk, WorkerReady, WorkerTask
from astrodetect.scoring.worker_messages import Message, WorkerChannel


class _Channel:
    """A channel of queues."""

    def __init__(self) -> None:
        self.requests: queue.Queue[Message | None] = queue.Queue()
        self.sent: queue.Queue[tuple[Message, bytes] | Exception] = queue.Queue()

    def send(self, message: Message, payload: bytes = b"") -> None:
        self.sent.put((message, payload))

    def receive(self) -> Message | None:
        return self.requests.get()


class InProcessPool:
    """A WorkerPool; use as a context manager."""

    note = ""

    def __init__(
        self,
        engine: Engine,
        record: RecordBatch | None = None,
        novelty: Novelty | None = None,
        *,
        max_pixels: int = 10**6,
        thumbnail_px: int = 0,
        cutouts: Mapping[str, Any] | None = None,
    ) -> None:
        self._channel = _Channel()
        self._worker = ChunkWorker(
            cast(WorkerChannel, self._channel),
            WorkerTask(engine.manifest.name, cutouts=cutouts),
            engine,
            novelty,
            record,
            max_pixels=max_pixels,
            thumbnail_px=thumbnail_px,
        )
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def wait_ready(self, _: str) -> WorkerReady:
        message, _payload = self._receive()
        return WorkerReady(**message[worker_messages.READY])

    def score(self, chunks: Iterator[Chunk]) -> Generator[ChunkEvent]:
        handed_out = 0
        for chunk in islice(chunks, 2):
            handed_out += self._hand_out(chunk)
        while handed_out:
            message, part = self._receive()
            counts = Counts.of_message(message["counts"])
            if worker_messages.CHUNK_PROGRESS in message:
                yield ChunkProgress(message[worker_messages.CHUNK_PROGRESS], counts)
                continue
            handed_out -= 1
            for chunk in islice(chunks, 1):
                handed_out += self._hand_out(chunk)
            yield ScoredChunk(message[worker_messages.CHUNK_PART], part, counts)

    def __enter__(self) -> "InProcessPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.requests.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._worker.run()
        except Exception as error:  # noqa: BLE001 - raised where it is received
            self._channel.sent.put(error)

    def _receive(self) -> tuple[Message, bytes]:
        received = self._channel.sent.get(timeout=60)
        if isinstance(received, Exception):
            raise received
        return received

    def _hand_out(self, chunk: Chunk) -> int:
        request = {"number": chunk.number, "run": chunk.run, "references": chunk.references, "quarantined": []}
        self._channel.requests.put(request)
        return 1
