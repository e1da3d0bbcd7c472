"""Shutdown: requests in progress are finished, queued rows are kept, and new connections are refused."""

import asyncio
import json
import os
import signal
import socket

import pytest
from programs import Service

from faults.clients import (
    Connection,
    Response,
    batch_request,
    form_part,
    post_request,
    send_in_turn,
    slow_image,
    small_image,
    upload_request,
)
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, outbox_files, outbox_is_empty, read_metric

IN_FLIGHT = 50
FEW = 20
MANY = 60  # images in one request, more than are processed at a time
RESPONSES_METRIC = 'astrodetect_requests_total{route="/detect",status="200"}'
SLOW_IMAGES = slow_image(0, 1500)  # a second or two for all of them
IMAGE = small_image(0)
# Under nohup the service ignores SIGHUP, as it should.
HANGUP = signal.SIGTERM if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP
LIVENESS = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def refuses_connections(service: Service) -> bool:
    """Whether new connections are refused."""
    try:
        socket.create_connection(("127.0.0.1", service.port), 5).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:  # new connections are ignored before they are refused
        return False
    return False


def wait_for_clean_exit(service: Service) -> None:
    assert service.wait(60) == 0
    assert "Application shutdown complete" in service.output
    assert "Traceback" not in service.output


def test_every_request_in_flight_at_shutdown_is_answered_and_recorded(log: PredictionsDatabase, start: Start) -> None:
    service = start()

    async def scenario() -> list[Response]:
        connections = [await Connection.open(service.port) for _ in range(IN_FLIGHT)]
        responses = [
            asyncio.create_task(connection.request(upload_request(f"{n}.png", SLOW_IMAGES)))
            for n, connection in enumerate(connections)
        ]
        await asyncio.to_thread(service.wait_until, lambda: arrived() == IN_FLIGHT)
        service.signal(HANGUP)
        try:
            return await asyncio.gather(*responses)
        finally:
            for connection in connections:
                connection.abort()

    def arrived() -> int:
        return int(read_metric(service, "astrodetect_images_at_work") + read_metric(service, RESPONSES_METRIC))

    responses = asyncio.run(scenario())
    assert [response.status for response in responses] == [200] * IN_FLIGHT
    wait_for_clean_exit(service)
    assert sorted(log.requests()) == sorted(response.json["request_id"] for response in responses)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((), signal.SIGTERM), (("--workers", "2", "--timeout-worker-healthcheck", "60"), signal.SIGINT)],
)
def test_requests_that_were_sent_before_the_signal_are_answered(
    log: PredictionsDatabase, start: Start, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    """Although the service has read none of them, and not even accepted most of their connections.

    A terminal sends SIGINT to every process, and uvicorn then SIGTERM to its workers.
    """
    service = start(arguments=arguments)

    async def scenario() -> list[Response]:
        connections = [await Connection.open(service.port) for _ in range(FEW)]
        for connection in connections:
            assert (await connection.request(LIVENESS)).status == 200
        os.killpg(service.process.pid, signal.SIGSTOP)
        connections += [await Connection.open(service.port) for _ in range(IN_FLIGHT)]
        responses = [
            asyncio.create_task(connection.request(upload_request(f"{n}.png", SLOW_IMAGES)))
            for n, connection in enumerate(connections)
        ]
        await asyncio.sleep(0)  # they are sent
        os.killpg(service.process.pid, number)
        os.killpg(service.process.pid, signal.SIGCONT)
        try:
            return await asyncio.gather(*responses)
        finally:
            for connection in connections:
                connection.abort()

    responses = asyncio.run(scenario())
    assert {(response.status, response.headers["connection"]) for response in responses} == {(200, "close")}
    assert service.wait(60) == 0
    assert "Traceback" not in service.output
    assert sorted(log.requests()) == sorted(response.json["request_id"] for response in responses)


def test_a_batch_request_at_shutdown_has_a_line_for_each_image(log: PredictionsDatabase, start: Start) -> None:
    service = start()

    async def scenario() -> bytes:
        connection = await Connection.open(service.port)
        connection.send(batch_request([(f"{number}.png", SLOW_IMAGES) for number in range(MANY)]))
        status, _ = await connection.read_head()
        assert status == 200
        body = b""
        async for chunk in connection.read_chunks():
            if not body:
                service.signal(signal.SIGTERM)
            body += chunk
        connection.abort()
        return body

    lines = [json.loads(line) for line in asyncio.run(scenario()).splitlines()]
    wait_for_clean_exit(service)
    assert [line["image_name"] for line in lines] == [f"{number}.png" for number in range(MANY)]
    assert {line["error"]["code"] for line in lines if "error" in line} == {"shutting_down"}
    assert sorted(log.requests()) == sorted(line["request_id"] for line in lines if "error" not in line)


def test_rows_in_the_outbox_survive_a_shutdown_or_are_written_before_it(log: PredictionsDatabase, start: Start) -> None:
    def queue_rows(service: Service) -> list[str]:
        responses = send_in_turn(service.port, [upload_request("a.jpg", IMAGE)] * 5)
        assert {(response.status, response.json["logged"]) for response in responses} == {(200, "queued")}
        return [response.json["request_id"] for response in responses]

    service = start()
    log.server.stop()
    queued_ids = queue_rows(service)
    service.signal(signal.SIGTERM)
    wait_for_clean_exit(service)
    assert "5 rows stay in the outbox" in service.output
    assert outbox_files()

    service = start()
    queued_ids += queue_rows(service)  # in addition to those of the earlier run
    log.server.start()
    service.wait_until(lambda: outbox_is_empty(service))
    assert log.requests() == queued_ids

    log.server.stop()
    queued_ids += queue_rows(service)
    log.server.start()
    service.signal(signal.SIGTERM)  # before the service has noticed that PostgreSQL is back
    wait_for_clean_exit(service)
    assert log.requests() == queued_ids
    assert outbox_files() == []


@pytest.mark.parametrize(("signals", "limit_s"), [(2, 600), (1, 1)])
def test_a_second_sigterm_or_the_time_limit_ends_the_service_at_once(
    log: PredictionsDatabase, start: Start, signals: int, limit_s: int
) -> None:
    """Although a client is still sending a body."""
    service = start(request_timeout_s=600, shutdown_timeout_s=limit_s)
    request = post_request("/detect", form_part("slow.jpg", b"\xff\xd8"), {"Expect": "100-continue"}, length=100_000)
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(request)
        assert client.recv(100).startswith(b"HTTP/1.1 100")  # the body is being read
        service.signal(signal.SIGTERM)
        service.wait_until(lambda: refuses_connections(service))
        if signals == 2:
            assert service.process.poll() is None
            service.signal(signal.SIGTERM)
        response = client.makefile("rb").read()
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"shutting_down"' in response
    wait_for_clean_exit(service)


def test_a_draining_service_is_not_ready_and_answers_until_its_time_is_up(
    log: PredictionsDatabase, start: Start
) -> None:
    service = start(drain_s=2)
    service.signal(signal.SIGTERM)
    service.wait_until(lambda: not service.ready())
    answered = 0
    while True:
        try:
            [response] = send_in_turn(service.port, [upload_request("a.jpg", IMAGE)])
        except ConnectionRefusedError:  # no connection that was accepted is lost
            break
        assert (response.status, response.headers["connection"]) == (200, "close")
        answered += 1
    assert answered > 5
    wait_for_clean_exit(service)
    assert len(log.requests()) == answered
    assert "shutting down in 2 s" in service.output
    assert "not ready: the service" not in service.output


def test_a_second_signal_ends_the_drain_but_no_request(log: PredictionsDatabase, start: Start) -> None:
    service = start(drain_s=600)
    service.signal(signal.SIGTERM)
    service.wait_until(lambda: not service.ready())

    responses = send_all_and_signal(service, signal.SIGTERM)
    assert [response.status for response in responses] == [200] * FEW
    wait_for_clean_exit(service)


def send_all_and_signal(service: Service, number: signal.Signals) -> list[Response]:
    """The responses to FEW slow images, with a signal to the service before most of them."""

    async def scenario() -> list[Response]:
        connections = [await Connection.open(service.port) for _ in range(FEW)]
        requests = [upload_request(f"{n}.png", SLOW_IMAGES) for n in range(FEW)]
        responses = [
            asyncio.create_task(connection.request(request))
            for connection, request in zip(connections, requests, strict=True)
        ]
        await asyncio.wait(responses, return_when=asyncio.FIRST_COMPLETED)
        service.signal(number)
        try:
            return await asyncio.gather(*responses)
        finally:
            for connection in connections:
                connection.abort()

    return asyncio.run(scenario())
