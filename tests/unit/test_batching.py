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


def make_batcher(process: Doubler, max_batch: int = 4, threads: int = 1) -> Batcher[int, int, int]:
    return Batcher(process, list, max_batch=max_batch, threads=threads, name="test")


async def submit_all(
    batcher: Batcher[int, int, int], process: Doubler, items: Sequence[int]
) -> list[asyncio.Task[int]]:
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
        batcher = make_batcher(process, threads=2)
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


def test_what_is_computed_while_a_thread_finishes_is_finished_next_as_one_batch_and_its_thread_goes_on() -> None:
    process, finishing, finish = Doubler(), threading.Event(), threading.Event()
    process.release.set()
    finished: list[list[int]] = []

    def record(computed: list[int]) -> Sequence[int | Exception]:
        finished.append(computed)
        finishing.set()
        finish.wait(10)
        return [ValueError("not recorded") if value == 4 else value for value in computed]

    async def run() -> list[int | BaseException]:
        batcher = Batcher(process, record, max_batch=1, threads=2, name="test")
        tasks = [asyncio.create_task(batcher.submit(0))]
        await asyncio.to_thread(finishing.wait, 10)
        tasks += [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        while len(process.batches) < 4 or len(batcher):
            await asyncio.sleep(0.001)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        finish.set()
        await closing
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, failed, last = asyncio.run(run())
    assert (first, second, last) == (0, 2, 6)
    assert isinstance(failed, ValueError)
    assert finished[0] == [0]
    assert sorted(value for batch in finished[1:] for value in batch) == [2, 4, 6]


def test_where_a_batch_cannot_be_finished_each_item_is_finished_alone() -> None:
    process = Doubler()

    def record(computed: list[int]) -> list[int]:
        if 4 in computed:
            raise ValueError("not recorded")
        return computed

    async def run() -> list[int | BaseException]:
        batcher = Batcher(process, record, max_batch=4, threads=1, name="test")
        tasks = await submit_all(batcher, process, range(4))
        process.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(batcher.close)
        return results

    first, second, failed, last = asyncio.run(run())
    assert (first, second, last, str(failed)) == (0, 2, 6, "not recorded")
