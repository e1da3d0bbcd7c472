"""`python -m benchmarks.engine`: images/s of our engine and of other runtimes, on the same network, in turns.

`--ours` measures our engine alone at full load: the upper bound that `benchmarks.serving` compares with.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from astrodetect import images
from astrodetect.errors import ModelError
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.model_store.manifest import Precision, read_manifest
from astrodetect.records import Pixels
from benchmarks import hardware, model, onnx_export, peak_flops

BATCHES = (1, 8, 32)
GFLOP_AT_227 = 8.77  # of one image through ResNet50; elsewhere by its area
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "int8")
SAME_ARITHMETIC = 1e-3  # largest difference from Keras's scores where all is float32

Score = Callable[[Pixels], Any]


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--size", type=int, default=model.SIZE, help="side of the network's input, pixels (default: 227)")
    add("--quick", action="store_true", help="fewer and shorter rounds")
    add("--json", action="store_true", help="one JSON object")
    add("--ours", action="store_true", help="our engine alone, at full load")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="of --ours (default: auto)")
    add("--seconds", type=float, default=3.0, help="of --ours (default: 3)")
    add("--models", type=Path, help="a folder of benchmarks.model (default: created)")
    arguments = parser.parse_args(argv)
    folder = arguments.models or model.prepare(arguments.size)
    pixels = read(folder)
    if arguments.ours:
        engine = Engine(load_verified(folder, model.NAME, precision=arguments.precision))
        figures = {"images_per_s": saturated(engine, pixels, arguments.seconds)} | engine_settings(engine)
        print(json.dumps(figures) if arguments.json else figures)
        return 0
    rounds, seconds = (3, 0.4) if arguments.quick else (7, 1.0)
    report = measure(folder, pixels, rounds, seconds) | {"size": arguments.size, "machine": hardware.describe()}
    print(json.dumps(report) if arguments.json else as_text(report))
    return 0


def measure(folder: Path, pixels: Pixels, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians over the rounds, in each of which all runtimes take turns."""
    peers, missing = load_runtimes(folder)
    expected = np.asarray(peers["Keras predict"](pixels[:8])).reshape(-1)
    differences = {}
    for name, score in peers.items():
        scores = np.asarray(score(pixels[:8])).reshape(-1)
        differences[name] = float(np.abs(scores - expected).max())
        if not name.endswith(("bf16", "int8")) and not differences[name] < SAME_ARITHMETIC:
            raise SystemExit(f"{name} differs from Keras by {differences[name]:.3f}: not measured")
        for batch in BATCHES:
            score(pixels[:batch])  # warm-up for this batch size
    rates_per_s: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in BATCHES} for name in peers}
    for _ in range(rounds):
        for batch in BATCHES:
            for name, score in peers.items():
                rates_per_s[name][batch].append(per_s(score, pixels[:batch], seconds))
    limits: dict[str, float] = {precision: peak_flops.measure_peak(precision) / 1e9 for precision in PRECISIONS}
    gflop = GFLOP_AT_227 * (pixels.shape[1] / 227) ** 2
    rows = []
    for name, by_batch in rates_per_s.items():
        medians = {batch: statistics.median(rates) for batch, rates in by_batch.items()}
        precision = name.split()[-1] if name.startswith("OpenVINO") else "f32"
        share = gflop * max(medians.values()) / limits[precision]
        rows.append({"name": name, "per_s": medians, "of_peak": share, "from_keras": differences[name]})
    return {"rows": rows, "peak_gflop_per_s": limits, "left_out": missing, "rounds": rounds, "seconds": seconds}


def in_parts(engine: Engine) -> Score:
    """Score as the service does: in batches of the engine's size, from as many threads as it has streams."""
    pool = ThreadPoolExecutor(engine.streams)

    def score(pixels: Pixels) -> Any:
        parts = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
        return np.concatenate([outputs.scores for outputs in pool.map(engine.run, parts)])

    return score


def load_runtimes(folder: Path) -> tuple[dict[str, Score], dict[str, str]]:
    """Scoring function by runtime, and the runtimes that are missing, with the reason."""
    import keras  # noqa: PLC0415 - TensorFlow, which `--ours` does not need
    import tensorflow as tf  # noqa: PLC0415

    network = keras.models.load_model(folder / f"{model.NAME}.h5", compile=False)
    size = network.input_shape[1]

    traced = tf.function(network, input_signature=[tf.TensorSpec((None, size, size, 3), tf.float32)])
    peers: dict[str, Score] = {
        "Keras predict": lambda pixels: network.predict(pixels.astype(np.float32), verbose=0),
        "tf.function": lambda pixels: traced(tf.constant(pixels, tf.float32)).numpy(),
    }
    missing: dict[str, str] = {}
    try:
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        missing["ONNX Runtime f32"] = "onnxruntime is not installed: pip install -r requirements-dev.txt"
    else:
        file = folder / f"{model.NAME}.{os.getpid()}.onnx"
        try:
            onnx_export.write_onnx(network, file)
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        finally:
            file.unlink(missing_ok=True)
        peers["ONNX Runtime f32"] = lambda pixels: session.run(None, {"pixels": pixels.astype(np.float32)})[0]
    for precision in PRECISIONS:
        try:
            engine = Engine(load_verified(folder, model.NAME, precision=precision))
        except ModelError as error:
            missing[f"OpenVINO {precision}"] = str(error)
            continue
        if engine.precision != precision:
            missing[f"OpenVINO {precision}"] = f"this model on this processor runs in {engine.precision} instead"
        else:
            peers[f"OpenVINO {precision}"] = in_parts(engine)
    return peers, missing


def per_s(score: Score, pixels: Pixels, seconds: float) -> float:
    """Images/s of successive calls."""
    began, done = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < seconds or not done:
        score(pixels)
        done += len(pixels)
    return done / took


def saturated(engine: Engine, pixels: Pixels, seconds: float) -> float:
    """Images/s of full batches from as many threads as the engine has streams."""
    batches = [pixels[np.arange(at, at + engine.batch_size) % len(pixels)] for at in range(len(pixels))]
    for batch in batches[: engine.streams]:
        engine.run(batch)
    began = time.perf_counter()

    def work(at: int) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            engine.run(batches[at % len(batches)])
            done, at = done + engine.batch_size, at + engine.batch_size
        return done

    with ThreadPoolExecutor(engine.streams) as pool:
        done = list(pool.map(work, range(engine.streams)))
        return sum(done) / (time.perf_counter() - began)


def engine_settings(engine: Engine) -> dict[str, Any]:
    """Precision, streams and batch size."""
    return {"precision": engine.precision, "streams": engine.streams, "batch": engine.batch_size}


def read(folder: Path) -> Pixels:
    """The held-out images, decoded as the service decodes them."""
    contract = read_manifest(folder / f"{model.NAME}.json").image
    pixels: Pixels = np.stack([images.decode_file(path, contract) for path in model.jpegs(folder)])
    return pixels


def as_text(report: dict[str, Any]) -> str:
    """A table."""
    first = report["rows"][0]["per_s"]
    lines = [f"{'images/s (× Keras predict)':28}" + "".join(f"{f'batch {batch}':>16}" for batch in first)]
    lines[0] += f"{'of peak':>10}{'from Keras':>12}"
    for row in report["rows"]:
        cells = (f"{rate:.1f} ({rate / first[batch]:.1f}×)" for batch, rate in row["per_s"].items())
        lines.append(f"{row['name']:28}" + "".join(f"{cell:>16}" for cell in cells))
        lines[-1] += f"{row['of_peak']:>10.0%}{row['from_keras']:>12.1e}"
    limits = ", ".join(f"{name} {limit:,.0f}" for name, limit in report["peak_gflop_per_s"].items())
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    at = report["machine"]
    return "\n".join([
        *lines,
        f"peak measured with large convolutions, GFLOP/s: {limits}; of peak: the best batch, {report['size']} px",
        f"medians of {report['rounds']} rounds of {report['seconds']:g} s; {at['cores']} cores of {at['processor']}, "
        f"{at['date']}; others took {at['busy_before']:.0%} of it before",
    ])  # fmt: skip


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
