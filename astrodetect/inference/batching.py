"""Many callers to full batches: async callers on one side, threads on the other that take what waits in one go."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ItemResult(Generic[Result]):
    """What came of one item, and what it cost."""

    result: Result
    waited_s: float  # until a thread took it
    took_s: float
    together: int  # items in its batch


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[ItemResult[Result]]"
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """Runs `work` on batches of what is there: a busy thread finds more waiting, an idle one has `patience` or none.

    `work` answers item by item, in order; an exception among its answers, or raised for an item alone, is that item's.
    An item whose caller has gone or given up before a thread took it is dropped. How many may wait is for the callers
    to bound. All of them share one event loop.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result | Exception]],
        *,
        most: int,
        threads: int,
        name: str,
        patience: Callable[[], float] = lambda: 0.0,  # seconds that more are waited for, once there is one
    ) -> None:
        self._work, self._most, self._patience = work, most, patience
        self._queue: queue.SimpleQueue[_Waiting[Item, Result] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """How many wait."""
        return self._queue.qsize()

    async def put(self, item: Item) -> ItemResult[Result]:
        """What comes of it; cancelled while it waits, it is never worked on."""
        waiting = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        self._queue.put(waiting)
        return await waiting.future

    def close(self) -> None:
        """Once what waits is done."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            begun = time.perf_counter()
            results = self._outcomes([waiting.item for waiting in batch])
            took = time.perf_counter() - begun
            loop = batch[0].future.get_loop()
            loop.call_soon_threadsafe(_deliver, batch, results, begun, took)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """At least one that is still wanted; none at the end."""
        batch: list[_Waiting[Item, Result]] = []
        until: float | None = None
        while len(batch) < self._most:
            try:
                waiting = self._queue.get(timeout=None if until is None else max(until - time.monotonic(), 0))
            except queue.Empty:
                break
            if waiting is None:
                if not batch:
                    return []
                self._queue.put(None)  # for the next round, after this batch
                break
            if not waiting.future.cancelled():
                batch.append(waiting)
                until = until or time.monotonic() + self._patience()
        return batch

    def _outcomes(self, items: list[Item]) -> Sequence[Result | Exception]:
        try:
            return self._work(items)
        except Exception as error:  # noqa: BLE001 - whatever it is, each caller gets its own
            if len(items) == 1:
                return [error]
            return [outcome for item in items for outcome in self._outcomes([item])]


def _deliver(
    batch: list[_Waiting[Item, Result]], results: Sequence[Result | Exception], begun: float, took: float
) -> None:
    for waiting, result in zip(batch, results, strict=True):
        if waiting.future.done():  # its caller has gone meanwhile
            continue
        if isinstance(result, Exception):
            waiting.future.set_exception(result)
        else:
            waiting.future.set_result(ItemResult(result, begun - waiting.since, took, len(batch)))
