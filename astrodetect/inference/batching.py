"""Dynamic batching: async callers submit single items; worker threads compute whatever is queued as one batch.

What the threads have computed is finished together, by one of them at a time.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

GATHER_SHARE = 0.1  # of the time that the last batch took: so long a thread waits for more items while others work
MAX_GATHER_S = 0.005

BatchItem = TypeVar("BatchItem")
Computed = TypeVar("Computed")
ItemOutput = TypeVar("ItemOutput")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _QueuedItem(Generic[BatchItem, ItemOutput]):
    item: BatchItem
    future: "asyncio.Future[ItemOutput]"


class Batcher(Generic[BatchItem, Computed, ItemOutput]):
    """Calls `compute` with batches of queued items: what queues up while a thread is busy forms its next batch.

    While other threads work, one that becomes free waits a moment for more items, as the callers of a batch that has
    just been answered send their next ones: alone, an item takes several times the processor time. Where none works,
    an item is processed at once.

    `finish` makes the outputs of what was computed. One thread at a time calls it, with all batches that wait for it:
    a thread whose batch is ready while another one finishes leaves it to that one, and computes its next batch.

    Both return one value per item, in order. An exception among them, or raised for a single item, is raised for that
    item alone. Items whose caller was cancelled before a thread took them are dropped. The queue is unbounded: callers
    limit themselves. All callers share one event loop.
    """

    def __init__(
        self,
        compute: Callable[[list[BatchItem]], Sequence[Computed | Exception]],
        finish: Callable[[list[Computed]], Sequence[ItemOutput | Exception]],
        *,
        max_batch: int,
        threads: int,
        name: str,
    ) -> None:
        self._compute, self._finish, self._max_batch = compute, finish, max_batch
        self._queue: queue.SimpleQueue[_QueuedItem[BatchItem, ItemOutput] | None] = queue.SimpleQueue()
        self._computed: deque[tuple[_QueuedItem[BatchItem, ItemOutput], Computed | Exception]] = deque()
        self._collecting, self._finishing = threading.Lock(), threading.Lock()  # by one thread at a time
        self._working: set[int] = set()  # threads
        self._gather_s = 0.0
        self._threads: list[threading.Thread] = []
        try:
            for i in range(threads):
                thread = threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """The length of the queue."""
        return self._queue.qsize()

    async def submit(self, item: BatchItem) -> ItemOutput:
        """The item's output; if cancelled while queued, the item is never processed."""
        queued: _QueuedItem[BatchItem, ItemOutput] = _QueuedItem(item, asyncio.get_running_loop().create_future())
        self._queue.put(queued)
        return await queued.future

    def close(self) -> None:
        """Processes what is queued, then stops the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        thread = threading.get_ident()
        while batch := self._next_batch():
            self._working.add(thread)
            started = time.perf_counter()
            computed = _each(self._compute, [queued.item for queued in batch])
            self._gather_s = min(GATHER_SHARE * (time.perf_counter() - started), MAX_GATHER_S)
            self._computed.extend(zip(batch, computed, strict=True))
            while self._computed and self._finishing.acquire(blocking=False):
                try:
                    self._finish_computed()
                finally:
                    self._finishing.release()  # what another thread has left meanwhile is seen by the next look
            self._working.discard(thread)

    def _finish_computed(self) -> None:
        waiting = [self._computed.popleft() for _ in range(len(self._computed))]
        outputs: dict[int, ItemOutput | Exception] = {}
        values: dict[int, Computed] = {}
        for index, (_, value) in enumerate(waiting):
            if isinstance(value, Exception):
                outputs[index] = value
            else:
                values[index] = value
        if values:
            outputs.update(zip(values, _each(self._finish, list(values.values())), strict=True))
        if waiting:
            answers = [(queued, outputs[index]) for index, (queued, _) in enumerate(waiting)]
            waiting[0][0].future.get_loop().call_soon_threadsafe(_deliver, answers)

    def _next_batch(self) -> list[_QueuedItem[BatchItem, ItemOutput]]:
        """At least one item that was not cancelled; empty when the batcher is closed."""
        with self._collecting:
            while True:
                taken = [self._queue.get()]
                if self._working and self._queue.qsize() + 1 < self._max_batch:
                    time.sleep(self._gather_s)
                while taken[-1] is not None and len(taken) < self._max_batch and self._queue.qsize():
                    taken.append(self._queue.get())
                batch = [queued for queued in taken if queued is not None and not queued.future.cancelled()]
                if taken[-1] is None:
                    if not batch:
                        return []
                    self._queue.put(None)  # stop after this batch
                if batch:
                    return batch


def _each(
    function: Callable[[list[Item]], Sequence[Result | Exception]], items: list[Item]
) -> Sequence[Result | Exception]:
    """`function` of the items; where it fails, of each alone: any error is raised for the item that caused it."""
    try:
        return function(items)
    except Exception as error:  # noqa: BLE001
        if len(items) == 1:
            return [error]
        return [made for item in items for made in _each(function, [item])]


def _deliver(answers: Sequence[tuple[_QueuedItem[BatchItem, ItemOutput], ItemOutput | Exception]]) -> None:
    for queued, output in answers:
        if queued.future.done():  # its caller was cancelled meanwhile
            continue
        if isinstance(output, Exception):
            queued.future.set_exception(output)
        else:
            queued.future.set_result(output)
