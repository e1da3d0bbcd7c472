"""An Idempotency-Key gives one row and one response, however often and whenever it is sent."""

from faults.clients import send_at_once, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, outbox_is_empty, send

REPEATS = 100
M51 = upload_request("m51.jpg", small_image(51), key="night-7/m51")
M101 = upload_request("m101.jpg", small_image(101), key="night-7/m101")


def test_a_key_gives_one_row_across_repeats_restarts_and_outages(log: PredictionsDatabase, start: Start) -> None:
    service = start()
    first, *others = send_at_once(service.port, [M51] * REPEATS)
    assert first.status == 200
    assert {response.body for response in others} == {first.body}
    assert log.requests() == [first.json["request_id"]]
    conflict = send(service, upload_request("m51.jpg", small_image(52), key="night-7/m51"))
    assert (conflict.status, conflict.error_code) == (409, "idempotency_key_conflict")
    service.process.kill()

    service = start()
    assert send(service, M51).body == first.body

    log.server.stop()
    queued, *repeats = send_at_once(service.port, [M101] * REPEATS)
    assert (queued.status, queued.json["logged"]) == (200, "queued")
    assert {response.body for response in repeats} == {queued.body}
    assert send(service, M51).json["request_id"] == first.json["request_id"]
    conflict = send(service, upload_request("m101.jpg", small_image(102), key="night-7/m101"))
    assert (conflict.status, conflict.error_code) == (409, "idempotency_key_conflict")
    service.process.kill()

    service = start()  # finds the queued row in the outbox
    assert send(service, M101).body == queued.body
    log.server.start()
    service.wait_until(lambda: outbox_is_empty(service))
    assert log.requests() == [first.json["request_id"], queued.json["request_id"]]
    assert send(service, M51).body == first.body
    committed = send(service, M101).json
    assert committed == queued.json | {"id": committed["id"], "logged": "committed"}
