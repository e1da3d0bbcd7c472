"""`python -m benchmarks.accelerator`: ResNet50 trained from scratch, and applied, on the device that Keras finds.

Needs no TensorFlow: `KERAS_BACKEND=jax` with JAX for the device is enough. Training is that of
`python train_model.py` with the same input pipeline; the images are simulated. Its parts are measured alone too: what
the input pipeline delivers, and what the device computes on images in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from astrodetect.datasets.dataset import Dataset, read_dataset
from astrodetect.evaluation import metrics
from astrodetect.learning import network, network_training
from astrodetect.learning.batches import MIN_DECODERS, Epoch, ImageCache, LearningTask, augmentation_contract
from astrodetect.learning.keras_runtime import accelerators, dtype_policy, keras
from astrodetect.records import Floats, ImageContract, as_probabilities
from astrodetect.settings import ROOT

CLASSES = ("SB", "E")
RECIPE = "resnet50"
TEST = 500  # images per class
RATE = 1e-3
BATCHES = 30  # of the device measured alone
PIPELINE_BATCHES = 32
SCORED_BATCH = 256


def main() -> None:
    """Measure; print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=8000, help="to train on (default: 8000)")
    add("--size", type=int, default=227, help="side of the network's input, pixels (default: 227)")
    add("--epochs", type=int, default=12)
    add("--batch-size", type=int, default=64)
    add("--precision", choices=("float32", "mixed_bfloat16"), default="mixed_bfloat16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments, Path(folder)), indent=1))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The rates in images/s, the accuracy on test images, and seconds of each part."""
    contract = ImageContract(size=arguments.size)
    # A process of its own: those that it starts must not start the device.
    simulate = [
        "-m",
        "astrodetect",
        "simulate",
        str(folder),
        "--train",
        str(arguments.images // 2),
        "--test",
        str(TEST),
    ]
    simulation_s, _ = timed(lambda: subprocess.run([sys.executable, *simulate], cwd=ROOT, check=True))
    train = read_dataset(folder / "train", CLASSES, title="training images", contract=contract)
    test = read_dataset(folder / "test", CLASSES, title="test images", contract=contract)
    learning, validation = train.split(0.1, seed=0)
    task = LearningTask(outputs=1, class_weights=(1.0, 1.0))
    network.set_seed(0)
    statistics = network_training.measure_pixel_statistics(learning, contract, 0)
    epochs_ended: list[float] = []
    with dtype_policy(arguments.precision):
        model = network.build(RECIPE, contract.size, statistics, task.outputs)
        started = time.monotonic()
        history = network_training.fit_network(
            model,
            learning,
            validation,
            contract=contract,
            task=task,
            stage=network_training.TrainingStage(
                arguments.epochs, arguments.batch_size, RATE, seed=0, augment=True, patience=arguments.epochs
            ),
            checkpoint=network_training.Checkpoint(folder / "checkpoint"),
            run="benchmark",
            echo=print,
            on_epoch=lambda _: epochs_ended.append(time.monotonic()),
        )
    cache = ImageCache(test, contract)
    pixels = np.stack([cache[index] for index in range(len(test))]).astype(np.float32)
    probabilities = as_probabilities(model.predict(pixels, batch_size=SCORED_BATCH, verbose=0))
    later_epochs = np.diff(epochs_ended)
    return {
        "backend": keras.backend.backend(),
        "devices": accelerators() or ["cpu"],
        "cores": os.cpu_count(),
        "precision": arguments.precision,
        "size": arguments.size,
        "simulation_s": simulation_s,
        "training_s": epochs_ended[-1] - started,
        "first_epoch_s": epochs_ended[0] - started,  # with compilation and decoding
        "training_images_per_s": len(learning) / float(np.median(later_epochs)),  # with validation
        "input_pipeline_images_per_s_by_threads": input_pipeline_rates(learning, contract, task, arguments.batch_size),
        "device_scoring_images_per_s": scoring_rate(model, pixels),
        "device_training_images_per_s": training_rate(model, pixels, arguments.batch_size),
        "best_validation_accuracy": max(epoch["accuracy"] for epoch in history),
        "test": {
            name: value
            for name, value in metrics.multiclass_metrics(test.labels, probabilities, test.classes).items()
            if name in {"accuracy", "auc"}
        },
    }


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds it takes, and what it returns."""
    began = time.monotonic()
    result = action()
    return time.monotonic() - began, result


def input_pipeline_rates(
    train: Dataset, contract: ImageContract, task: LearningTask, batch_size: int
) -> dict[int, float]:
    """Augmented images/s by the number of threads, from decoded images."""
    few = train.subset(np.arange(min(len(train), PIPELINE_BATCHES * batch_size)))
    epoch = Epoch(
        ImageCache(few, augmentation_contract(contract)), batch_size, task, seed=0, epoch=0, start=0, size=contract.size
    )
    rates: dict[int, float] = {}
    for count in sorted({MIN_DECODERS, epoch.workers}, reverse=True):
        with ThreadPoolExecutor(count) as threads:
            if not rates:
                list(threads.map(epoch.__getitem__, range(len(epoch))))  # decodes
            began = time.monotonic()
            list(threads.map(epoch.__getitem__, range(len(epoch))))
            rates[count] = len(few) / (time.monotonic() - began)
    return rates


def training_rate(model: keras.Model, pixels: Floats, batch_size: int) -> float:
    """Images/s of training on images in memory."""
    batch, targets = pixels[:batch_size], np.zeros((batch_size, 1), np.float32)
    model.train_on_batch(batch, targets)  # compiles
    return batch_size * BATCHES / timed(lambda: [model.train_on_batch(batch, targets) for _ in range(BATCHES)])[0]


def scoring_rate(model: keras.Model, pixels: Floats) -> float:
    """Images/s of the forward pass on images in memory."""
    batch = pixels[:SCORED_BATCH]
    model.predict_on_batch(batch)  # compiles
    return len(batch) * BATCHES / timed(lambda: [model.predict_on_batch(batch) for _ in range(BATCHES)])[0]


if __name__ == "__main__":
    main()
