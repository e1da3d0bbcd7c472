"""A supervised worker process: if reading an image ends it, it is started again, and the image quarantined.

A chunk that ended the process is tried again, alone. After MAX_DEATHS, a careful process announces each image before it
reads it, so that the announced one is known when the process ends; the others are scored in the same batches as ever.
"""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from astrodetect.errors import ModelError, WorkerError
from astrodetect.scoring import worker_messages
from astrodetect.scoring.chunks import Chunk, ChunkEvent, ChunkProgress, Counts, ScoredChunk, WorkerReady, WorkerTask
from astrodetect.settings import INSTALLED, PROGRAMS

MAX_DEATHS = 3  # of processes with one chunk, before they are careful
MAX_QUARANTINED = 32  # images of a chunk, found one by one; then all of it are
MAX_FAILED_STARTS = 3  # in a row, of a process that was ready before
CHUNKS_AHEAD = 2  # handed to a worker at a time: the next is read while the last images of one are computed
EXIT_WITHIN_S = 10.0  # of the closing of its input
FINISH_WITHIN_S = 600.0  # the same, after the last chunk: the log's old thumbnails are deleted then
# Ctrl-C reaches the supervisor alone, which then ends the process.
OWN_GROUP: dict[str, Any] = (
    {"process_group": 0} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
)


@dataclass(slots=True)
class _Job:
    """A chunk that was submitted and is not done."""

    chunk: Chunk
    sent: bool = False
    deaths: int = 0
    suspects: list[str] = field(default_factory=list)  # announced last
    quarantined: list[str] | None = field(default_factory=list)  # None: the whole chunk

    def died(self) -> None:
        """A process ended with this chunk; while it was careful, what it announced is to blame."""
        self.sent, self.deaths = False, self.deaths + 1
        if self.deaths <= MAX_DEATHS or self.quarantined is None:
            return
        self.quarantined.extend(self.suspects)
        if not self.suspects or len(self.quarantined) > MAX_QUARANTINED:
            self.quarantined = None
        self.suspects = []


class WorkerProcess:
    """A WorkerPool of one process on this machine, which `command` starts. `submit` may be called by other threads."""

    note = ""
    _process: "subprocess.Popen[bytes]"
    _input: BinaryIO
    _output: BinaryIO

    def __init__(
        self,
        command: Sequence[str],
        task: WorkerTask,
        *,
        notify: Callable[[str], object],
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._command, self._task, self._notify = command, task, notify
        self._environment, self._folder = environment or {}, folder
        self._jobs: deque[_Job] = deque()
        self._lock = threading.RLock()
        self._ready: WorkerReady | None = None
        self._failed_starts = 0
        self._closing = False
        self._start(careful=False)

    def wait_ready(self, reference: str) -> WorkerReady:  # noqa: ARG002 - this machine sees its own files
        """Waits until the model is loaded; raises the error that prevents it."""
        while self._ready is None:
            self._next_message()
        return self._ready

    def score(self, chunks: Iterator[Chunk]) -> Generator[ChunkEvent]:
        """Scores every chunk."""
        for chunk in islice(chunks, CHUNKS_AHEAD):
            self.submit(chunk)
        while self._jobs:
            event = self.next_event()
            if isinstance(event, ScoredChunk):
                for chunk in islice(chunks, 1):
                    self.submit(chunk)
            yield event

    def submit(self, chunk: Chunk) -> None:
        """Hands a chunk to the process."""
        with self._lock:
            self._jobs.append(_Job(chunk))
            self._hand_out()

    def next_event(self) -> ChunkEvent:
        """Waits for progress, or for the end of a chunk."""
        while (event := self._next_message()) is None:
            pass
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._stop(EXIT_WITHIN_S if kind else FINISH_WITHIN_S)

    def _next_message(self) -> ChunkEvent | None:
        received = worker_messages.receive(self._output)
        with self._lock:
            if received is None and self._closing:
                raise WorkerError("the scoring process is closed")
            if received is None:
                self._restart()
                return None
            message, payload = received
            if worker_messages.ERROR in message:
                raise worker_messages.as_error(message)
            if worker_messages.READY in message:
                fields = message[worker_messages.READY]
                ready = WorkerReady(**fields | {"columns": tuple(fields["columns"])})
                if self._ready not in {None, ready}:  # published again since: a table has one model's scores
                    raise ModelError(f"the model {self._task.model} is another one than when this run began")
                self._ready = ready
                self._failed_starts, self._loaded = 0, True
                self._hand_out()
                return None
            if worker_messages.SUSPECTS in message:
                self._jobs[0].suspects = message[worker_messages.SUSPECTS]
                return None
            counts = Counts.of_message(message["counts"])
            if worker_messages.CHUNK_PROGRESS in message:
                return ChunkProgress(message[worker_messages.CHUNK_PROGRESS], counts)
            return self._done(ScoredChunk(message[worker_messages.CHUNK_PART], payload, counts))

    def _done(self, scored: ScoredChunk) -> ScoredChunk:
        job = self._jobs.popleft()  # a process scores chunks in their order
        quarantined = job.chunk.references if job.quarantined is None else job.quarantined
        if quarantined:
            self._notify(f"quarantined, since reading them ended the process: {' '.join(quarantined)}")
        if self._careful:
            self._stop(EXIT_WITHIN_S)
            self._start(careful=False)
        else:
            self._hand_out()
        return replace(scored, quarantined=tuple(quarantined))

    def _hand_out(self) -> None:
        """Sends what may be sent: a chunk with which a process ended is scored alone."""
        if not self._loaded:
            return
        for job in self._jobs:
            if job is not self._jobs[0] and (job.deaths or self._jobs[0].deaths):
                return
            if not job.sent:
                job.sent = True
                try:
                    worker_messages.send(self._input, asdict(job.chunk) | {"quarantined": job.quarantined})
                except BrokenPipeError:
                    return  # the process has ended, as the next message says

    def _start(self, *, careful: bool) -> None:
        self._careful, self._loaded = careful, False
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_importing_this_package({**os.environ, **self._environment}),
            cwd=self._folder,
            **OWN_GROUP,
        )
        self._input, self._output = _pipes(self._process)
        with suppress(BrokenPipeError):
            worker_messages.send(self._input, asdict(replace(self._task, careful=careful)))

    def _restart(self) -> None:
        """After the end of the process."""
        reason = _exit_reason(self._process.wait())
        self._stop(EXIT_WITHIN_S)
        if self._loaded:
            self._notify(f"the scoring process {reason}: its images are scored again")
            for job in self._jobs:
                if job.sent and job.quarantined is None:
                    raise WorkerError(f"the scoring process {reason} again, although it read no image")
                if job.sent:
                    job.died()
        else:
            self._failed_starts += 1
            if self._ready is None or self._failed_starts == MAX_FAILED_STARTS:
                raise WorkerError(f"the scoring process {reason} while it loaded the model")
        self._start(careful=bool(self._jobs) and self._jobs[0].deaths >= MAX_DEATHS)

    def _stop(self, within_s: float) -> None:
        """Closes the process's input, at which it ends; kills it if it does not, or does not listen yet."""
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._process.wait(within_s if self._loaded else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        except BaseException:
            self._process.kill()
            raise
        finally:
            self._process.wait()
            self._output.close()


def _importing_this_package(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process that finds the same clone in any working folder."""
    if INSTALLED:
        return environment
    paths = [str(PROGRAMS), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[BinaryIO, BinaryIO]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("started without pipes")
    return cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)


def _exit_reason(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
