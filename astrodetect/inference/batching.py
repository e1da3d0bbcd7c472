"""Dynamic batching: async callers submit single items; worker threads process whatever is queued as one batch."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BatchItem = TypeVar("BatchItem")
ItemOutput = TypeVar("ItemOutput")


@dataclass(slots=True)
class _QueuedItem(Generic[BatchItem, ItemOutput]):
    item: BatchItem
    future: "asyncio.Future[ItemOutput]"


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
    ) -> None:
        self._process, self._max_batch = process, max_batch
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

    async def submit(self, item: BatchItem) -> ItemOutput:
        """The item's output; if cancelled while queued, the item is never processed."""
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
            outputs = self._outputs([queued.item for queued in batch])
            batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outputs)

    def _next_batch(self) -> list[_QueuedItem[BatchItem, ItemOutput]]:
        """At least one item that was not cancelled; empty when the batcher is closed."""
        batch: list[_QueuedItem[BatchItem, ItemOutput]] = []
        while len(batch) < self._max_batch:
            try:
                queued = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if queued is None:
                if not batch:
                    return []
                self._queue.put(None)  # stop after this batch
                break
            if not queued.future.cancelled():
                batch.append(queued)
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
