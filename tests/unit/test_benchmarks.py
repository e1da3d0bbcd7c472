"""The benchmarks' own tools: the load generator and its report."""

import http.server
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import engine, load, serving, serving_rounds
from benchmarks import http_messages as wire
from benchmarks.load_generator import LoadGenerator
from benchmarks.load_report import LoadReport, Response

WAITS_S = {"/slow": 0.2, "/silent": 3.0}


class Handler(http.server.BaseHTTPRequestHandler):
    """Echoes the length of what it got; refuses, hangs up or dawdles by path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hangup":
            self.close_connection = True
            return
        if self.path in WAITS_S:
            time.sleep(WAITS_S[self.path])
        answer = str(len(body)).encode()
        self.send_response(503 if self.path == "/busy" else 200)
        self.send_header("content-length", str(len(answer)))
        if self.path == "/closing":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A small server that keeps connections open."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def called(url: str, seconds: float = 0.3, *, callers: int = 3, size: int = 12_000, **options: object) -> LoadReport:
    """A short run."""
    requests = wire.post(url, [("a.jpg", b"x" * size), ("b.jpg", b"y" * size)])
    return LoadGenerator(url, requests, count=callers, keep=True, **options).run(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize(("path", "size"), [("/detect", 12_000), ("/closing", 12_000), ("/detect", 3_000_000)])
def test_the_load_generator_matches_every_request_with_its_response(url: str, path: str, size: int) -> None:
    report = called(url + path, size=size)
    assert report.ok
    assert len(report.kept) == sum(report.statuses.values()) > 3
    whole = len(wire.post(url + path, [("a.jpg", b"x" * size)])[0].partition(b"\r\n\r\n")[2])
    assert {response.body for response in report.kept} == {str(whole).encode()}


def test_a_status_other_than_200_fails_the_load_report(url: str) -> None:
    report = called(f"{url}/busy")
    assert set(report.statuses) == {503}
    assert not report.ok
    assert "FAILED" in report.as_text()


def test_callers_stop_or_reconnect_after_a_closed_connection(url: str) -> None:
    assert sum(called(f"{url}/hangup").errors.values()) == 3
    assert sum(called(f"{url}/hangup", reconnect=True).errors.values()) > 3


def test_an_open_loop_sends_at_its_rate_and_counts_latency_from_the_due_time(url: str) -> None:
    steady = called(f"{url}/detect", 1.0, rate=50)
    assert sum(steady.statuses.values()) + steady.unsent == 50
    swamped = called(f"{url}/slow", 0.6, callers=1, rate=20)
    assert swamped.unsent > 0
    latest = max(swamped.kept, key=lambda answer: answer.due)
    assert latest.latency_s > 0.3  # 0.2 s of work, and the wait for the only caller


def test_a_response_that_never_comes_is_an_error(url: str) -> None:
    report = called(f"{url}/silent", callers=1, timeout_s=0.1)
    assert report.errors == {"no response in time": 1}
    assert not report.ok


def test_latency_counts_requests_due_in_the_window_and_throughput_responses_in_it() -> None:
    answers = [Response(0.0, 1.5, 200, b""), Response(1.2, 0.4, 200, b""), Response(1.8, 9.0, 200, b"")]
    report = LoadReport.of(
        answers,
        window=(1.0, 2.0),
        callers=1,
        rate=None,
        statuses={200: 3},
        errors={},
        unsent=0,
        cpu_us=1.0,
        cpu_share=0.0,
        keep=False,
    )
    assert (report.answers, report.per_s) == (2, 2.0)
    assert (report.p50_ms, report.p99_ms) == (400.0, 9000.0)


def test_a_load_report_without_responses_has_no_latency_and_fails() -> None:
    empty = LoadReport.of(
        [],
        window=(0.0, 1.0),
        callers=1,
        rate=None,
        statuses={},
        errors={},
        unsent=0,
        cpu_us=0.0,
        cpu_share=0.0,
        keep=False,
    )
    assert math.isnan(empty.p50_ms)
    assert not empty.ok


@pytest.mark.parametrize(
    ("received", "parsed"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Len", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\nCONTENT-length: 3\r\n\r\nabc", (200, b"abc", False)),
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", (503, b"", True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", False)),
    ],
)
def test_http_responses_are_parsed_once_complete(received: bytes, parsed: tuple[int, bytes, bool] | None) -> None:
    assert wire.parse(received) == parsed


def test_a_quick_run_measures_litserve_alone_of_the_batching_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    assert serving_rounds.services(full=True, quick=True) == ["naive", "litserve", "astrodetect", "astrodetect_full"]
    assert serving_rounds.services(full=False, quick=False) == ["naive", "litserve", "bentoml", "astrodetect"]


def test_the_serving_report_compares_ours_with_each_peer() -> None:
    def service(per_s: float, p50_ms: float) -> dict[str, Any]:
        load = {"per_s": per_s, "p50_ms": p50_ms, "p99_ms": 2 * p50_ms}
        load |= {"cpu_share": 0.01, "cpu_us": 50.0, "service_cpu_ms": 1000 / per_s}
        memory = {"peak_rss_mb": 300.0, "pss_mb": 200.0}
        return memory | {"first_answer_s": 1.0, "ready_s": 0.9, "load": {1: load, 32: load}}

    engine = {"images_per_s": 1800.0, "precision": "int8", "streams": 2, "batch": 16}
    peers = {"naive": service(10, 80.0), "litserve": service(500, 9.0), "bentoml": service(300, 6.0)}
    ours = {"astrodetect": service(900, 3.0), "astrodetect_full": service(600, 6.0)}
    report = serving.summarise([peers | ours | {"engine": engine}])
    assert report["throughput_ratio_32"] == 90
    assert (report["litserve_ratio_32"], report["litserve_p50_ratio_1"]) == (1.8, 3)
    assert (report["full_litserve_ratio_32"], report["bentoml_ratio_32"], report["full_bentoml_p50_ratio_1"]) == (
        1.2,
        3,
        1,
    )
    assert report["full_bentoml_cpu_ratio_32"] == pytest.approx(2)
    line = serving.peer_line(report, "litserve")
    assert line.startswith("litserve: 500.0, 500.0 requests/s, p50 9.0, 9.0 ms and 2.0, 2.0 ms of the processor")
    assert "2.00, 2.00 times the requests/s of bentoml" in serving.peer_line(report, "astrodetect_full")
    without = serving.summarise([{"naive": peers["naive"], "astrodetect": ours["astrodetect"], "engine": engine}])
    assert "litserve_ratio_32" not in without


@pytest.mark.parametrize(
    ("program", "arguments"),
    [(serving.main, ["--size", "big"]), (engine.main, ["--precision", "f8"]), (load.main, ["--callers", "2"])],
)
def test_invalid_benchmark_options_are_usage_errors(program: object, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program(arguments)  # type: ignore[operator]
    assert ended.value.code == 2
