"""Callers who leave before their answer: those who stay get theirs, and nothing is done for the others any more."""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx2
import pytest

from faults.clients import Answer, Line, in_turn, laborious, picture, sha256, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, metric

IN_PASSES = 64  # images that may be between the network and their row at any one time, at most
BUSY = 10  # laborious images that hold up all others before the network, for two seconds or so
PICTURES = [picture(seed) for seed in range(16)]


def test_those_who_left_reach_no_network_and_those_who_stayed_have_their_answers(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    leaving, staying = (1000, 1000) if full else (240, 60)
    service = start(max_in_flight=4000, request_timeout_s=60)
    alone = [answer.said["score"] for answer in in_turn(service.port, [upload("alone", data) for data in PICTURES])]
    busy = laborious(0, 4000)

    async def scene() -> list[Answer]:
        first, leave, stay = [await opened(service.port, count) for count in (BUSY, leaving, staying)]
        firsts = asked(first, [upload("first", busy)] * BUSY)
        await at_work(lambda count: count == BUSY)
        for number, line in enumerate(leave):
            line.send(upload("left", PICTURES[number % 16]))
        stays = asked(stay, [upload(f"stayed-{number}", PICTURES[number % 16]) for number in range(staying)])
        await at_work(lambda count: count > leaving + staying)
        for line in leave:
            line.drop()
        await at_work(lambda count: count <= BUSY + staying)
        await asyncio.gather(*firsts)
        answers = await asyncio.gather(*stays)
        for line in (*first, *stay):
            line.drop()
        return answers

    async def at_work(enough: Callable[[int], bool]) -> None:
        async with asyncio.timeout(60), httpx2.AsyncClient(timeout=60) as client:
            while True:
                lines = (await client.get(f"{service.url}/metrics")).text.splitlines()
                [count] = [line.split(" ")[1] for line in lines if line.startswith("astrodetect_images_at_work ")]
                if enough(int(float(count))):
                    return
                await asyncio.sleep(0.01)

    for number, answer in enumerate(asyncio.run(scene())):
        assert answer.status == 200
        assert answer.said["image_name"] == f"stayed-{number}"
        assert answer.said["image_sha256"] == sha256(PICTURES[number % 16])
        assert answer.said["score"] == pytest.approx(alone[number % 16], abs=1e-5)
    rows = Counter(name.partition("-")[0] for _, name, _ in log.rows())
    assert (rows["alone"], rows["first"], rows["stayed"]) == (16, BUSY, staying)
    assert rows["left"] <= IN_PASSES
    assert metric(service, "astrodetect_batch_images_sum") <= 16 + BUSY + staying + IN_PASSES


async def opened(port: int, count: int) -> list[Line]:
    return await asyncio.gather(*(Line.open(port) for _ in range(count)))


def asked(lines: list[Line], requests: list[bytes]) -> "list[asyncio.Task[Answer]]":
    """Sent, one on each line; the answers come."""
    return [asyncio.create_task(line.ask(request)) for line, request in zip(lines, requests, strict=True)]
