"""Batches are made of what is there, hold only what is still wanted, and give each caller its own."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from astrodetect.inference.batching import Batcher, ItemResult


class Work:
    """Doubles numbers once it may; a negative one spoils the batch that it is in."""

    def __init__(self) -> None:
        self.may, self.begun = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.begun.set()
        self.may.wait(10)
        if min(items) < 0:
            raise ValueError(f"bad {items}")
        return [2 * item for item in items]


def batcher(work: Work, most: int = 4) -> Batcher[int, int]:
    return Batcher(work, max_batch=most, threads=1, name="test")


async def held_up(batcher: Batcher[int, int], work: Work, items: Sequence[int]) -> list[asyncio.Task[ItemResult[int]]]:
    """The first is at work, the others wait."""
    tasks = [asyncio.create_task(batcher.submit(items[0]))]
    await asyncio.to_thread(work.begun.wait, 10)
    tasks += [asyncio.create_task(batcher.submit(item)) for item in items[1:]]
    while len(batcher) < len(items) - 1:
        await asyncio.sleep(0.001)
    return tasks


def test_the_first_goes_alone_and_what_came_meanwhile_goes_together_each_with_its_own_answer() -> None:
    work = Work()

    async def run() -> None:
        under_test = batcher(work)
        tasks = await held_up(under_test, work, range(8))
        work.may.set()
        done = await asyncio.gather(*tasks)
        assert [one.result for one in done] == [2 * item for item in range(8)]
        assert [one.batch_size for one in done] == [1] + [4] * 4 + [3] * 3
        assert all(one.queued_s >= 0 and one.batch_s >= 0 for one in done)
        under_test.close()

    asyncio.run(run())
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_a_bad_item_fails_alone() -> None:
    work = Work()

    async def run() -> None:
        under_test = batcher(work, most=8)
        tasks = await held_up(under_test, work, [0, 1, -2, 3, -4])
        work.may.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one.result for one in found if isinstance(one, ItemResult)] == [0, 2, 6]
        assert [str(one) for one in found if isinstance(one, ValueError)] == ["bad [-2]", "bad [-4]"]
        under_test.close()

    asyncio.run(run())


def test_what_its_caller_gave_up_is_never_worked_on() -> None:
    work = Work()

    async def run() -> None:
        under_test = batcher(work, most=8)
        tasks = await held_up(under_test, work, range(6))
        for task in tasks[1:4]:
            task.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await under_test.submit(99)
        await asyncio.sleep(0)
        work.may.set()
        assert [(await task).result for task in (tasks[0], *tasks[4:])] == [0, 8, 10]
        tasks[0].cancel()
        under_test.close()

    asyncio.run(run())
    assert work.batches == [[0], [4, 5]]


def test_closing_finishes_what_waits() -> None:
    work = Work()

    async def run() -> list[int]:
        under_test = batcher(work)
        tasks = await held_up(under_test, work, range(6))
        work.may.set()
        await asyncio.to_thread(under_test.close)
        return [(await task).result for task in tasks]

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10]
