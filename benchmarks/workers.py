"""`python -m benchmarks.workers`: the service with one worker beside several, on one machine.

Each number of workers is started in turn, in alternating order, with the same model, PostgreSQL and callers. Beside
requests/s and latency the processor time for each image is in the report: other load on the machine changes it least.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astrodetect.errors import AstrodetectError
from benchmarks import hardware, http_messages, model
from benchmarks.processes import BenchmarkError, ServiceProcess, exit_on_signals, print_progress, run_module
from benchmarks.serving_rounds import OURS, databases

STARTED = "Application startup complete"
START_WITHIN_S = 120.0
WARM_S = 1.0
FIGURES = ("per_s", "p50_ms", "p99_ms", "cpu_ms")

Run = tuple[int, int]  # workers and callers


def main(argv: list[str] | None = None) -> int:
    """Measure and print: exit code 0 done, 1 failed, 130 interrupted."""
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=summary)
    add = parser.add_argument
    add("--size", type=int, default=model.SIZE, help="side of the network's input, pixels (default: 227)")
    add("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers (default: 1 2)")
    add("--callers", type=int, nargs="+", default=[1, 16, 32], help="numbers of callers (default: 1 16 32)")
    add("--seconds", type=float, default=4.0, help="of each measurement (default: 4)")
    add("--rounds", type=int, default=3, help="of which the medians are shown (default: 3)")
    arguments = parser.parse_args(argv)
    try:
        with exit_on_signals():
            results = measure(arguments)
    except (BenchmarkError, AstrodetectError) as failed:
        print_progress(f"workers: {failed}")
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{'workers':>8}{'callers':>9}{'requests/s':>12}{'p50, ms':>10}{'p99, ms':>10}{'CPU ms/image':>14}")
    for (workers, callers), runs in sorted(results.items(), key=lambda item: item[0][::-1]):
        per_s, p50, p99, cpu_ms = (statistics.median(run[name] for run in runs) for name in FIGURES)
        print(f"{workers:>8}{callers:>9}{per_s:>12.1f}{p50:>10.1f}{p99:>10.1f}{cpu_ms:>14.1f}")
    machine = hardware.describe()
    print(f"{machine['cores']} cores of {machine['processor']}, {machine['date'][:10]}")
    return 0


def measure(arguments: argparse.Namespace) -> dict[Run, list[dict[str, Any]]]:
    """The measurements of every round."""
    print_progress("preparing the model")
    models = Path(run_module("benchmarks.model", "--size", str(arguments.size)).splitlines()[-1])
    results: dict[Run, list[dict[str, Any]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="astrodetect-benchmark-", ignore_cleanup_errors=True) as scratch,
        databases(Path(scratch), [OURS]) as urls,
    ):
        environment = {
            "DATABASE_URL": urls[OURS],
            "ASTRODETECT_MODELS_DIR": str(models),
            "ASTRODETECT_DATA_DIR": str(Path(scratch) / "data"),
            "ASTRODETECT_MODEL": model.NAME,
        }
        for number in range(arguments.rounds):
            for workers in arguments.workers[:: 1 if number % 2 == 0 else -1]:
                log = Path(scratch) / f"log {number} {workers}"
                options = ("--workers", str(workers), "--timeout-worker-healthcheck", "60")
                with ServiceProcess("main:app", environment, log, *options) as service:
                    _wait_for_workers(service, workers)
                    for callers in arguments.callers:
                        report = _load(service, models, callers, arguments.seconds)
                        results.setdefault((workers, callers), []).append(report)
    return results


def _wait_for_workers(service: ServiceProcess, workers: int) -> None:
    service.wait_for_response(http_messages.get(f"{service.url}/health/ready"))
    deadline = time.monotonic() + START_WITHIN_S
    while service.log_tail(10_000).count(STARTED) < workers:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"not all of {workers} workers started:\n{service.log_tail()}")
        time.sleep(0.1)


def _load(service: ServiceProcess, models: Path, callers: int, seconds: float) -> dict[str, Any]:
    def run(lasting_s: float) -> dict[str, Any]:
        images: Sequence[str] = ("--images", str(models / "images" / "test"))
        options = itertools.chain(images, ("--callers", str(callers), "--seconds", str(lasting_s), "--json"))
        report: dict[str, Any] = json.loads(
            run_module("benchmarks.load", f"{service.url}/detect", *options, may_fail=True)
        )
        if set(report["statuses"]) != {"200"} or report["errors"]:
            raise BenchmarkError(f"statuses {report['statuses']}, errors {report['errors']}\n{service.log_tail()}")
        return report

    run(WARM_S)
    before = hardware.cpu_s(service.process.pid)
    report = run(seconds)
    used_s = hardware.cpu_s(service.process.pid) - before
    report["cpu_ms"] = 1000 * used_s / sum(report["statuses"].values())
    print_progress(f"{callers} callers: {report['per_s']:.1f} requests/s, {report['cpu_ms']:.1f} ms of CPU per image")
    return report


if __name__ == "__main__":
    sys.exit(main())
