"""A pool of workers on a Ray cluster: an actor on each node, which uses all of the node's CPUs.

A lost node's chunks go to the others. Actors are not restarted by Ray, since theirs are bound to their nodes: a new one
is started on every node that has none, which also finds nodes that joined later.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from astrodetect.cluster.connection import LOCAL, connect_to_ray, node_error
from astrodetect.cluster.scoring_actor import ScoringActor
from astrodetect.errors import ClusterError
from astrodetect.scoring.chunks import Chunk, ChunkEvent, ChunkProgress, ScoredChunk, WorkerReady, WorkerTask
from astrodetect.scoring.worker_process import CHUNKS_AHEAD

POLL_EVERY_S = 1.0
NODES_EVERY_S = 5.0  # between looks for new nodes
WAITING_NOTICE_S = 20.0
CONCURRENT_CALLS = CHUNKS_AHEAD + 2  # of an actor: also of `ready` or `progress`, and of `close`
MAX_LOSSES = 5  # of one chunk with its worker, or of one node's: then something else than nodes that come and go
CLOSE_WITHIN_S, ABANDON_WITHIN_S = 60.0, 3.0


@dataclass(slots=True)
class _Worker:
    """The actor of a node, and its calls under way."""

    actor: Any
    node: str
    ready: Any = None  # call
    is_ready: bool = False
    progress: Any = None  # call
    chunks: dict[Any, Chunk] = field(default_factory=dict)  # call → chunk

    def calls(self) -> list[Any]:
        """Every call whose result is awaited."""
        return [*self.chunks, *(call for call in (self.ready, self.progress) if call is not None)]


class RayPool:
    """A WorkerPool on the nodes of a cluster, or on this machine ("local"); `arguments` start a worker process."""

    def __init__(
        self,
        address: str,
        arguments: Sequence[str],
        task: WorkerTask,
        *,
        environment: Mapping[str, str],
        notify: Callable[[str], object],
    ) -> None:
        self._arguments, self._task, self._environment, self._notify = arguments, task, environment, notify
        self._workers: list[_Worker] = []
        self._looked_at = 0.0
        self._reference: str | None = None
        self._ready: WorkerReady | None = None
        self._losses: Counter[str] = Counter()
        self._lost: deque[Chunk] = deque()
        self._local, self._lost_ray = address == LOCAL, False
        connect_to_ray(address)

    @property
    def note(self) -> str:
        """The number of nodes."""
        count = sum(worker.is_ready for worker in self._workers)
        return f" on {count} node{'' if count == 1 else 's'}"

    def wait_ready(self, reference: str) -> WorkerReady:
        """Waits for the first worker; every one must see the reference, if this process does."""
        self._reference = reference if Path(reference).exists() else ""
        started, noticed = time.monotonic(), False
        while self._ready is None:
            self._look_for_nodes()
            for _ in self._finished_calls():
                pass
            if not noticed and time.monotonic() - started > WAITING_NOTICE_S:
                noticed = True
                self._notify("waiting for a node of the Ray cluster with all its CPUs free (see `ray status`)")
        return self._ready

    def score(self, chunks: Iterator[Chunk]) -> Generator[ChunkEvent]:
        """Scores every chunk; as many are handed out as the workers take."""
        reported = 0.0
        while True:
            self._look_for_nodes()
            for worker in self._workers:
                while worker.is_ready and len(worker.chunks) < CHUNKS_AHEAD and (chunk := self._next(chunks)):
                    worker.chunks[worker.actor.score.remote(chunk)] = chunk
            if not self._lost and not any(worker.chunks for worker in self._workers) and self._is_at_end(chunks):
                return
            if time.monotonic() - reported > POLL_EVERY_S:
                reported = time.monotonic()
                for worker in self._workers:
                    if worker.chunks and worker.progress is None:
                        worker.progress = worker.actor.progress.remote()
            yield from self._finished_calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            closing = [worker.actor.close.remote() for worker in self._workers if worker.is_ready]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=ABANDON_WITHIN_S if kind else CLOSE_WITHIN_S)
        finally:
            if not self._lost_ray:  # else this would end the process before the error is shown
                ray.shutdown()

    def _next(self, chunks: Iterator[Chunk]) -> Chunk | None:
        return self._lost.popleft() if self._lost else next(chunks, None)

    def _is_at_end(self, chunks: Iterator[Chunk]) -> bool:
        """Whether no chunk is left; one that is waits for a worker."""
        self._lost.extend(islice(chunks, 1))
        return not self._lost

    def _look_for_nodes(self) -> None:
        """Starts an actor on every node that has CPUs and none."""
        now = time.monotonic()
        if self._workers and now - self._looked_at < NODES_EVERY_S:
            return
        self._looked_at = now
        occupied = {worker.node for worker in self._workers}
        nodes = ray.nodes()
        if self._local and not any(node["Alive"] for node in nodes):  # no other can join
            self._lost_ray = True
            raise ClusterError("Ray's process on this machine has ended")
        for node in nodes:
            cpus = int(node["Resources"].get("CPU", 0))
            if node["Alive"] and cpus and node["NodeID"] not in occupied:
                actor = (
                    ray.remote(ScoringActor)
                    .options(
                        num_cpus=cpus,
                        max_concurrency=CONCURRENT_CALLS,
                        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                    )
                    .remote(self._arguments, replace(self._task, cores=cpus), dict(self._environment), str(Path.cwd()))
                )
                self._workers.append(_Worker(actor, node["NodeID"], actor.ready.remote(self._reference)))

    def _finished_calls(self) -> Iterator[ChunkEvent]:
        """Waits for calls; what they brought."""
        calls = {call: worker for worker in self._workers for call in worker.calls()}
        if not calls:
            time.sleep(POLL_EVERY_S)
            return
        finished, _ = ray.wait(list(calls), num_returns=1, timeout=POLL_EVERY_S)
        if finished:  # and whatever else is
            finished, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in finished:
            worker = calls[call]
            if worker not in self._workers:
                continue  # found to be lost by an earlier one of these calls
            try:
                result = ray.get(call)
            except exceptions.RayError as error:
                if (raised := node_error(error)) is not None:
                    raise raised from error
                self._drop(worker, error)
                continue
            yield from self._take(worker, call, result)

    def _take(self, worker: _Worker, call: Any, result: Any) -> Iterator[ChunkEvent]:
        if call == worker.ready:
            if self._ready is not None and result != self._ready:
                raise ClusterError(f"a node differs from the others: it has {result}, the first {self._ready}")
            self._ready, worker.ready, worker.is_ready = result, None, True
        elif call == worker.progress:
            worker.progress = None
            handed_out = {chunk.number for chunk in worker.chunks.values()}
            yield from (ChunkProgress(number, counts) for number, counts in result.items() if number in handed_out)
        elif isinstance(result, ScoredChunk):
            del worker.chunks[call]
            yield result

    def _drop(self, worker: _Worker, error: Exception) -> None:
        """A worker is lost: its chunks are handed out again, first."""
        self._workers.remove(worker)
        self._notify(f"a node or its worker was lost: {len(worker.chunks)} chunks are scored again")
        ray.kill(worker.actor)
        lost = [f"chunk {chunk.number} was lost with its worker" for chunk in worker.chunks.values()]
        if not worker.is_ready:
            lost.append(f"the worker of the node {worker.node} was lost before it was ready")
        self._losses.update(lost)
        for loss in lost:
            if self._losses[loss] == MAX_LOSSES:
                raise ClusterError(f"{loss} {MAX_LOSSES} times: {str(error).splitlines()[0]}")
        self._lost.extend(worker.chunks.values())
