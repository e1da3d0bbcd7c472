"""Pages that watch: over several services, an outage, and the end."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from programs import Service, query

from faults.clients import picture
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, metric

ROW = "INSERT INTO predictions (image_name, score, result) VALUES ('<b>psql</b>', 0.1, 'No Anomaly')"
Events = Iterator[tuple[str, Any, str]]


@contextmanager
def watching(service: Service, **headers: str) -> Iterator[Events]:
    """What the service tells until it ends the stream: the event's name, its data and its id."""

    def events() -> Events:
        named: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, said = line.partition(": ")
                named[name] = said
            elif named.keys() >= {"event", "data"}:
                yield named["event"], json.loads(named["data"]), named.get("id", "")
                named = {}

    with httpx2.stream("GET", f"{service.url}/live/events", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events()


def begun(events: Events) -> str:
    """The id to go on from."""
    name, data, id = next(events)  # noqa: A001
    assert (name, data["images"]) == ("news", 0)
    return id


def test_two_services_tell_of_each_others_rows_of_an_outage_and_of_their_end(
    log: PredictionsDatabase, start: Start
) -> None:
    one, other = start(wait=False, shutdown_timeout_s=600), start(wait=False, max_watchers=1)
    for service in (one, other):
        service.wait_until(service.ready)
    with watching(one) as events:
        begun(events)
        row = other.detect(picture(0), "far away.jpg").json()
        name, data, id = next(events)  # noqa: A001
        assert (name, data["images"], id) == ("news", 1, str(row["id"]))
        assert "far away.jpg" in data["cards"]

        log.server.stop()
        assert next(events)[0] == "away"
        log.server.start()
        assert next(events)[:2] == ("news", data | {"images": 0, "out": 0, "cards": ""})
        query(log.url, ROW)
        assert "&lt;b&gt;psql&lt;/b&gt;" in next(events)[1]["cards"]
        who_leaves_makes_room(other)

        with watching(one, **{"Last-Event-ID": id}) as again:
            assert next(again)[1]["images"] == 1
            one.signal(signal.SIGTERM)
            assert list(events) == list(again) == []
    assert one.wait(60) == 0
    assert "Traceback" not in one.output


def who_leaves_makes_room(service: Service) -> None:
    with watching(service) as events:
        begun(events)
        assert metric(service, "astrodetect_watchers") == 1
        refused = httpx2.get(f"{service.url}/live/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
    service.wait_until(lambda: metric(service, "astrodetect_watchers") == 0)
    with watching(service) as events:
        begun(events)
