"""Live streams: across several services, an outage and a shutdown."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from programs import Service, query

from faults.clients import small_image
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric

ROW = "INSERT INTO predictions (image_name, score, result) VALUES ('<b>psql</b>', 0.1, 'No Anomaly')"
Events = Iterator[tuple[str, Any, str]]


@contextmanager
def watching(service: Service, **headers: str) -> Iterator[Events]:
    """The events of the stream: name, data and id."""

    def events() -> Events:
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields.keys() >= {"event", "data"}:
                yield fields["event"], json.loads(fields["data"]), fields.get("id", "")
                fields = {}

    with httpx2.stream("GET", f"{service.url}/live/events", headers=headers, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield events()


def first_id(events: Events) -> str:
    """The id of the first event."""
    name, data, id = next(events)  # noqa: A001
    assert (name, data["images"]) == ("news", 0)
    return id


def test_live_streams_cover_rows_of_other_services_outages_and_shutdown(log: PredictionsDatabase, start: Start) -> None:
    first, other = start(wait=False, shutdown_timeout_s=600), start(wait=False, max_watchers=1)
    for service in (first, other):
        service.wait_until(service.ready)
    with watching(first) as events:
        first_id(events)
        row = other.detect(small_image(0), "far away.jpg").json()
        name, data, id = next(events)  # noqa: A001
        assert (name, data["images"], id) == ("news", 1, str(row["id"]))
        assert "far away.jpg" in data["cards"]

        log.server.stop()
        assert next(events)[0] == "away"
        log.server.start()
        assert next(events)[:2] == ("news", data | {"images": 0, "out": 0, "cards": ""})
        query(log.url, ROW)
        assert "&lt;b&gt;psql&lt;/b&gt;" in next(events)[1]["cards"]
        check_that_a_disconnect_frees_the_slot(other)

        with watching(first, **{"Last-Event-ID": id}) as again:
            assert next(again)[1]["images"] == 1
            first.signal(signal.SIGTERM)
            assert list(events) == list(again) == []
    assert first.wait(60) == 0
    assert "Traceback" not in first.output


def check_that_a_disconnect_frees_the_slot(service: Service) -> None:
    with watching(service) as events:
        first_id(events)
        assert read_metric(service, "astrodetect_watchers") == 1
        refusal = httpx2.get(f"{service.url}/live/events")
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "overloaded")
        assert int(refusal.headers["retry-after"]) > 0
    service.wait_until(lambda: read_metric(service, "astrodetect_watchers") == 0)
    with watching(service) as events:
        first_id(events)
