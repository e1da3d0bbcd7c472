"""`python -m benchmarks.shards`: `score` on tar shards of small images, with and without Ray, and with a killed driver.

The images are some hundred simulated ones, repeated under different names. Runs alternate, so that they are comparable
where the machine's speed varies. Memory is the resident memory of the command and of all processes that it started.
"""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from astrodetect.datasets.simulation import generator
from astrodetect.settings import ROOT, settings
from benchmarks import model

SIZE_PX = 64
DIFFERENT = 1000  # images
SHARD_IMAGES = 5000
SAMPLE_EVERY_S = 2.0
QUARTERS = (0.25, 0.5, 0.75, 1.0)  # of the run
SPEED = re.compile(r"(\d+) images/s$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command."""

    kind: str
    images_per_s: float  # by the command itself, from the first image to the last
    took_s: float  # the whole command
    memory_mb: list[tuple[str, float]]  # at each quarter: of the worker process, and of all

    def __str__(self) -> str:
        memory = ", ".join(f"{name} {mb:.0f}" for name, mb in self.memory_mb)
        return f"{self.kind:10} {self.images_per_s:6.0f} images/s, {self.took_s:6.1f} s in all; MB: {memory}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--runs", default="score,ray,score,ray", help="kinds of run, in order (default: %(default)s)")
    parser.add_argument("--kill-at", type=float, help="kill the first run's command at this share, and start it again")
    parser.add_argument("--model-folder", type=Path, help="with the model --model (default: made)")
    parser.add_argument("--model", default=settings().model)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make the shards here, or use those that are here")
    arguments = parser.parse_args()
    models = arguments.model_folder or model.prepare(SIZE_PX)
    with tempfile.TemporaryDirectory() as temporary:
        shards = make_shards(arguments.keep or Path(temporary) / "shards", arguments.images)
        tables = []
        for number, kind in enumerate(arguments.runs.split(",")):
            output = Path(temporary) / f"{number}.csv"
            command = [*("score", str(shards), "--model", arguments.model, "--output", str(output))]
            command += ["--ray", "local"] if kind == "ray" else []
            if arguments.kill_at and number == 0:
                print(run(f"{kind}, cut", command, models, kill_at=arguments.kill_at))
            print(run(kind, command, models), flush=True)
            tables.append(output.read_bytes())
    rows = tables[0].count(b"\n") - 1
    print(f"tables are {'' if len(set(tables)) == 1 else 'NOT '}equal, {rows} rows")


def make_shards(folder: Path, count: int) -> Path:
    """Tar archives of `count` images."""
    if folder.exists():
        return folder
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as simulated:
        generator.make_dataset(Path(simulated), {"E": DIFFERENT // 2, "SB": DIFFERENT // 2}, seed=0, size=SIZE_PX)
        images = [path.read_bytes() for path in sorted(Path(simulated).rglob("*.jpg"))]
    for first in range(0, count, SHARD_IMAGES):
        with tarfile.open(folder / f"{first // SHARD_IMAGES:05}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for number in range(first, min(count, first + SHARD_IMAGES)):
                data = images[number % len(images)]
                member = tarfile.TarInfo(f"{number:08}.jpg")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    return folder


def run(kind: str, command: Sequence[str], models: Path, *, kill_at: float | None = None) -> Run:
    """Runs the command; with `kill_at`, until that share of the shards has its part, and then kills it."""
    environment = {**os.environ, "ASTRODETECT_MODELS_DIR": str(models)}
    shards, parts = len(list(Path(command[1]).iterdir())), Path(f"{command[command.index('--output') + 1]}.parts")
    began, samples = time.monotonic(), list[tuple[float, float]]()
    process = subprocess.Popen(
        [sys.executable, "-m", "astrodetect", *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        time.sleep(SAMPLE_EVERY_S)
        samples.append(_memory_mb(process.pid))
        if kill_at and parts.exists() and len(list(parts.glob("part-*"))) >= kill_at * shards:
            process.send_signal(signal.SIGKILL)
            process.wait()
    output, _ = process.communicate()
    if process.returncode and not kill_at:
        sys.exit(f"score ended with {process.returncode}: {output}")
    speed = SPEED.search(output)
    at = [samples[max(0, round(share * (len(samples) - 1)) - 1)] for share in QUARTERS]
    memory = [(f"at {share:.0%}", all_mb) for share, (_, all_mb) in zip(QUARTERS, at, strict=True)]
    memory += [(f"worker at {share:.0%}", worker) for share, (worker, _) in zip(QUARTERS, at, strict=True)]
    return Run(kind, float(speed[1]) if speed else float("nan"), time.monotonic() - began, memory)


def _memory_mb(pid: int) -> tuple[float, float]:
    """Of the worker process, and of the command with all that it started."""
    worker = everything = 0.0
    try:
        command = psutil.Process(pid)
        for process in [command, *command.children(recursive=True)]:
            resident = process.memory_info().rss / 1e6
            everything += resident
            if any("score_worker" in argument for argument in process.cmdline()):
                worker += resident
    except psutil.NoSuchProcess:
        pass
    return worker, everything


if __name__ == "__main__":
    main()
