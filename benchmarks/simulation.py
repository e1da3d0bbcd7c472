"""`python -m benchmarks.simulation REAL [--seeds N] [--without]`: how well simulated galaxies teach about real ones.

REAL is a folder with class folders `elliptical` and `spiral`. For each seed a linear head on the packaged weights is
fitted to a simulated sample (E against SB), and judged on simulated test images and on REAL. `--without` fixes one
variation of the simulation at a time, at the value that it had before 2026-11-26.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.datasets.dataset import Dataset, read_dataset
from astrodetect.datasets.simulation import galaxies, generator, observing
from astrodetect.evaluation.calibration import to_logits
from astrodetect.evaluation.metrics import multiclass_metrics
from astrodetect.inference.pipeline import read_ahead
from astrodetect.learning import network
from astrodetect.learning.export import features_engine
from astrodetect.learning.linear_probe import RegularisationPath
from astrodetect.recipes import PixelStatistics
from astrodetect.records import Floats, ImageContract
from benchmarks import hardware

CONTRACT = ImageContract(size=64, crop=0.3)
TRAIN, TEST = 700, 200  # simulated images of each class
PENALTY = 3.0  # L2; `train_model.py` chooses it on validation images
BATCH = 16
CLASSES = ["SB", "E"]


def main() -> None:
    """Measure; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--without", action="store_true", help="without one variation at a time, too")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    features = FeatureReader()
    real = read_dataset(arguments.real, ["spiral", "elliptical"], title="real images", contract=CONTRACT)
    real_features = features.of(real)
    rows: list[dict[str, Any]] = []
    for name, fixed in VARIATIONS.items() if arguments.without else [("all variations", no_change)]:
        for seed in range(arguments.seeds):
            with (
                mock.patch.object(observing.ObservingConditions, "draw", fixed_conditions(fixed)),
                fixed_galaxies(name),
            ):
                head, own = fit_on_sample(features, seed)
            metrics = multiclass_metrics(real.labels, head(real_features), CLASSES)
            rows.append({"variation": name, "seed": seed, "own_accuracy": own, "real_auc": metrics["auc"]})
    if arguments.json:
        print(json.dumps({"machine": hardware.describe(), "rows": rows}))
        return
    print("| simulation | accuracy on its own test part | AUC on real images |\n| --- | --- | --- |")
    for name in dict.fromkeys(row["variation"] for row in rows):
        own_values, aucs = (
            [row[key] for row in rows if row["variation"] == name] for key in ("own_accuracy", "real_auc")
        )
        print(f"| {name} | {span(own_values)} | {span(aucs)} |")


Conditions = observing.ObservingConditions


def no_change(conditions: Conditions) -> Conditions:
    """All variations as they are drawn."""
    return conditions


VARIATIONS: dict[str, Callable[[Conditions], Conditions]] = {
    "all variations": no_change,
    "one pixel scale": lambda conditions: replace(conditions, pixel_scale=1.5),
    "one seeing": lambda conditions: replace(conditions, seeing=1.35),
    "one depth": lambda conditions: replace(conditions, noise=0.035),
    "one stretch": lambda conditions: replace(conditions, softening=8.0),
    "one exposure": lambda conditions: replace(conditions, exposure=1.0),
    "perfect colour calibration": lambda conditions: replace(conditions, gains=(1.0, 1.0, 1.0)),
    "hardly any JPEG compression": lambda conditions: replace(conditions, jpeg_quality=98),
    "colours independent of the class": no_change,
    "brightness independent of the class": no_change,
}


def fixed_conditions(fixed: Callable[[Conditions], Conditions]) -> Callable[[np.random.Generator], Conditions]:
    """A replacement for `ObservingConditions.draw`."""
    draw = Conditions.draw
    return lambda rng: fixed(draw(rng))


def fixed_galaxies(name: str) -> contextlib.AbstractContextManager[Any]:
    """The colours or the brightness of both classes from one distribution, if the variation is that."""
    constants: dict[str, dict[str, Any]] = {
        "colours independent of the class": {"RED_ELLIPTICALS": 0.5, "RED_SPIRALS": 0.5},
        "brightness independent of the class": {"ELLIPTICAL_FLUX": 0.94, "SPIRAL_FLUX": 1.0},
    }
    if name not in constants:
        return contextlib.nullcontext()
    patch: contextlib.AbstractContextManager[Any] = mock.patch.multiple(galaxies, **constants[name])
    return patch


class FeatureReader:
    """The pooled features of the network with the packaged weights."""

    def __init__(self) -> None:
        model = network.build("resnet50", CONTRACT.size, PixelStatistics((0.0,) * 3, (1.0,) * 3), 1)
        network.load_packaged_weights(model, "resnet50")
        self._engine = features_engine(model, CONTRACT)

    def of(self, dataset: Dataset) -> Floats:
        """(images, features)"""
        jobs = [range(start, min(len(dataset), start + BATCH)) for start in range(0, len(dataset), BATCH)]

        def read(rows: range) -> NDArray[np.uint8]:
            return np.stack([images.decode_file(dataset.paths[row], CONTRACT) for row in rows])

        forward = lambda pixels: self._engine.run(pixels).features  # noqa: E731
        return np.concatenate(list(read_ahead(jobs, read, forward, self._engine.streams)))


def fit_on_sample(features: FeatureReader, seed: int) -> tuple[Callable[[Floats], Floats], float]:
    """The head of a new sample, and its accuracy on the sample's own test part."""
    with tempfile.TemporaryDirectory() as folder:
        generator.make_sample(Path(folder), TRAIN, TEST, seed=seed, workers=1)  # here, where the variation is fixed
        train, test = (
            read_dataset(Path(folder, part), CLASSES, title=f"{part} images", contract=CONTRACT)
            for part in ("train", "test")
        )
        path = RegularisationPath(
            features.of(train), train.labels[:, np.newaxis].astype(np.float32), np.ones(len(train), np.float32)
        )
        head = path.fit(PENALTY)
        predicted = to_logits(head.probabilities(features.of(test))).argmax(axis=1)
        return head.probabilities, float((predicted == test.labels).mean())


def span(values: list[float]) -> str:
    """Mean, least and greatest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
