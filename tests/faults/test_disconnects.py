"""Clients that disconnect before the response: their images are dropped, and the other clients are served."""

import asyncio
from collections import Counter
from collections.abc import Callable

import httpx2
import pytest

from faults.clients import Connection, Response, send_in_turn, sha256, slow_image, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric

MAX_SCORED = 64  # images of disconnected clients that may have been in a batch already
BUSY = 60  # images that keep the threads busy for about two seconds
IMAGES = [small_image(seed) for seed in range(16)]


def test_images_of_disconnected_clients_are_dropped_and_the_others_are_scored(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    leaving, staying = (1000, 1000) if full else (240, 60)
    service = start(max_in_flight=4000, request_timeout_s=60)
    alone = [
        response.json["score"]
        for response in send_in_turn(service.port, [upload_request("alone", data) for data in IMAGES])
    ]
    busy = slow_image(0)

    async def scenario() -> list[Response]:
        first, leave, stay = [await open_connections(service.port, count) for count in (BUSY, leaving, staying)]
        firsts = send_all(first, [upload_request("first", busy)] * BUSY)
        await wait_for_in_flight(lambda count: count == BUSY)
        for number, connection in enumerate(leave):
            connection.send(upload_request("left", IMAGES[number % 16]))
        stays = send_all(stay, [upload_request(f"stayed-{number}", IMAGES[number % 16]) for number in range(staying)])
        await wait_for_in_flight(lambda count: count > leaving + staying)
        for connection in leave:
            connection.abort()
        await wait_for_in_flight(lambda count: count <= BUSY + staying)
        await asyncio.gather(*firsts)
        responses = await asyncio.gather(*stays)
        for connection in (*first, *stay):
            connection.abort()
        return responses

    async def wait_for_in_flight(condition: Callable[[int], bool]) -> None:
        async with asyncio.timeout(60), httpx2.AsyncClient(timeout=60) as client:
            while True:
                lines = (await client.get(f"{service.url}/metrics")).text.splitlines()
                [count] = [line.split(" ")[1] for line in lines if line.startswith("astrodetect_images_at_work ")]
                if condition(int(float(count))):
                    return
                await asyncio.sleep(0.01)

    for number, response in enumerate(asyncio.run(scenario())):
        assert response.status == 200
        assert response.json["image_name"] == f"stayed-{number}"
        assert response.json["image_sha256"] == sha256(IMAGES[number % 16])
        assert response.json["score"] == pytest.approx(alone[number % 16], abs=1e-5)
    rows = Counter(name.partition("-")[0] for _, name, _ in log.rows())
    assert (rows["alone"], rows["first"], rows["stayed"]) == (16, BUSY, staying)
    assert rows["left"] <= MAX_SCORED
    assert read_metric(service, "astrodetect_batch_images_sum") <= 16 + BUSY + staying + MAX_SCORED


async def open_connections(port: int, count: int) -> list[Connection]:
    return await asyncio.gather(*(Connection.open(port) for _ in range(count)))


def send_all(connections: list[Connection], requests: list[bytes]) -> "list[asyncio.Task[Response]]":
    """Sends one request on each connection; the tasks return the responses."""
    return [
        asyncio.create_task(connection.request(request))
        for connection, request in zip(connections, requests, strict=True)
    ]
