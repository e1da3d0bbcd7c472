"""Far more than can be done: what is accepted is done in time and right, the rest is refused at once."""

import asyncio
import time

import psutil
import pytest

from faults.clients import LOST, Answer, Line, LoadClients, in_turn, laborious, p99, part, picture, post, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, metric

IN_FLIGHT = 8
LABORIOUS = [laborious(seed) for seed in range(16)]
PICTURES = [picture(seed) for seed in range(16)]
SLOW_CALLERS = 100
TIMEOUT_S = 2
MEGABYTE = 1_000_000


def request(caller: int, number: int) -> bytes:
    place = (caller + number) % len(LABORIOUS)
    return upload(f"{place}.png", LABORIOUS[place])


def test_ten_times_the_capacity_is_refused_at_once_and_what_is_accepted_is_right_and_in_time(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    measured_s, overloaded_s, times, slack_s = (20.0, 60.0, 2.0, 0.0) if full else (1.5, 5.0, 3.0, 0.5)
    service = start(max_in_flight=IN_FLIGHT)
    process = psutil.Process(service.process.pid)
    alone = {
        answer.said["image_name"]: answer.said for answer in in_turn(service.port, [request(0, n) for n in range(16)])
    }
    with LoadClients(service.port, request, IN_FLIGHT) as unloaded:
        time.sleep(measured_s)
    assert {answer.status for answer in unloaded.answers()} == {200}
    capacity = len(unloaded.calls) / measured_s

    memory, callers = process.memory_info().rss, 6 * IN_FLIGHT
    with LoadClients(service.port, request, callers, every_s=callers / (10 * capacity)) as crowd:
        time.sleep(overloaded_s)
    accepted = [answer for answer in crowd.answers() if answer.status == 200]
    refused = [answer for answer in crowd.answers() if answer.status != 200]
    assert not crowd.lost
    assert len(refused) > 4 * len(accepted) > 0
    assert {(answer.status, answer.code) for answer in refused} == {(503, "overloaded")}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert metric(service, "astrodetect_shed_total") == len(refused)
    for said in (answer.said for answer in accepted):
        first = alone[said["image_name"]]
        assert said["image_sha256"] == first["image_sha256"]
        assert said["score"] == pytest.approx(first["score"], abs=1e-5)
    assert len(log.requests()) == len(alone) + len(unloaded.calls) + len(accepted)
    assert p99(accepted) <= times * p99(unloaded.answers()) + slack_s
    assert process.memory_info().rss - memory < 50 * MEGABYTE
    assert service.ready()
    assert {answer.status for answer in in_turn(service.port, [request(0, 0)] * 4)} == {200}
    assert metric(service, "astrodetect_images_at_work") == 0


async def trickle(port: int) -> tuple[Answer, float]:
    """The answer to a body that comes a byte now and then, and how long the connection lasted."""
    line, began = await Line.open(port), time.monotonic()
    line.send(post("/detect", part("slow.jpg", b"\xff\xd8"), length=100_000))
    answer = asyncio.ensure_future(line.answer())
    while not answer.done():
        line.send(b"-")
        await asyncio.wait([answer], timeout=0.2)
    try:
        async with asyncio.timeout(10):
            await line.reader.read(-1)  # until the service closes
    except LOST:
        pass
    finally:
        line.drop()
    return answer.result(), time.monotonic() - began


def test_slow_bodies_starve_nobody_and_are_cut(log: PredictionsDatabase, start: Start) -> None:
    service = start(request_timeout_s=TIMEOUT_S)

    async def slow() -> list[tuple[Answer, float]]:
        return await asyncio.gather(*(trickle(service.port) for _ in range(SLOW_CALLERS)))

    with LoadClients(service.port, lambda _, number: upload("a.jpg", PICTURES[number % 16]), 4) as crowd:
        cut = asyncio.run(slow())
    assert {(answer.status, answer.code) for answer, _ in cut} == {(408, "body_too_slow")}
    assert all(TIMEOUT_S <= lasted < 15 for _, lasted in cut)
    assert {answer.status for answer in crowd.answers()} == {200}
    assert len(crowd.calls) > SLOW_CALLERS
    assert len(log.requests()) == len(crowd.calls)
