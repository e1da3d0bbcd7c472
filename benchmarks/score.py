"""`python -m benchmarks.score`: throughput of `python -m astrodetect score` relative to the engine, and memory.

The engine scores decoded pixels, then the command scores files, then the engine again: minutes apart on the same
machine, so that the ratio is meaningful where the machine's speed varies. Processor time per image depends less on
other load than throughput does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from astrodetect import images
from astrodetect.datasets.simulation import generator
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.settings import ROOT, settings
from benchmarks import hardware, model
from benchmarks.novelty import attach_detectors

DIFFERENT = 400  # images simulated; the others are links to them
FOLDER_SIZE = 1000
ENGINE_S = 20.0
SAMPLE_EVERY_S = 0.2
QUARTERS = (25, 50, 75, 100)  # percent of the run


@dataclass(frozen=True, slots=True)
class Report:
    """The results."""

    images: int
    engine_before: float  # images/s, as are the next two
    score: float
    engine_after: float
    share: float  # of the engine's mean speed
    engine_cpu_ms: float  # processor time per image, of both measurements
    score_cpu_ms: float  # the same of the whole command and its worker, less that of the start
    whole_command_s: float  # including start and end
    memory_mb: dict[int, float]  # percent of the run → resident memory of the command and its worker process


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument(
        "--size", type=int, default=model.SIZE, help=f"of the network, in pixels (default: {model.SIZE})"
    )
    parser.add_argument("--image-px", type=int, help="side of the images (default: that of the network)")
    parser.add_argument("--novelty", action="store_true", help="with anomaly detectors")
    parser.add_argument("--model-folder", type=Path, help="with a model of the name in the settings (default: made)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.model_folder or model.prepare(arguments.size)
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.novelty:
            folder = attach_detectors(folder, Path(temporary))
        report = measure(folder, Path(temporary), arguments.images, arguments.image_px or arguments.size)
    if arguments.json:
        print(json.dumps(asdict(report)))
        return
    print(f"engine alone   {report.engine_before:7.1f} images/s before, {report.engine_after:.1f} after")
    print(f"score          {report.score:7.1f} images/s over {report.images} files, {report.share:.0%} of the engine")
    print(
        f"processor time {report.engine_cpu_ms:7.2f} ms an image of the engine, {report.score_cpu_ms:.2f} ms of score"
    )
    print(f"whole command  {report.whole_command_s:7.1f} s")
    print("memory         " + ", ".join(f"{mb:.0f} MB at {percent} %" for percent, mb in report.memory_mb.items()))


def measure(model_folder: Path, temporary: Path, count: int, image_px: int) -> Report:
    """Measure engine, command, engine."""
    sky = make_images(temporary, count, image_px)
    engine = Engine(load_verified(model_folder, settings().model, settings().precision))
    paths = sorted(sky.rglob("*.jpg"))[: max(engine.batch_size, 64)]
    pixels = np.stack([images.decode_file(path, engine.manifest.image) for path in paths])
    before = engine_speed(engine, pixels)
    command = command_speed(model_folder, sky, temporary / "scores.csv", count)
    after = engine_speed(engine, pixels)
    mean = Speed(*map(statistics.mean, zip(before, after, strict=True)))
    return Report(
        images=count,
        engine_before=before.per_s,
        score=command.speed.per_s,
        engine_after=after.per_s,
        share=command.speed.per_s / mean.per_s,
        engine_cpu_ms=mean.cpu_ms,
        score_cpu_ms=command.speed.cpu_ms,
        whole_command_s=command.seconds,
        memory_mb=command.memory_mb,
    )


class Speed(NamedTuple):
    """Of scoring."""

    per_s: float  # images
    cpu_ms: float  # processor time per image


class CommandRun(NamedTuple):
    """A run of the command."""

    speed: Speed  # from its first rows to its last
    seconds: float  # of the whole command
    memory_mb: dict[int, float]  # percent of the run → resident memory


def make_images(temporary: Path, count: int, image_px: int) -> Path:
    """`count` JPEGs in folders, a few hundred of them different."""
    simulated = temporary / "simulated"
    half = min(DIFFERENT, count) // 2 + 1
    generator.make_dataset(simulated, {"E": half, "SB": half}, seed=0, size=image_px)
    different = sorted(simulated.rglob("*.jpg"))
    sky = temporary / "sky"
    for number in range(count):
        folder = sky / f"{number // FOLDER_SIZE:05}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(different[number % len(different)], folder / f"{number % FOLDER_SIZE:05}.jpg")
    return sky


def engine_speed(engine: Engine, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Speed:
    """Over `ENGINE_S`, from as many threads as it has streams."""
    size = engine.batch_size
    batches = [pixels[i : i + size] for i in range(0, len(pixels) - size + 1, size)]
    began, cpu = time.monotonic(), time.process_time()

    def work(_: int) -> int:
        done = 0
        while time.monotonic() - began < ENGINE_S:
            done += len(engine.run(batches[done // engine.batch_size % len(batches)]).scores)
        return done

    with ThreadPoolExecutor(engine.streams) as pool:
        done = sum(pool.map(work, range(engine.streams)))
    return Speed(done / (time.monotonic() - began), 1000 * (time.process_time() - cpu) / done)


def command_speed(model_folder: Path, sky: Path, output: Path, count: int) -> CommandRun:
    """The speed of the command, and its memory."""
    parts = output.with_name(f"{output.name}.parts")
    environment = {**os.environ, "ASTRODETECT_MODELS_DIR": str(model_folder)}
    command = [sys.executable, "-m", "astrodetect", "score", str(sky), "--output", str(output)]
    began = time.monotonic()
    scoring_since, cpu_before, cpu, samples = 0.0, 0.0, 0.0, []
    scoring = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    while scoring.poll() is None:
        now = time.monotonic()
        scoring_since = scoring_since or (now if parts.exists() else 0.0)
        if parts.exists():
            with suppress(psutil.NoSuchProcess):  # at the end
                samples.append(sum(each.memory_info().rss for each in hardware.family(scoring.pid)) / 1e6)
                cpu = hardware.cpu_s(scoring.pid)
                cpu_before = cpu_before or cpu
        time.sleep(SAMPLE_EVERY_S)
    took = time.monotonic() - began
    assert scoring.stdout is not None  # noqa: S101 - for the type checker
    output_text = scoring.stdout.read()
    scoring.stdout.close()
    if scoring.returncode or f"{count} files scored" not in output_text:
        sys.exit(f"score ended with {scoring.returncode}: {output_text}")
    at = {percent: samples[round(percent / 100 * (len(samples) - 1))] for percent in QUARTERS}
    return CommandRun(Speed(count / (began + took - scoring_since), 1000 * (cpu - cpu_before) / count), took, at)


if __name__ == "__main__":
    main()
