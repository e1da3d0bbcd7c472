"""`python -m benchmarks.serving`: our service against a naive one, LitServe and BentoML, in turns on one machine.

All serve the same model to the same callers, and log to the same embedded PostgreSQL, a database each, fsync on. The
naive one (`naive_service.py`) runs Keras; LitServe (`litserve_service.py`) and BentoML (`bentoml_service.py`) the same
int8 network as ours, in batches; they are left out where they are not installed, and BentoML in quick runs. One is
started, or under load, at a time, in turns, while the others are suspended; the processor time that each takes for a
request, which other load disturbs less than its rate, is in the report. Start-up is measured from exec to the first
scored image, and the engine's own images/s in the same run, while all are suspended. A status other than 200, or a
missing row, fails the whole run without a report.

`--full` adds our service with anomaly detectors, vectors and thumbnails, and has the other one store no thumbnails.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from astrodetect.errors import AstrodetectError
from astrodetect.settings import settings
from benchmarks import bar_chart, hardware, model, novelty
from benchmarks.processes import BenchmarkError, exit_on_signals, print_progress, run_module
from benchmarks.serving_rounds import (
    BATCHING_PEERS,
    FULL,
    INSTALL_PEERS,
    NAIVE,
    OURS,
    ServingBenchmark,
    databases,
    services,
)

QUICK_S = {1: 1.5, 32: 3.0}  # seconds by callers
FULL_S = {1: 4.0, 8: 5.0, 32: 10.0}  # the naive service is slow at 32
ROUNDS = 3
LOAD_METRICS = ("per_s", "p50_ms", "p99_ms", "service_cpu_ms")  # the last: of the processor, for a request


def main(argv: list[str] | None = None) -> int:
    """Measure and print: exit code 0 done, 1 failed, 130 interrupted."""
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=summary)
    add = parser.add_argument
    add("--size", type=int, default=model.SIZE, help="side of the network's input, pixels (default: 227)")
    add("--quick", action="store_true", help="one short round, in less than a minute")
    add("--full", action="store_true", help="measure ours with detectors, vectors and thumbnails too")
    add("--json", action="store_true", help="print one JSON object")
    add("--picture", type=Path, help="path of the chart (default: benchmark/serving.svg in the data folder)")
    arguments = parser.parse_args(argv)
    try:
        with exit_on_signals():
            report = measure(arguments.size, quick=arguments.quick, full=arguments.full)
    except (BenchmarkError, AstrodetectError) as failed:
        print_progress(f"serving: {failed}")
        return 1
    except KeyboardInterrupt:
        return 130
    chart = arguments.picture or settings().data_dir / "benchmark" / "serving.svg"
    draw(report, chart)
    print_progress(f"chart: {chart}")
    print(json.dumps(report) if arguments.json else as_text(report))
    return 0


def measure(size: int, *, quick: bool, full: bool) -> dict[str, Any]:
    """All rounds."""
    began, names = time.monotonic(), services(full=full, quick=quick)
    if not {*BATCHING_PEERS} & {*names}:
        print_progress(f"batching peers are left out: {INSTALL_PEERS}")
    models = model.folder_of(size)
    if not model.is_complete(models):  # in a process of its own: TensorFlow's memory ends with it
        print_progress("preparing the model")
        models = Path(run_module("benchmarks.model", "--size", str(size)).splitlines()[-1])
    prepared_s = time.monotonic() - began
    machine = hardware.describe()
    with (
        tempfile.TemporaryDirectory(prefix="astrodetect-benchmark-", ignore_cleanup_errors=True) as scratch,
        databases(Path(scratch), names) as urls,
    ):
        with_detectors = novelty.attach_detectors(models, Path(scratch)) if full else None
        benchmark = ServingBenchmark(models, with_detectors, Path(scratch), urls)
        if quick:
            rounds = [benchmark.run_round(QUICK_S, engine_s=1.5)]
        else:
            rounds = [benchmark.run_round(FULL_S, engine_s=5.0) for _ in range(ROUNDS)]
    return summarise(rounds) | {
        "size": size,
        "quick": quick,
        "rounds": rounds,
        "machine": machine,
        "prepared_s": prepared_s,
        "took_s": time.monotonic() - began,
    }


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and ratios of ours to naive, above 1 where ours is better."""

    def median(*keys: str | int) -> float:
        values: list[float] = []
        for results in rounds:
            value: Any = results
            for key in keys:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    callers = tuple(rounds[0][OURS]["load"])
    measured: dict[str, dict[str, float]] = {}
    for name in (name for name in (NAIVE, *BATCHING_PEERS, OURS, FULL) if name in rounds[0]):
        measured[name] = {key: median(name, key) for key in ("first_answer_s", "peak_rss_mb", "pss_mb")}
        measured[name] |= {f"{key}_{n}": median(name, "load", n, key) for key in LOAD_METRICS for n in callers}
    ours, naive = measured[OURS], measured[NAIVE]
    ours["ready_s"] = median(OURS, "ready_s")
    ratios = {f"throughput_ratio_{n}": ours[f"per_s_{n}"] / naive[f"per_s_{n}"] for n in callers}
    for share in ("p50", "p99"):
        ratios |= {f"{share}_ratio_{n}": naive[f"{share}_ms_{n}"] / ours[f"{share}_ms_{n}"] for n in callers}
    for peer, name in ((peer, name) for peer in BATCHING_PEERS for name in (OURS, FULL)):
        if {peer, name} <= measured.keys():
            prefix = peer if name == OURS else f"full_{peer}"
            its, own = measured[peer], measured[name]
            ratios |= {f"{prefix}_ratio_{n}": own[f"per_s_{n}"] / its[f"per_s_{n}"] for n in callers}
            for share, key in (("p50", "p50_ms"), ("cpu", "service_cpu_ms")):
                ratios |= {f"{prefix}_{share}_ratio_{n}": its[f"{key}_{n}"] / own[f"{key}_{n}"] for n in callers}
    engine = {"images_per_s": median("engine", "images_per_s")} | {
        key: rounds[-1]["engine"][key] for key in ("precision", "streams", "batch")
    }
    loads = [load for results in rounds for name in measured for load in results[name]["load"].values()]
    return ratios | {
        "memory_ratio": naive["peak_rss_mb"] / ours["peak_rss_mb"],
        "ready_ratio": naive["first_answer_s"] / ours["first_answer_s"],
        "engine_share": ours["per_s_32"] / engine["images_per_s"],
        "callers": callers,
        "services": measured,
        "engine": engine,
        "precision": engine["precision"],
        "generator_cpu_share": max(load["cpu_share"] for load in loads),
        "generator_cpu_us": max(load["cpu_us"] for load in loads),
    }


def table(report: dict[str, Any]) -> list[bar_chart.Row]:
    """Rows of quantity, ours, naive and ratio."""
    ours, naive = report["services"][OURS], report["services"][NAIVE]

    def row(name: str, key: str, ratio: str) -> bar_chart.Row:
        return name, ours[key], naive[key], f"{report[ratio]:.1f}×"

    rows = [row(f"requests/s, {n} callers", f"per_s_{n}", f"throughput_ratio_{n}") for n in report["callers"]]
    for share in ("p50", "p99"):
        rows += [row(f"{share}, {n} callers, ms", f"{share}_ms_{n}", f"{share}_ratio_{n}") for n in report["callers"]]
    rows.append(row("first answer after, s", "first_answer_s", "ready_ratio"))
    rows.append(row("peak memory, MB", "peak_rss_mb", "memory_ratio"))
    return rows


def as_text(report: dict[str, Any]) -> str:
    """The table with notes."""
    lines = [f"{'':24}{OURS:>14}{NAIVE:>14}{'better':>10}"]
    lines += [f"{name:24}{ours:>14,.1f}{naive:>14,.1f}{better:>10}" for name, ours, naive, better in table(report)]
    ours, naive, engine = report["services"][OURS], report["services"][NAIVE], report["engine"]
    lines += [peer_line(report, name) for name in (*BATCHING_PEERS, OURS, FULL) if name in report["services"]]
    lines += [
        f"memory after the load, PSS: {ours['pss_mb']:,.0f} and {naive['pss_mb']:,.0f} MB; "
        f"ours is ready after {ours['ready_s']:.2f} s",
        f"our engine alone: {engine['images_per_s']:.1f} images/s in {engine['precision']}, {engine['streams']} "
        f"streams of {engine['batch']}; with 32 callers the service reaches {report['engine_share']:.0%} of it",
        f"of the machine, the load generator took at most {report['generator_cpu_share']:.1%}",
        about(report),
    ]
    return "\n".join(lines)


def peer_line(report: dict[str, Any], name: str) -> str:
    """A service that is not in the table, in one line."""
    service, callers = report["services"][name], report["callers"]
    rates = ", ".join(f"{service[f'per_s_{n}']:.1f}" for n in callers)
    latencies = ", ".join(f"{service[f'p50_ms_{n}']:.1f}" for n in callers)
    processor = ", ".join(f"{service[f'service_cpu_ms_{n}']:.1f}" for n in callers)
    line = f"{name}: {rates} requests/s, p50 {latencies} ms and {processor} ms of the processor for a request"
    line += f" of {', '.join(map(str, callers))} callers"
    peers = [peer for peer in BATCHING_PEERS if peer in report["services"]]
    for peer in peers if name in (OURS, FULL) else []:
        prefix = f"full_{peer}" if name == FULL else peer
        ratios = ", ".join(f"{report[f'{prefix}_ratio_{n}']:.2f}" for n in callers)
        line += f"; {ratios} times the requests/s of {peer}"
    return line


def about(report: dict[str, Any]) -> str:
    """Machine, rounds and date."""
    machine = report["machine"]
    return (
        f"ResNet50 at {report['size']} px, {machine['cores']} cores of {machine['processor']}, "
        f"{'one quick round' if report['quick'] else f'medians of {ROUNDS} rounds'}, {machine['date'][:10]}; "
        f"others took {machine['busy_before']:.0%} of the machine before"
    )


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the table as a bar chart."""
    bar_chart.write_bar_chart(path, "Our service and a naive one", (OURS, NAIVE), table(report), about(report))


if __name__ == "__main__":
    sys.exit(main())
