"""What the service measures of itself, for Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
IMAGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        ProcessCollector(registry=self._all)
        self._requests = self._counter("requests", "Requests answered", "route", "status")
        self._took = self._histogram("request_seconds", "From a request to its answer", SECONDS, "route")
        self._stages = self._histogram("stage_seconds", "Parts of a detection", SECONDS, "stage")
        self._batches = self._histogram("batch_images", "Images in one pass of the network", IMAGES)
        self._refused = self._counter("shed", "Requests refused because too many were at work")
        self._rows = self._counter("rows", "Rows, by where they went", "logged")

    def watch(self, name: str, meaning: str, now: Callable[[], float]) -> None:
        """A figure that is asked for when somebody looks."""
        Gauge(f"astrodetect_{name}", meaning, registry=self._all).set_function(now)

    def answered(self, route: str, status: int, took_s: float) -> None:
        """One request."""
        self._requests.labels(route, status).inc()
        self._took.labels(route).observe(took_s)

    def shed(self) -> None:
        """One request that was refused because too many were at work."""
        self._refused.inc()

    def detected(self, stages_s: Mapping[str, float]) -> None:
        """Where one detection spent its time."""
        for stage, seconds in stages_s.items():
            self._stages.labels(stage).observe(seconds)

    def passed(self, images: int) -> None:
        """One pass of the network."""
        self._batches.observe(images)

    def recorded(self, logged: str, rows: int) -> None:
        """Rows committed, queued in the outbox, or drained from it."""
        self._rows.labels(logged).inc(rows)

    def shown(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self._all)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"astrodetect_{name}", meaning, labels, registry=self._all)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"astrodetect_{name}", meaning, labels, buckets=bounds, registry=self._all)
