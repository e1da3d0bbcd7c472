"""Overload: accepted requests are served correctly and in time, the others are refused at once."""

import asyncio
import time

import psutil
import pytest

from faults.clients import (
    CONNECTION_ERRORS,
    END,
    Connection,
    LoadClients,
    Response,
    form_part,
    p99,
    post_request,
    send_in_turn,
    slow_image,
    small_image,
    upload_request,
)
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric

IN_FLIGHT = 8
SLOW_IMAGES = [slow_image(seed) for seed in range(16)]
IMAGES = [small_image(seed) for seed in range(16)]
SLOW_CLIENTS = 100
TIMEOUT_S = 2
MEGABYTE = 1_000_000


def request(client: int, number: int) -> bytes:
    place = (client + number) % len(SLOW_IMAGES)
    return upload_request(f"{place}.png", SLOW_IMAGES[place])


def test_at_ten_times_the_capacity_accepted_requests_are_served_in_time(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    measured_s, overloaded_s, times, slack_s = (20.0, 60.0, 2.0, 0.0) if full else (1.5, 5.0, 3.0, 0.5)
    service = start(max_in_flight=IN_FLIGHT)
    process = psutil.Process(service.process.pid)
    alone = {
        response.json["image_name"]: response.json
        for response in send_in_turn(service.port, [request(0, n) for n in range(16)])
    }
    with LoadClients(service.port, request, IN_FLIGHT) as unloaded:
        time.sleep(measured_s)
    assert {response.status for response in unloaded.responses()} == {200}
    capacity = len(unloaded.calls) / measured_s

    memory, client_count = process.memory_info().rss, 6 * IN_FLIGHT
    with LoadClients(service.port, request, client_count, interval_s=client_count / (10 * capacity)) as clients:
        time.sleep(overloaded_s)
    accepted = [response for response in clients.responses() if response.status == 200]
    refusals = [response for response in clients.responses() if response.status != 200]
    assert not clients.lost
    assert len(refusals) > 4 * len(accepted) > 0
    assert {(response.status, response.error_code) for response in refusals} == {(503, "overloaded")}
    assert all(int(response.headers["retry-after"]) > 0 for response in refusals)
    assert read_metric(service, "astrodetect_shed_total") == len(refusals)
    for body in (response.json for response in accepted):
        first = alone[body["image_name"]]
        assert body["image_sha256"] == first["image_sha256"]
        assert body["score"] == pytest.approx(first["score"], abs=1e-5)
    assert len(log.requests()) == len(alone) + len(unloaded.calls) + len(accepted)
    assert p99(accepted) <= times * p99(unloaded.responses()) + slack_s
    assert process.memory_info().rss - memory < 50 * MEGABYTE
    assert service.ready()
    assert {response.status for response in send_in_turn(service.port, [request(0, 0)] * 4)} == {200}
    assert read_metric(service, "astrodetect_images_at_work") == 0


async def trickle(port: int, path: str = "/detect") -> tuple[Response, float]:
    """The response to a body sent byte by byte, and how long the connection lasted."""
    connection, started = await Connection.open(port), time.monotonic()
    connection.send(post_request(path, form_part("slow.jpg", b"\xff\xd8"), length=100_000))
    response = asyncio.ensure_future(connection.response())
    try:
        while not response.done():
            connection.send(b"-")
            await asyncio.wait([response], timeout=0.2)
        async with asyncio.timeout(10):
            await connection.reader.read(-1)  # until the service closes it
    except CONNECTION_ERRORS:
        pass
    finally:
        response.cancel()
        connection.abort()
    return response.result(), time.monotonic() - started


def test_slow_bodies_are_cut_and_delay_no_other_client(log: PredictionsDatabase, start: Start) -> None:
    service = start(request_timeout_s=TIMEOUT_S)

    async def slow() -> list[tuple[Response, float]]:
        return await asyncio.gather(*(trickle(service.port) for _ in range(SLOW_CLIENTS)))

    with LoadClients(service.port, lambda _, number: upload_request("a.jpg", IMAGES[number % 16]), 4) as clients:
        started = time.monotonic()
        results = asyncio.run(slow())
    first_cut = started + min(lasted for _, lasted in results)
    assert {(response.status, response.error_code) for response, _ in results} == {(408, "body_too_slow")}
    assert all(TIMEOUT_S <= lasted < 15 for _, lasted in results)
    assert {response.status for response in clients.responses()} == {200}
    assert clients.responses(started, first_cut)  # none of them waits until the slow ones are cut
    assert len(log.requests()) == len(clients.calls)


def test_slow_bodies_close_no_route_of_many_images(start: Start) -> None:
    service = start()
    paths = ("/detect/batch", "/detect-anomalies")

    async def others_are_answered() -> list[int]:
        slow = [asyncio.create_task(trickle(service.port, path)) for path in paths for _ in range(8)]
        await asyncio.sleep(0.5)
        try:
            statuses = []
            for path in paths:
                connection = await Connection.open(service.port)
                response = await connection.request(post_request(path, form_part("a.jpg", IMAGES[0]) + END))
                statuses.append(response.status)
                connection.abort()
            assert not any(task.done() for task in slow)
            return statuses
        finally:
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    assert asyncio.run(others_are_answered()) == [200, 422]  # this model carries no detectors
