"""Prometheus metrics of the service."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter("requests", "Requests answered", "route", "status")
        self._request_seconds = self._histogram("request_seconds", "From a request to its response", SECONDS, "route")
        self._stage_seconds = self._histogram("stage_seconds", "Stages of a detection", SECONDS, "stage")
        self._batch_images = self._histogram("batch_images", "Images in one pass of the network", IMAGES)
        self._refused = self._counter("shed", "Requests refused because too many were in progress")
        self._rows = self._counter("rows", "Rows committed, queued, drained or rejected", "logged")

    def add_gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge that is read when the metrics are exported."""
        Gauge(f"astrodetect_{name}", meaning, registry=self._registry).set_function(read)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request and its duration."""
        self._requests.labels(route, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def refused(self) -> None:
        """Counts a request that was refused because too many were in progress."""
        self._refused.inc()

    def observe_stages(self, stages_s: Mapping[str, float]) -> None:
        """The durations of the stages of one detection."""
        for stage, seconds in stages_s.items():
            self._stage_seconds.labels(stage).observe(seconds)

    def observe_batch(self, images: int) -> None:
        """The size of a batch that the network ran on."""
        self._batch_images.observe(images)

    def count_rows(self, logged: str, rows: int) -> None:
        """Counts rows committed, queued in the outbox, drained from it, or rejected then."""
        self._rows.labels(logged).inc(rows)

    def export(self) -> bytes:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"astrodetect_{name}", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"astrodetect_{name}", meaning, labels, buckets=bounds, registry=self._registry)
