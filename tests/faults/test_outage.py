"""PostgreSQL away: predictions are answered all the same, and every one has its row afterwards, in order."""

import time
from collections.abc import Iterator

import pytest
from programs import Service

from faults.clients import LoadClients, in_turn, picture, upload
from faults.postgres_process import PredictionsDatabase, TcpProxy
from faults.service_state import Start, asked, drained, metric, outbox_files, readiness

PICTURES = [picture(seed) for seed in range(16)]


def request(caller: int, number: int) -> bytes:
    return upload(f"{caller}-{number}.jpg", PICTURES[(caller + number) % len(PICTURES)])


def has_each_answer_once_in_order(log: PredictionsDatabase, crowd: LoadClients) -> None:
    """The table holds what was answered, all of it and nothing more."""
    assert not crowd.lost
    assert {call.answer.status for call in crowd.calls} == {200}
    place = {request_id: place for place, request_id in enumerate(log.requests())}
    assert len(place) == len(log.requests()) == len(crowd.calls)
    of_caller: dict[int, list[int]] = {}
    for call in crowd.calls:
        of_caller.setdefault(call.caller, []).append(place[call.answer.said["request_id"]])
    assert all(places == sorted(places) for places in of_caller.values())
    assert log.in_order()
    image = {name: sha for _, name, sha in log.rows()}
    assert all(image[call.answer.said["image_name"]] == call.answer.said["image_sha256"] for call in crowd.calls)


def comes_back(service: Service) -> None:
    """Nothing waits any more, on disk or in memory, and rows go straight to the table again."""
    service.wait_until(lambda: drained(service))
    assert outbox_files() == []
    assert metric(service, "astrodetect_outbox_rows") == 0


def test_postgresql_away_under_load_costs_no_answer_and_no_row(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    callers, before_s, away_s = (32, 20.0, 20.0) if full else (8, 0.7, 1.5)
    service = start()
    with LoadClients(service.port, request, callers) as crowd:
        for stop in (log.server.stop, log.server.crash):
            time.sleep(before_s)
            stop()
            began = time.monotonic()
            time.sleep(away_s)
            ready = readiness(service)
            assert (ready["status"], ready["logged"]) == ("ready", "queued")
            assert ready["outbox"] > 0
            assert metric(service, "astrodetect_outbox_rows") >= ready["outbox"]
            away = crowd.answers(began, time.monotonic())
            assert len(away) > callers
            found = {(answer.status, answer.said["logged"], answer.said["id"]) for answer in away}
            assert found == {(200, "queued", None)}
            log.server.start()
            service.wait_until(lambda: drained(service))  # however busy it is
    comes_back(service)
    has_each_answer_once_in_order(log, crowd)
    assert asked(service, upload("after", PICTURES[0])).said["logged"] == "committed"
    assert "Traceback" not in service.output


@pytest.fixture
def wire(log: PredictionsDatabase) -> Iterator[TcpProxy]:
    wire = TcpProxy(log.server)
    yield wire
    wire.close()


def test_a_postgresql_that_hangs_costs_no_answer_and_no_row(
    wire: TcpProxy, log: PredictionsDatabase, start: Start, full: bool
) -> None:
    callers, before_s, away_s = (32, 20.0, 20.0) if full else (8, 0.7, 3.5)
    service = start(url=wire.url(log.database), database_timeout_s=1)
    with LoadClients(service.port, request, callers) as crowd:
        time.sleep(before_s)
        wire.freeze()
        time.sleep(away_s)
        assert readiness(service)["logged"] == "queued"
        wire.thaw()
        time.sleep(before_s)
    comes_back(service)
    has_each_answer_once_in_order(log, crowd)
    assert "queued" in {call.answer.said["logged"] for call in crowd.calls}


def test_a_full_outbox_is_refused_in_time_and_what_was_acknowledged_is_there(
    log: PredictionsDatabase, start: Start
) -> None:
    service = start(outbox_max_bytes=10_000)
    log.server.stop()
    answers = in_turn(service.port, [request(0, number) for number in range(80)], callers=4)
    queued = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert queued
    assert {(answer.status, answer.code) for answer in refused} == {(503, "outbox_full")}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert readiness(service)["error"]["code"] == "not_ready"
    assert sum(path.stat().st_size for path in outbox_files()) <= 10_000
    log.server.start()
    comes_back(service)
    assert sorted(log.requests()) == sorted(answer.said["request_id"] for answer in queued)
    assert asked(service, upload("after", PICTURES[0])).said["logged"] == "committed"
