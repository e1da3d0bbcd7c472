"""The actor of a node: supervises the node's worker process, and scores the chunks that the driver hands to it."""

import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

from astrodetect.cluster.connection import MODELS_DIR, check_visible
from astrodetect.progress import print_notice
from astrodetect.scoring.chunks import Chunk, Counts, ScoredChunk, WorkerReady, WorkerTask
from astrodetect.scoring.worker_process import WorkerProcess


class ScoringActor:
    """Runs on one node; its methods are called concurrently."""

    def __init__(self, arguments: Sequence[str], task: WorkerTask, environment: Mapping[str, str], folder: str) -> None:
        self._folder = Path(folder) if Path(folder).is_dir() else None
        if MODELS_DIR in os.environ:
            environment = {**environment, MODELS_DIR: os.environ[MODELS_DIR]}
        self._process = WorkerProcess(
            [sys.executable, *arguments],
            task,
            notify=print_notice,  # to the actor's log
            environment=environment,
            folder=self._folder,
        )
        self._ready: Future[WorkerReady] = Future()
        self._results: dict[int, Future[ScoredChunk]] = {}
        self._progress: dict[int, Counts] = {}
        threading.Thread(target=self._follow, name="events", daemon=True).start()

    def ready(self, reference: str) -> WorkerReady:
        """Waits until the model is loaded; ClusterError if this node does not see `reference`."""
        check_visible(reference, socket.gethostname(), self._folder or Path())
        return self._ready.result()

    def score(self, chunk: Chunk) -> ScoredChunk:
        """Scores a chunk."""
        result = self._results[chunk.number] = Future[ScoredChunk]()
        if (error := self._ready.exception()) is not None:
            raise error
        self._process.submit(chunk)
        return result.result()

    def progress(self) -> dict[int, Counts]:
        """The counts of each unfinished chunk."""
        return dict(self._progress)

    def close(self) -> None:
        """Ends the worker process."""
        self._process.__exit__(None, None, None)

    def _follow(self) -> None:
        try:
            self._ready.set_result(self._process.wait_ready(""))
            while True:
                event = self._process.next_event()
                if isinstance(event, ScoredChunk):
                    self._progress.pop(event.number, None)
                    self._results.pop(event.number).set_result(event)
                else:
                    self._progress[event.number] = event.counts
        except Exception as error:  # noqa: BLE001 - it is raised by the methods
            if not self._ready.done():
                self._ready.set_exception(error)
            for result in list(self._results.values()):
                result.set_exception(error)
