"""Replicas on one PostgreSQL behind HAProxy as it is shipped: one is killed, one drains, one is new; a new model comes.

The short version lasts a quarter of a minute, --full a minute. `--log-cli-level=WARNING` shows the measurements.
"""

import itertools
import logging
import re
import shutil
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import colour_models
import httpx2
import pytest
from programs import Service, query

from faults.clients import LoadClients, Response, p99, small_image, upload_request
from faults.haproxy import HAProxy
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric
from faults.test_live import watching

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")

CLIENTS, REVIEWERS, REPLICAS = 8, 4, 3
SHORT_S, FULL_S = 8.0, 60.0
DRAIN_S = 3.0  # HAProxy notices within two
NOTICED_WITHIN_S = 15.0  # a new model by every replica, on a machine that is busy
IMAGES = [small_image(seed) for seed in range(300)]
BY, NAME = "novelty", "resnet50_model"
LAST_ROW = "INSERT INTO predictions (image_name, score, result) VALUES ('the last row', 0.1, 'No Anomaly')"

log_figures = logging.getLogger(__name__)


def request(client: int, number: int) -> bytes:
    return upload_request(f"{client}-{number}.jpg", IMAGES[(37 * client + number) % len(IMAGES)])


def version(response: Response) -> str:
    return str(response.json["model_version"])


@dataclass
class Reviewers:
    """People who label images through the load balancer, each with the next one as soon as the last is labelled."""

    url: str
    database_url: str
    shown: dict[int, str] = field(default_factory=dict)  # image by reviewer
    problems: list[str] = field(default_factory=list)

    def __enter__(self) -> "Reviewers":
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._review, args=(number,)) for number in range(REVIEWERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _review(self, number: int) -> None:
        with httpx2.Client(base_url=self.url, timeout=30, follow_redirects=True) as browser:
            browser.get("/review", params={"by": BY})  # sets the cookie
            while not self._stop.wait(0.2):
                with suppress(httpx2.TransportError):  # a label that the killed replica was storing: it is given again
                    self._label_next(browser, number)

    def _label_next(self, browser: httpx2.Client, number: int) -> None:
        page = browser.get("/review", params={"by": BY})
        if not (found := re.search(r'name="id" value="(\d+)"', page.text)):
            return
        [(image,)] = query(self.database_url, "SELECT image_sha256 FROM predictions WHERE id = %s", found[1])
        with self._lock:
            if image in self.shown.values():
                self.problems.append(f"two reviewers have {image}")
            self.shown[number] = image
        self._stop.wait(0.1)
        with self._lock:
            del self.shown[number]
        browser.post("/review/label", data={"id": found[1], "label": "ordinary", "by": BY})


class LiveWatcher:
    """Counts the images that the live feed of one replica announces."""

    def __init__(self, service: Service, database_url: str) -> None:
        self._service, self._database_url, self.images = service, database_url, 0

    def __enter__(self) -> "LiveWatcher":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._service.wait_until(lambda: read_metric(self._service, "astrodetect_watchers") == 1)
        return self

    def __exit__(self, *_: object) -> None:
        """When the load has ended: waits for what is not announced yet."""
        query(self._database_url, LAST_ROW)
        self._thread.join()

    def _watch(self) -> None:
        with watching(self._service) as events:
            for name, data, _ in events:
                self.images += data["images"] if name == "news" else 0
                if name == "news" and "the last row" in data["cards"]:
                    self.images -= 1
                    return


@dataclass
class Cluster:
    """Replicas that share a database and a models folder, and the load balancer before them."""

    replicas: list[Service]
    proxy: HAProxy
    models: Path
    start_replica: Callable[[], Service]

    def kill_and_drain_one_each(self, pause_s: float) -> None:
        """Kills the first replica, drains the second, and starts a new one meanwhile."""
        killed, drained, other = self.replicas
        killed.signal(signal.SIGKILL)
        killed.wait()
        time.sleep(pause_s)
        drained.signal(signal.SIGTERM)
        new = self.start_replica()
        self.proxy.use_spare(new)
        assert drained.wait(60) == 0
        new.wait_until(new.ready)
        self.replicas = [other, new]
        self.proxy.wait_until_up(2)

    def publish(self) -> tuple[str, float]:
        """Publishes a model once; its version, and how long until every replica serves it."""
        version = colour_models.publish(self.models, NAME, colour_models.TWO_CLASSES, scale=0.03).version
        began = time.monotonic()
        self.replicas[0].wait_until(lambda: self._serving_versions() == {version}, NOTICED_WITHIN_S)
        return version, time.monotonic() - began

    def _serving_versions(self) -> set[str]:
        answers = [httpx2.get(f"{service.url}/models", timeout=30).json() for service in self.replicas]
        return {model["version"] if model["serving"] else "" for models in answers for model in models[:1]}


@pytest.fixture
def cluster(start: Start, colour_models_dir: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Each replica has a data folder of its own."""
    models = Path(shutil.copytree(colour_models_dir, tmp_path / "models", ignore=shutil.ignore_patterns("colours*")))
    numbers = itertools.count()

    def start_replica() -> Service:
        return start(wait=False, models_dir=models, data_dir=tmp_path / f"data {next(numbers)}", drain_s=DRAIN_S)

    replicas = [start_replica() for _ in range(REPLICAS)]
    for service in replicas:
        service.wait_until(service.ready)
    with HAProxy([service.port for service in replicas], spare=1, log=tmp_path / "haproxy.log") as proxy:
        proxy.wait_until_up(REPLICAS)
        yield Cluster(replicas, proxy, models, start_replica)


def test_replicas_behind_haproxy_lose_nothing_when_one_is_killed_and_one_drains(
    log: PredictionsDatabase, cluster: Cluster, full: bool
) -> None:
    duration_s = FULL_S if full else SHORT_S
    began = time.monotonic()
    with (
        LiveWatcher(cluster.replicas[-1], log.url) as live,
        LoadClients(cluster.proxy.port, request, CLIENTS) as clients,
        Reviewers(cluster.proxy.url, log.url) as reviewers,
    ):
        time.sleep(duration_s / 4)
        killed_at = time.monotonic()
        cluster.kill_and_drain_one_each(pause_s=duration_s / 8)
        before = {version(response) for response in clients.responses()}
        published, noticed_s = cluster.publish()
        noticed_at = time.monotonic()
        time.sleep(max(1.0, began + duration_s - noticed_at))
    took_s = time.monotonic() - began

    responses = clients.responses()
    assert clients.lost == []
    assert Counter(response.status for response in responses) == {200: len(responses)}
    assert sorted(log.requests()[:-1]) == sorted(response.json["request_id"] for response in responses)
    assert all(response.headers["x-request-id"] == response.json["request_id"] for response in responses)
    assert before != {version(response) for response in clients.responses(since=noticed_at)} == {published}

    assert reviewers.problems == []
    labels = query(
        log.url, "SELECT image_sha256, count(*) FROM labels JOIN predictions p ON p.id = prediction_id GROUP BY 1"
    )
    assert labels
    assert [image for image, count in labels if count > 1] == []
    assert live.images == len(responses)

    around_kill = clients.responses(since=killed_at - 0.5, until=killed_at + 5)
    log_figures.warning(
        "%d requests in %.0f s (%.0f/s), p50 %.0f ms, p99 %.0f ms; longest around the kill %.0f ms; "
        "%d repeated by HAProxy; a new model serves everywhere after %.1f s; %d labels by %d reviewers",
        len(responses),
        took_s,
        len(responses) / took_s,
        1000 * statistics.median(response.seconds for response in responses),
        1000 * p99(responses),
        1000 * max(response.seconds for response in around_kill),
        cluster.proxy.repeated(),
        noticed_s,
        len(labels),
        REVIEWERS,
    )
