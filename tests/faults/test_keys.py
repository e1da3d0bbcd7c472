"""An Idempotency-Key: one row and one answer, however often and whenever it comes."""

from faults.clients import picture, together, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, asked, drained

REPEATS = 100
M51 = upload("m51.jpg", picture(51), key="night-7/m51")
M101 = upload("m101.jpg", picture(101), key="night-7/m101")


def test_a_key_makes_one_row_and_one_answer_at_once_after_a_restart_and_while_postgresql_is_away(
    log: PredictionsDatabase, start: Start
) -> None:
    service = start()
    first, *others = together(service.port, [M51] * REPEATS)
    assert first.status == 200
    assert {answer.body for answer in others} == {first.body}
    assert log.requests() == [first.said["request_id"]]
    conflict = asked(service, upload("m51.jpg", picture(52), key="night-7/m51"))
    assert (conflict.status, conflict.code) == (409, "idempotency_key_conflict")
    service.process.kill()

    service = start()
    assert asked(service, M51).body == first.body

    log.server.stop()
    one, *more = together(service.port, [M101] * REPEATS)
    assert (one.status, one.said["logged"]) == (200, "queued")
    assert {answer.body for answer in more} == {one.body}
    assert asked(service, M51).said["request_id"] == first.said["request_id"]
    conflict = asked(service, upload("m101.jpg", picture(102), key="night-7/m101"))
    assert (conflict.status, conflict.code) == (409, "idempotency_key_conflict")
    service.process.kill()

    service = start()  # what it queued it knows from the disk
    assert asked(service, M101).body == one.body
    log.server.start()
    service.wait_until(lambda: drained(service))
    assert log.requests() == [first.said["request_id"], one.said["request_id"]]
    assert asked(service, M51).body == first.body
    then = asked(service, M101).said
    assert then == one.said | {"id": then["id"], "logged": "committed"}
