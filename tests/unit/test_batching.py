"""The batcher: batch composition, isolation of errors, cancellation and closing."""

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from astrodetect.inference import batching
from astrodetect.inference.batching import Batcher


class Doubler:
    """Doubles numbers once released; a negative number fails its whole batch."""

    def __init__(self) -> None:
        self.release, self.started = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.started.set()
        self.release.wait(10)
        if min(items) < 0:
            raise ValueError(f"bad {items}")
        return [2 * item for item in items]


def make_batcher(process: Doubler, max_batch: int = 4) -> Batcher[int, int]:
    return Batcher(process, max_batch=max_batch, threads=1, name="test")


async def submit_all(batcher: Batcher[int, int], process: Doubler, items: Sequence[int]) -> list[asyncio.Task[int]]:
    """The first item is being processed, the others are queued."""
    tasks = [asyncio.create_task(batcher.submit(items[0]))]
    await asyncio.to_thread(process.started.wait, 10)
    tasks += [asyncio.create_task(batcher.submit(item)) for item in items[1:]]
    while len(batcher) < len(items) - 1:
        await asyncio.sleep(0.001)
    return tasks


def test_items_queued_while_a_batch_runs_form_the_next_batches_and_each_caller_gets_its_own_result() -> None:
    process = Doubler()

    async def run() -> None:
        batcher = make_batcher(process)
        tasks = await submit_all(batcher, process, range(8))
        process.release.set()
        assert await asyncio.gather(*tasks) == [2 * item for item in range(8)]
        batcher.close()

    asyncio.run(run())
    assert process.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_while_a_thread_works_a_free_one_waits_for_more_items(monkeypatch: pytest.MonkeyPatch) -> None:
    process, waiting, gathered = Doubler(), threading.Event(), threading.Event()

    def sleep(_seconds: float) -> None:
        waiting.set()
        gathered.wait(10)

    monkeypatch.setattr(batching, "time", SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter))

    async def run() -> None:
        batcher = Batcher(process, max_batch=4, threads=2, name="test")
        tasks = await submit_all(batcher, process, [0])
        tasks.append(asyncio.create_task(batcher.submit(1)))
        await asyncio.to_thread(waiting.wait, 10)
        tasks += [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
        while len(batcher) < 2:
            await asyncio.sleep(0.001)
        gathered.set()
        process.release.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
        batcher.close()

    asyncio.run(run())
    assert process.batches == [[0], [1, 2, 3]]


def test_a_failing_item_does_not_fail_the_others_of_its_batch() -> None:
    process = Doubler()

    async def run() -> None:
        batcher = make_batcher(process, max_batch=8)
        tasks = await submit_all(batcher, process, [0, 1, -2, 3, -4])
        process.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [result for result in results if isinstance(result, int)] == [0, 2, 6]
        assert [str(error) for error in results if isinstance(error, ValueError)] == ["bad [-2]", "bad [-4]"]
        batcher.close()

    asyncio.run(run())


def test_items_of_cancelled_callers_are_never_processed() -> None:
    process = Doubler()

    async def run() -> None:
        batcher = make_batcher(process, max_batch=8)
        tasks = await submit_all(batcher, process, range(6))
        for task in tasks[1:4]:
            task.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await batcher.submit(99)
        await asyncio.sleep(0)
        process.release.set()
        assert [await task for task in (tasks[0], *tasks[4:])] == [0, 8, 10]
        tasks[0].cancel()
        batcher.close()

    asyncio.run(run())
    assert process.batches == [[0], [4, 5]]


def test_closing_the_batcher_processes_queued_items() -> None:
    process = Doubler()

    async def run() -> list[int]:
        batcher = make_batcher(process)
        tasks = await submit_all(batcher, process, range(6))
        process.release.set()
        await asyncio.to_thread(batcher.close)
        return [await task for task in tasks]

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]
