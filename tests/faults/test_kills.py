"""`kill -9` at random moments: every acknowledged row is in the table, once."""

import random
import signal
import time
from collections import Counter
from itertools import chain

from faults.clients import LoadClients, sha256, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, outbox_files, outbox_is_empty

IMAGES = [small_image(seed) for seed in range(16)]


def request(client: int, number: int) -> bytes:
    return upload_request(f"once-{client}-{number}.jpg", IMAGES[(client + number) % len(IMAGES)])


def keyed(client: int, number: int) -> bytes:
    name = f"keyed-{client}-{number}.jpg"
    return upload_request(name, IMAGES[(client + number) % len(IMAGES)], key=name)


def test_kills_under_load_lose_no_acknowledged_row(log: PredictionsDatabase, start: Start, full: bool) -> None:
    kills, moments = 200 if full else 8, random.Random(17)
    outages = {kill for kill in range(kills) if kill % 5 in (2, 3)}  # PostgreSQL is down when the process is killed
    service = start()
    with (
        LoadClients(service.port, request, 6) as clients,
        LoadClients(service.port, keyed, 4, repeat_lost=True) as repeating_clients,
    ):
        for kill in range(kills):
            if kill in outages and kill - 1 not in outages:
                log.server.stop()
            elif kill not in outages and kill - 1 in outages:
                log.server.start()
            time.sleep(moments.uniform(0, 0.6))
            service.signal(signal.SIGKILL)
            service.wait()
            service = start(wait=moments.random() < 0.7)  # some are killed during start-up
            clients.port = repeating_clients.port = service.port
        log.server.start()
        service.wait_until(service.ready)
    service.wait_until(lambda: outbox_is_empty(service))
    assert outbox_files() == []

    rows = {request_id: (name, sha) for request_id, name, sha in log.rows()}
    assert clients.lost
    assert repeating_clients.lost
    for call in chain(clients.calls, repeating_clients.calls):
        assert call.response.status == 200, call.response.body
        body = call.response.json
        image = sha256(IMAGES[(call.client + call.number) % len(IMAGES)])
        assert rows[body["request_id"]] == (body["image_name"], body["image_sha256"])
        assert body["image_sha256"] == image
    assert set(Counter(name for name, _ in rows.values()).values()) == {1}
    assert len(rows) <= len(clients.calls) + len(repeating_clients.calls) + len(clients.lost)
    request_ids = {call.response.json["request_id"] for call in repeating_clients.calls}
    assert (
        len(request_ids) == len(repeating_clients.calls) == sum(name.startswith("keyed") for name, _ in rows.values())
    )
