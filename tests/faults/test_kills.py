"""`kill -9` at any moment: what was acknowledged is in the table, and nothing is there twice."""

import random
import signal
import time
from collections import Counter
from itertools import chain

from faults.clients import LoadClients, picture, sha256, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, drained, outbox_files

PICTURES = [picture(seed) for seed in range(16)]


def request(caller: int, number: int) -> bytes:
    return upload(f"once-{caller}-{number}.jpg", PICTURES[(caller + number) % len(PICTURES)])


def keyed(caller: int, number: int) -> bytes:
    name = f"keyed-{caller}-{number}.jpg"
    return upload(name, PICTURES[(caller + number) % len(PICTURES)], key=name)


def test_killed_under_load_at_random_moments_it_loses_no_acknowledged_row(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    kills, moments = 200 if full else 8, random.Random(17)
    away = {kill for kill in range(kills) if kill % 5 in (2, 3)}  # PostgreSQL is not there when the process is killed
    service = start()
    with LoadClients(service.port, request, 6) as crowd, LoadClients(service.port, keyed, 4, insist=True) as insistent:
        for kill in range(kills):
            if kill in away and kill - 1 not in away:
                log.server.stop()
            elif kill not in away and kill - 1 in away:
                log.server.start()
            time.sleep(moments.uniform(0, 0.6))
            service.signal(signal.SIGKILL)
            service.wait()
            service = start(wait=moments.random() < 0.7)  # some are killed while they start
            crowd.port = insistent.port = service.port
        log.server.start()
        service.wait_until(service.ready)
    service.wait_until(lambda: drained(service))
    assert outbox_files() == []

    rows = {request_id: (name, sha) for request_id, name, sha in log.rows()}
    assert crowd.lost
    assert insistent.lost
    for call in chain(crowd.calls, insistent.calls):
        assert call.answer.status == 200, call.answer.body
        said = call.answer.said
        image = sha256(PICTURES[(call.caller + call.number) % len(PICTURES)])
        assert rows[said["request_id"]] == (said["image_name"], said["image_sha256"])
        assert said["image_sha256"] == image
    assert set(Counter(name for name, _ in rows.values()).values()) == {1}
    assert len(rows) <= len(crowd.calls) + len(insistent.calls) + len(crowd.lost)
    insisted = {call.answer.said["request_id"] for call in insistent.calls}
    assert len(insisted) == len(insistent.calls) == sum(name.startswith("keyed") for name, _ in rows.values())
