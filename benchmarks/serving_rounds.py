"""A round of `benchmarks.serving`: start our service and its peers, load them in turns, measure, stop them."""

import contextlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

import setup_db
from astrodetect.db.embedded import lifetime
from benchmarks import hardware, http_messages, model
from benchmarks.load import jpegs
from benchmarks.processes import BenchmarkError, ServiceProcess, print_progress, run_module

OURS, FULL, NAIVE, LITSERVE, BENTOML = "astrodetect", "astrodetect_full", "naive", "litserve", "bentoml"
BATCHING_PEERS = (LITSERVE, BENTOML)  # each served by benchmarks.NAME_service
INSTALL_PEERS = "python -m pip install -r benchmarks/requirements.txt"
WARM_S = {1: 1.5, 8: 0.5, 32: 1.0}  # 1: ours compiles its network for lone images meanwhile


def services(*, full: bool, quick: bool) -> list[str]:
    """What is measured: the installed peers, in a quick run LitServe alone, and ours, with everything on if asked."""
    peers = [LITSERVE] if quick else BATCHING_PEERS
    names = [NAIVE, *(name for name in peers if importlib.util.find_spec(name)), OURS]
    return [*names, FULL] if full else names


@dataclass(frozen=True, slots=True)
class ServingBenchmark:
    """The model folder, one with detectors, a scratch folder, and the database of each service."""

    models: Path
    models_with_detectors: Path | None
    scratch: Path
    urls: dict[str, str]

    def run_round(self, seconds: dict[int, float], engine_s: float) -> dict[str, Any]:
        """The measurements of one round by service, and of the engine alone while all are idle."""
        results: dict[str, Any] = {name: {} for name in self.urls}
        rows_before = {name: count_rows(url) for name, url in self.urls.items()}
        with contextlib.ExitStack() as stack:
            running: dict[str, ServiceProcess] = {}
            for name in self.urls:
                with suspended(running.values()):
                    started = stack.enter_context(self._service(name))
                    results[name] |= self._measure_start(name, started)
                running[name] = started
                results[name] |= {"load": {}, "answered": 1}
            for callers, lasting_s in seconds.items():
                for name in self.urls:
                    report = self._load(running, name, callers, lasting_s)
                    results[name]["load"][callers] = report
                    results[name]["answered"] += sum(report["statuses"].values())
                    print_progress(
                        f"{name}, {callers} callers: {report['per_s']:.1f} requests/s, p50 {report['p50_ms']:.1f} ms"
                    )
            arguments = "--ours", "--json", "--seconds", str(engine_s), "--models", str(self.models)
            with suspended(running.values()):
                results["engine"] = json.loads(run_module("benchmarks.engine", *arguments).splitlines()[-1])
            print_progress(f"the engine alone: {results['engine']['images_per_s']:.1f} images/s")
            for name, service in running.items():
                peak_mb, pss_mb = hardware.memory_mb(service.process.pid)
                results[name] |= {"peak_rss_mb": peak_mb, "pss_mb": pss_mb}
            for service in running.values():  # they end side by side
                service.ask_to_end()
        for name, before in rows_before.items():
            rows, answered = count_rows(self.urls[name]) - before, results[name]["answered"]
            if rows != answered:
                raise BenchmarkError(f"{name} sent {answered} responses and logged {rows} rows")
        return results

    def _service(self, name: str) -> ServiceProcess:
        environment, log = {"DATABASE_URL": self.urls[name]}, self.scratch / f"{name}.log"
        if name == NAIVE:
            environment |= {"MODEL": str(self.models / f"{model.NAME}.h5")}
            return ServiceProcess("benchmarks.naive_service:app", environment, log)
        if name in BATCHING_PEERS:
            int8 = self.models / f"{model.NAME}.int8.xml"
            environment |= {"MODEL": str(int8 if int8.exists() else self.models / f"{model.NAME}.xml")}
            return ServiceProcess(f"benchmarks.{name}_service", environment, log)
        environment |= {
            "ASTRODETECT_MODELS_DIR": str(self.models_with_detectors if name == FULL else self.models),
            "ASTRODETECT_DATA_DIR": str(self.scratch / name),
            "ASTRODETECT_MODEL": model.NAME,
        }
        if self.models_with_detectors and name == OURS:  # the peers have none either
            environment["ASTRODETECT_THUMBNAIL_MAX_BYTES"] = "0"
        return ServiceProcess("main:app", environment, log)

    def _measure_start(self, name: str, service: ServiceProcess) -> dict[str, float]:
        """Seconds from exec to ready (ours only) and to the first scored image."""
        times = {}
        if name in {OURS, FULL}:
            times["ready_s"] = service.wait_for_response(http_messages.get(f"{service.url}/health/ready"))
        image = jpegs(self.models / "images" / "test")[:1]
        times["first_answer_s"] = service.wait_for_response(http_messages.post(f"{service.url}/detect", image)[0])
        print_progress(f"{name}: first answer after {times['first_answer_s']:.2f} s")
        return times

    def _load(self, running: dict[str, ServiceProcess], name: str, callers: int, seconds: float) -> dict[str, Any]:
        """Load one service while the others are suspended."""
        service = running[name]
        arguments: Sequence[str] = (
            f"{service.url}/detect", "--images", str(self.models / "images" / "test"), "--callers", str(callers),
            "--seconds", str(seconds), "--warm", str(WARM_S[callers]), "--json",
        )  # fmt: skip
        before = hardware.cpu_s(service.process.pid)
        with suspended(other for other in running.values() if other is not service):
            report: dict[str, Any] = json.loads(run_module("benchmarks.load", *arguments, may_fail=True))
        if set(report["statuses"]) != {"200"} or report["errors"]:
            raise BenchmarkError(
                f"{service.app} with {callers} callers: statuses {report['statuses']}, errors {report['errors']}\n"
                + service.log_tail()
            )
        cpu_ms = 1000 * (hardware.cpu_s(service.process.pid) - before) / report["statuses"]["200"]
        return report | {"service_cpu_ms": cpu_ms}


@contextlib.contextmanager
def suspended(services: Iterable[ServiceProcess]) -> Iterator[None]:
    """Suspends their processes: those of LitServe poll, which takes a fifth of a core from what is measured."""
    processes = [process for service in services for process in hardware.family(service.process.pid)]
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in processes:
            process.resume()


@contextlib.contextmanager
def databases(scratch: Path, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """An empty PostgreSQL with a database for each service; ours are migrated."""
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(lifetime.embedded_server(scratch / "postgres", name)) for name in names}
        for name, url in urls.items():
            setup_db.create_database(url)
            if name in {OURS, FULL}:
                setup_db.migrate(url)
        yield urls


def count_rows(url: str) -> int:
    """Rows of `predictions`; 0 if there is no such table."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('predictions') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return 0
        cursor.execute("SELECT count(*) FROM predictions")
        row = cursor.fetchone()
        return int(row[0]) if row else 0
