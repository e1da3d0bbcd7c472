"""Dynamic batching: async callers submit single items; worker threads process whatever is queued as one batch."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

GATHER_SHARE = 0.1  # of the time that the last batch took: so long a thread waits for more items while others work
MAX_GATHER_S = 0.005

BatchItem = TypeVar("BatchItem")
ItemOutput = TypeVar("ItemOutput")


@dataclass(slots=True)
class _QueuedItem(Generic[BatchItem, ItemOutput]):
    item: BatchItem
    future: "asyncio.Future[ItemOutput]"


class Batcher(Generic[BatchItem, ItemOutput]):
    """Calls `process` with batches of queued items: what queues up while a thread is busy forms its next batch.

    While other threads work, one that becomes free waits a moment for more items, as the callers of a batch that has
    just been answered send their next ones: alone, an item takes several times the processor time. Where none works,
    an item is processed at once.

    `process` returns one output per item, in order. An exception among its outputs, or raised for a batch of one, is
    raised for that item alone. Items whose caller was cancelled before a thread took them are dropped. The queue is
    unbounded: callers limit themselves. All callers share one event loop.
    """

    def __init__(
        self,
        process: Callable[[list[BatchItem]], Sequence[ItemOutput | Exception]],
        *,
        max_batch: int,
        threads: int,
        name: str,
    ) -> None:
        self._process, self._max_batch = process, max_batch
        self._queue: queue.SimpleQueue[_QueuedItem[BatchItem, ItemOutput] | None] = queue.SimpleQueue()
        self._collecting = threading.Lock()  # by one thread at a time
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
            outputs = self._outputs([queued.item for queued in batch])
            self._gather_s = min(GATHER_SHARE * (time.perf_counter() - started), MAX_GATHER_S)
            self._working.discard(thread)
            batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outputs)

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

    def _outputs(self, items: list[BatchItem]) -> Sequence[ItemOutput | Exception]:
        try:
            return self._process(items)
        except Exception as error:  # noqa: BLE001 - any error is raised for the item that caused it
            if len(items) == 1:
                return [error]
            return [output for item in items for output in self._outputs([item])]


def _deliver(
    batch: list[_QueuedItem[BatchItem, ItemOutput]],
    outputs: Sequence[ItemOutput | Exception],
) -> None:
    for queued, output in zip(batch, outputs, strict=True):
        if queued.future.done():  # its caller was cancelled meanwhile
            continue
        if isinstance(output, Exception):
            queued.future.set_exception(output)
        else:
            queued.future.set_result(output)
