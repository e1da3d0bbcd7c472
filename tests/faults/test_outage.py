"""PostgreSQL down: predictions are served, and every one has its row afterwards, in order."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from programs import Service

from faults.clients import LoadClients, send_at_once, send_in_turn, small_image, upload_request
from faults.postgres_process import PredictionsDatabase, TcpProxy
from faults.service_state import Start, outbox_files, outbox_is_empty, read_metric, read_readiness, send

READERS = 240
TIMEOUT_S = 12  # of a statement
IMAGES = [small_image(seed) for seed in range(16)]


def request(client: int, number: int) -> bytes:
    return upload_request(f"{client}-{number}.jpg", IMAGES[(client + number) % len(IMAGES)])


def check_rows(log: PredictionsDatabase, clients: LoadClients) -> None:
    """The table has one row for each response, in order, and no others."""
    assert not clients.lost
    assert {call.response.status for call in clients.calls} == {200}
    position = {request_id: position for position, request_id in enumerate(log.requests())}
    assert len(position) == len(log.requests()) == len(clients.calls)
    by_client: dict[int, list[int]] = {}
    for call in clients.calls:
        by_client.setdefault(call.client, []).append(position[call.response.json["request_id"]])
    assert all(positions == sorted(positions) for positions in by_client.values())
    assert log.in_order()
    sha256_of = {name: sha for _, name, sha in log.rows()}
    assert all(
        sha256_of[call.response.json["image_name"]] == call.response.json["image_sha256"] for call in clients.calls
    )


def wait_for_recovery(service: Service) -> None:
    """Waits until no row is queued, on disk or in memory."""
    service.wait_until(lambda: outbox_is_empty(service))
    assert outbox_files() == []
    assert read_metric(service, "astrodetect_outbox_rows") == 0


def answered_since(clients: LoadClients, started: float, count: int) -> bool:
    """Whether more than `count` requests sent since then have been answered."""
    return len(clients.responses(started, time.monotonic())) > count


def test_an_outage_under_load_fails_no_request_and_loses_no_row(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    client_count, before_s, outage_s = (32, 20.0, 20.0) if full else (8, 0.7, 1.5)
    service = start()
    with LoadClients(service.port, request, client_count) as clients:
        for stop in (log.server.stop, log.server.crash):
            time.sleep(before_s)
            stop()
            started = time.monotonic()
            time.sleep(outage_s)
            ready = read_readiness(service)
            assert (ready["status"], ready["logged"]) == ("ready", "queued")
            assert ready["outbox"] > 0
            assert read_metric(service, "astrodetect_outbox_rows") >= ready["outbox"]
            service.wait_until(partial(answered_since, clients, started, client_count))
            during = clients.responses(started, time.monotonic())
            outcomes = {(response.status, response.json["logged"], response.json["id"]) for response in during}
            assert outcomes == {(200, "queued", None)}
            log.server.start()
            service.wait_until(lambda: outbox_is_empty(service))  # under load
    wait_for_recovery(service)
    check_rows(log, clients)
    assert send(service, upload_request("after", IMAGES[0])).json["logged"] == "committed"
    assert "Traceback" not in service.output


@pytest.fixture
def proxy(log: PredictionsDatabase) -> Iterator[TcpProxy]:
    proxy = TcpProxy(log.server)
    yield proxy
    proxy.close()


def test_a_hanging_postgresql_fails_no_request_and_loses_no_row(
    proxy: TcpProxy, log: PredictionsDatabase, start: Start, full: bool
) -> None:
    client_count, before_s, outage_s = (32, 20.0, 20.0) if full else (8, 0.7, 3.5)
    service = start(url=proxy.url(log.database), database_timeout_s=1)
    with LoadClients(service.port, request, client_count) as clients:
        time.sleep(before_s)
        proxy.freeze()
        time.sleep(outage_s)
        assert read_readiness(service)["logged"] == "queued"
        proxy.thaw()
        time.sleep(before_s)
    wait_for_recovery(service)
    check_rows(log, clients)
    assert "queued" in {call.response.json["logged"] for call in clients.calls}


def test_readers_probes_and_uploads_do_not_wait_for_a_hanging_postgresql(
    proxy: TcpProxy, log: PredictionsDatabase, start: Start
) -> None:
    service = start(url=proxy.url(log.database), database_timeout_s=TIMEOUT_S, request_timeout_s=60)
    assert send(service, request(0, 0)).json["logged"] == "committed"
    proxy.freeze()
    upload = upload_request("large.jpg", IMAGES[0] + bytes(2_000_000))  # what follows a JPEG is ignored
    page = b"GET /predictions HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ThreadPoolExecutor() as threads:
        pages = threads.submit(send_at_once, service.port, [page] * READERS)
        uploaded = threads.submit(send, service, upload)
        service.wait_until(lambda: read_readiness(service)["logged"] == "queued")
        started = time.monotonic()
        assert read_readiness(service)["status"] == "ready"
        assert time.monotonic() - started < TIMEOUT_S
    assert max(response.seconds for response in pages.result()) < TIMEOUT_S
    assert {(response.status, response.error_code) for response in pages.result()} <= {
        (503, "database_unavailable"),
        (503, "overloaded"),
    }
    assert uploaded.result().json["logged"] == "queued"
    keyed = send(service, upload_request("keyed.jpg", IMAGES[1], key="a"))
    assert (keyed.json["logged"], keyed.seconds < TIMEOUT_S) == ("queued", True)
    proxy.thaw()
    wait_for_recovery(service)
    assert len(log.requests()) == 3


def test_a_full_outbox_refuses_requests_and_keeps_acknowledged_rows(log: PredictionsDatabase, start: Start) -> None:
    service = start(outbox_max_bytes=10_000)
    log.server.stop()
    responses = send_in_turn(service.port, [request(0, number) for number in range(80)], client_count=4)
    queued = [response for response in responses if response.status == 200]
    refusals = [response for response in responses if response.status != 200]
    assert queued
    assert {(response.status, response.error_code) for response in refusals} == {(503, "outbox_full")}
    assert all(int(response.headers["retry-after"]) > 0 for response in refusals)
    assert read_readiness(service)["error"]["code"] == "not_ready"
    assert sum(path.stat().st_size for path in outbox_files()) <= 10_000
    log.server.start()
    wait_for_recovery(service)
    assert sorted(log.requests()) == sorted(response.json["request_id"] for response in queued)
    assert send(service, upload_request("after", IMAGES[0])).json["logged"] == "committed"
