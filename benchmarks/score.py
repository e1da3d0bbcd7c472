"""`python -m benchmarks.score`: how much of the engine's own speed `python -m astrodetect score` keeps, in what memory.

The engine scores pixels that are in memory already, then the verb scores files, then the engine again: all on the same
processors, minutes apart, so that the share means something on a machine whose speed changes.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from astrodetect import images
from astrodetect.datasets.simulation import generator
from astrodetect.inference.engine import Engine, load_model
from astrodetect.settings import ROOT, settings
from benchmarks import model

SIZE_PX = 227
DIFFERENT = 400  # images that are simulated; the others are links to them
A_FOLDER = 1000
ENGINE_S = 20.0
SAMPLE_EVERY_S = 0.2
QUARTERS = (25, 50, 75, 100)  # percent of the run


@dataclass(frozen=True, slots=True)
class Report:
    """What came out."""

    images: int
    engine_before: float  # images a second, as are the next two
    score: float
    engine_after: float
    share: float  # of the engine's mean speed
    whole_command_s: float  # with start and end
    memory_mb: dict[int, float]  # percent of the run → resident memory


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--model-folder", type=Path, help="with a model of the name in the settings (default: made)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.model_folder or model.prepare()
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(folder, Path(temporary), arguments.images)
    if arguments.json:
        print(json.dumps(asdict(report)))
        return
    print(f"engine alone   {report.engine_before:7.1f} images/s before, {report.engine_after:.1f} after")
    print(f"score          {report.score:7.1f} images/s over {report.images} files, {report.share:.0%} of the engine")
    print(f"whole command  {report.whole_command_s:7.1f} s")
    print("memory         " + ", ".join(f"{mb:.0f} MB at {percent} %" for percent, mb in report.memory_mb.items()))


def measure(model_folder: Path, temporary: Path, count: int) -> Report:
    """Engine, verb, engine."""
    sky = make_images(temporary, count)
    engine = Engine(load_model(model_folder, settings().model, settings().precision))
    some = sorted(sky.rglob("*.jpg"))[: max(engine.batch_size, 64)]
    pixels = np.stack([images.decode_file(path, engine.manifest.image) for path in some])
    before = engine_speed(engine, pixels)
    speed, took, memory = verb_speed(model_folder, sky, temporary / "scores.csv", count)
    after = engine_speed(engine, pixels)
    return Report(count, before, speed, after, speed / statistics.mean((before, after)), took, memory)


def make_images(temporary: Path, count: int) -> Path:
    """`count` JPEGs in folders, some hundreds of them different."""
    drawn = temporary / "drawn"
    half = min(DIFFERENT, count) // 2 + 1
    generator.make_dataset(drawn, {"E": half, "SB": half}, seed=0, size=SIZE_PX)
    different = sorted(drawn.rglob("*.jpg"))
    sky = temporary / "sky"
    for number in range(count):
        folder = sky / f"{number // A_FOLDER:05}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(different[number % len(different)], folder / f"{number % A_FOLDER:05}.jpg")
    return sky


def engine_speed(engine: Engine, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> float:
    """Images a second over `ENGINE_S`, from as many threads as it has streams."""
    size = engine.batch_size
    batches = [pixels[i : i + size] for i in range(0, len(pixels) - size + 1, size)]
    began = time.monotonic()

    def work(_: int) -> int:
        done = 0
        while time.monotonic() - began < ENGINE_S:
            done += len(engine.run(batches[done // engine.batch_size % len(batches)]).scores)
        return done

    with ThreadPoolExecutor(engine.streams) as pool:
        done = list(pool.map(work, range(engine.streams)))
    return sum(done) / (time.monotonic() - began)


def verb_speed(model_folder: Path, sky: Path, output: Path, count: int) -> tuple[float, float, dict[int, float]]:
    """Images a second between its first rows and its last, the seconds of all of it, and its memory on the way."""
    part = output.with_name(f"{output.name}.part")
    environment = {**os.environ, "ASTRODETECT_MODELS_DIR": str(model_folder)}
    command = [sys.executable, "-m", "astrodetect", "score", str(sky), "--output", str(output)]
    began = time.monotonic()
    scoring_since, samples = 0.0, []
    verb = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    process = psutil.Process(verb.pid)
    while verb.poll() is None:
        now = time.monotonic()
        scoring_since = scoring_since or (now if part.exists() else 0.0)
        if part.exists():
            samples.append(process.memory_info().rss / 1e6)
        time.sleep(SAMPLE_EVERY_S)
    took = time.monotonic() - began
    assert verb.stdout is not None  # noqa: S101 - for the type checker
    said = verb.stdout.read()
    verb.stdout.close()
    if verb.returncode or f"{count} files scored" not in said:
        sys.exit(f"score ended with {verb.returncode}: {said}")
    at = {percent: samples[round(percent / 100 * (len(samples) - 1))] for percent in QUARTERS}
    return count / (began + took - scoring_since), took, at


if __name__ == "__main__":
    main()
