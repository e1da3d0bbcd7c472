"""Told to go: what is at work is finished, what was promised is kept, and nothing new is begun."""

import asyncio
import json
import signal
import socket

import pytest
from programs import Service

from faults.clients import Answer, Line, in_turn, laborious, part, picture, post, upload, uploads
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, drained, metric, outbox_files

IN_FLIGHT = 50
MANY = 60  # images in one request, more than are at work together
ANSWERED = 'astrodetect_requests_total{route="/detect",status="200"}'
LABORIOUS = laborious(0, 1500)  # a second or two for all of them
PICTURE = picture(0)


def refuses(service: Service) -> bool:
    """Whether it takes no new connections."""
    try:
        socket.create_connection(("127.0.0.1", service.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def has_ended_well(service: Service) -> None:
    assert service.wait(60) == 0
    assert "Application shutdown complete" in service.output
    assert "Traceback" not in service.output


def test_every_request_in_flight_is_answered_and_has_its_row(log: PredictionsDatabase, start: Start) -> None:
    service = start()

    async def scene() -> list[Answer]:
        lines = [await Line.open(service.port) for _ in range(IN_FLIGHT)]
        answers = [asyncio.create_task(line.ask(upload(f"{n}.png", LABORIOUS))) for n, line in enumerate(lines)]
        await asyncio.to_thread(service.wait_until, lambda: arrived() == IN_FLIGHT)
        service.signal(signal.SIGTERM)
        await asyncio.to_thread(service.wait_until, lambda: refuses(service))
        assert service.process.poll() is None  # it refuses, and is not gone
        try:
            return await asyncio.gather(*answers)
        finally:
            for line in lines:
                line.drop()

    def arrived() -> int:
        return int(metric(service, "astrodetect_images_at_work") + metric(service, ANSWERED))

    answers = asyncio.run(scene())
    assert [answer.status for answer in answers] == [200] * IN_FLIGHT
    has_ended_well(service)
    assert sorted(log.requests()) == sorted(answer.said["request_id"] for answer in answers)


def test_a_request_with_many_images_ends_whole_with_a_line_for_each(log: PredictionsDatabase, start: Start) -> None:
    service = start()

    async def scene() -> bytes:
        line = await Line.open(service.port)
        line.send(uploads([(f"{number}.png", LABORIOUS) for number in range(MANY)]))
        status, _ = await line.head()
        assert status == 200
        body = b""
        async for chunk in line.chunks():
            if not body:
                service.signal(signal.SIGTERM)
            body += chunk
        line.drop()
        return body

    lines = [json.loads(line) for line in asyncio.run(scene()).splitlines()]
    has_ended_well(service)
    assert [line["image_name"] for line in lines] == [f"{number}.png" for number in range(MANY)]
    assert {line["error"]["code"] for line in lines if "error" in line} == {"shutting_down"}
    assert sorted(log.requests()) == sorted(line["request_id"] for line in lines if "error" not in line)


def test_rows_in_the_outbox_outlive_the_end_or_are_handed_over_before_it(
    log: PredictionsDatabase, start: Start
) -> None:
    def queued(service: Service) -> list[str]:
        answers = in_turn(service.port, [upload("a.jpg", PICTURE)] * 5)
        assert {(answer.status, answer.said["logged"]) for answer in answers} == {(200, "queued")}
        return [answer.said["request_id"] for answer in answers]

    service = start()
    log.server.stop()
    promised = queued(service)
    service.signal(signal.SIGTERM)
    has_ended_well(service)
    assert "5 rows stay in the outbox" in service.output
    assert outbox_files()

    service = start()
    promised += queued(service)  # beside those of the earlier run
    log.server.start()
    service.wait_until(lambda: drained(service))
    assert log.requests() == promised

    log.server.stop()
    promised += queued(service)
    log.server.start()
    service.signal(signal.SIGTERM)  # at once: nobody has looked yet whether PostgreSQL is back
    has_ended_well(service)
    assert log.requests() == promised
    assert outbox_files() == []


@pytest.mark.parametrize(("signals", "limit_s"), [(2, 600), (1, 1)])
def test_a_second_sigterm_or_the_time_limit_ends_it_at_once(
    log: PredictionsDatabase, start: Start, signals: int, limit_s: int
) -> None:
    """Though a caller is there whose body never ends."""
    service = start(request_timeout_s=600, shutdown_timeout_s=limit_s)
    request = post("/detect", part("slow.jpg", b"\xff\xd8"), {"Expect": "100-continue"}, length=100_000)
    with socket.create_connection(("127.0.0.1", service.port)) as caller:
        caller.sendall(request)
        assert caller.recv(100).startswith(b"HTTP/1.1 100")  # the body is being read
        service.signal(signal.SIGTERM)
        service.wait_until(lambda: refuses(service))
        if signals == 2:
            assert service.process.poll() is None
            service.signal(signal.SIGTERM)
        service.wait(10)
