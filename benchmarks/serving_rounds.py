"""A round of `benchmarks.serving`: start our service and the naive one, load them in turns, measure, stop them."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
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

OURS, NAIVE = "astrodetect", "naive"
WARM_S = {1: 0.3, 8: 0.5, 32: 1.0}


@dataclass(frozen=True, slots=True)
class ServingBenchmark:
    """The model folder, a scratch folder, and a database for each service."""

    models: Path
    scratch: Path
    urls: dict[str, str]

    def run_round(self, seconds: dict[int, float], engine_s: float) -> dict[str, Any]:
        """The measurements of one round by service, and of the engine alone while both are idle."""
        results: dict[str, Any] = {NAIVE: {}, OURS: {}}
        rows_before = {name: count_rows(self.urls[name]) for name in (NAIVE, OURS)}
        with contextlib.ExitStack() as stack:
            running = {}
            for name in (NAIVE, OURS):
                running[name] = stack.enter_context(self._service(name))
                results[name] |= self._measure_start(name, running[name])
                results[name] |= {"load": {}, "answered": 1}
            for callers, lasting_s in seconds.items():
                for name, other in ((NAIVE, OURS), (OURS, NAIVE)):
                    report = self._load(running[name], running[other], callers, lasting_s)
                    results[name]["load"][callers] = report
                    results[name]["answered"] += sum(report["statuses"].values())
                    print_progress(
                        f"{name}, {callers} callers: {report['per_s']:.1f} requests/s, p50 {report['p50_ms']:.0f} ms"
                    )
            arguments = "--ours", "--json", "--seconds", str(engine_s), "--models", str(self.models)
            results["engine"] = json.loads(run_module("benchmarks.engine", *arguments).splitlines()[-1])
            print_progress(f"the engine alone: {results['engine']['images_per_s']:.1f} images/s")
            for name, service in running.items():
                peak_mb, pss_mb = hardware.memory_mb(service.process.pid)
                results[name] |= {"peak_rss_mb": peak_mb, "pss_mb": pss_mb}
        for name, before in rows_before.items():
            rows, answered = count_rows(self.urls[name]) - before, results[name]["answered"]
            if rows != answered:
                raise BenchmarkError(f"{name} sent {answered} responses and logged {rows} rows")
        return results

    def _service(self, name: str) -> ServiceProcess:
        environment = {"DATABASE_URL": self.urls[name]}
        if name == NAIVE:
            environment |= {"MODEL": str(self.models / f"{model.NAME}.h5")}
            return ServiceProcess("benchmarks.naive_service:app", environment, self.scratch / "naive.log")
        environment |= {
            "ASTRODETECT_MODELS_DIR": str(self.models),
            "ASTRODETECT_DATA_DIR": str(self.scratch / "data"),
            "ASTRODETECT_MODEL": model.NAME,
        }
        return ServiceProcess("main:app", environment, self.scratch / "astrodetect.log")

    def _measure_start(self, name: str, service: ServiceProcess) -> dict[str, float]:
        """Seconds from exec to ready (ours only) and to the first scored image."""
        times = {}
        if name == OURS:
            times["ready_s"] = service.wait_for_response(http_messages.get(f"{service.url}/health/ready"))
        image = jpegs(self.models / "images" / "test")[:1]
        times["first_answer_s"] = service.wait_for_response(http_messages.post(f"{service.url}/detect", image)[0])
        print_progress(f"{name}: first answer after {times['first_answer_s']:.2f} s")
        return times

    def _load(self, service: ServiceProcess, idle: ServiceProcess, callers: int, seconds: float) -> dict[str, Any]:
        """Load one service while the other is idle."""
        arguments: Sequence[str] = (
            f"{service.url}/detect", "--images", str(self.models / "images" / "test"), "--callers", str(callers),
            "--seconds", str(seconds), "--warm", str(WARM_S[callers]), "--json",
        )  # fmt: skip
        began, idle_before = time.perf_counter(), hardware.cpu_s(idle.process.pid)
        report: dict[str, Any] = json.loads(run_module("benchmarks.load", *arguments, may_fail=True))
        idle_s = hardware.cpu_s(idle.process.pid) - idle_before
        if set(report["statuses"]) != {"200"} or report["errors"]:
            raise BenchmarkError(
                f"{service.app} with {callers} callers: statuses {report['statuses']}, errors {report['errors']}\n"
                + service.log_tail()
            )
        return report | {"idle_cpu_share": idle_s / (time.perf_counter() - began) / hardware.cores()}


@contextlib.contextmanager
def databases(scratch: Path) -> Iterator[dict[str, str]]:
    """An empty PostgreSQL with a database for each service; ours is migrated."""
    folder = scratch / "postgres"
    with lifetime.embedded_server(folder, NAIVE) as naive, lifetime.embedded_server(folder, OURS) as ours:
        for url in (naive, ours):
            setup_db.create_database(url)
        setup_db.migrate(ours)
        yield {NAIVE: naive, OURS: ours}


def count_rows(url: str) -> int:
    """Rows of `predictions`; 0 if there is no such table."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('predictions') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return 0
        cursor.execute("SELECT count(*) FROM predictions")
        row = cursor.fetchone()
        return int(row[0]) if row else 0
