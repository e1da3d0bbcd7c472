"""Dynamic batching: async callers submit single items; worker threads process whatever is queued as one batch."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

BatchItem = TypeVar("BatchItem")
ItemOutput = TypeVar("ItemOutput")


@dataclass(frozen=True, slots=True)
class ItemResult(Generic[ItemOutput]):
    """The result of one item, with its timings."""

    result: ItemOutput
    queued_s: float  # until a thread took it
    batch_s: float  # processing time of its batch
    batch_size: int


@dataclass(slots=True)
class _QueuedItem(Generic[BatchItem, ItemOutput]):
    item: BatchItem
    future: "asyncio.Future[ItemResult[ItemOutput]]"
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[BatchItem, ItemOutput]):
    """Calls `process` with batches of queued items: what queues up while a thread is busy forms its next batch.

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
        max_delay: Callable[[], float] = lambda: 0.0,  # seconds to wait for more items after the first
    ) -> None:
        self._process, self._max_batch, self._max_delay = process, max_batch, max_delay
        self._queue: queue.SimpleQueue[_QueuedItem[BatchItem, ItemOutput] | None] = queue.SimpleQueue()
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

    async def submit(self, item: BatchItem) -> ItemResult[ItemOutput]:
        """The item's result; if cancelled while queued, the item is never processed."""
        queued = _QueuedItem[BatchItem, ItemOutput](item, asyncio.get_running_loop().create_future())
        self._queue.put(queued)
        return await queued.future

    def close(self) -> None:
        """Processes what is queued, then stops the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            started = time.perf_counter()
            outputs = self._outputs([queued.item for queued in batch])
            batch_s = time.perf_counter() - started
            loop = batch[0].future.get_loop()
            loop.call_soon_threadsafe(_deliver, batch, outputs, started, batch_s)

    def _next_batch(self) -> list[_QueuedItem[BatchItem, ItemOutput]]:
        """At least one item that was not cancelled; empty when the batcher is closed."""
        batch: list[_QueuedItem[BatchItem, ItemOutput]] = []
        deadline: float | None = None
        while len(batch) < self._max_batch:
            try:
                queued = self._queue.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
            except queue.Empty:
                break
            if queued is None:
                if not batch:
                    return []
                self._queue.put(None)  # stop after this batch
                break
            if not queued.future.cancelled():
                batch.append(queued)
                deadline = deadline or time.monotonic() + self._max_delay()
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
    started: float,
    batch_s: float,
) -> None:
    for queued, output in zip(batch, outputs, strict=True):
        if queued.future.done():  # its caller was cancelled meanwhile
            continue
        if isinstance(output, Exception):
            queued.future.set_exception(output)
        else:
            queued.future.set_result(ItemResult(output, started - queued.since, batch_s, len(batch)))
