"""`python -m benchmarks.training`: a head on a frozen ResNet50, compared with Keras's transfer-learning tutorial.

The tutorial: image_dataset_from_directory, the frozen network with a new head, compile, fit for five epochs, evaluate.
Ours: `python train_model.py --weights FILE`, which also calibrates, quantises, publishes and reports. Both are whole
processes with the same initial weights and images. Only ours runs on the larger data set: the tutorial's time is
extrapolated from its rate, which does not depend on the number of images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from astrodetect.datasets.simulation import generator
from astrodetect.model_store.manifest import read_manifest
from astrodetect.settings import ROOT, settings
from benchmarks import hardware

CLASSES = ("SB", "E")
EPOCHS = 5
DIFFERENT = 2000  # images per class simulated for training; a larger folder links to them
TEST = 250  # images per class
TUTORIAL = """
import sys, time
began = time.time()
import keras
from pathlib import Path
train, test, weights, size, epochs = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
def images(folder, **options):
    return keras.utils.image_dataset_from_directory(
        folder, class_names=["SB", "E"], label_mode="binary", image_size=(size, size), verbose=False, **options
    )
learn = images(train, validation_split=0.1, subset="training", seed=0)
validation = images(train, validation_split=0.1, subset="validation", seed=0)
whole = keras.models.load_model(weights, compile=False)
base = keras.Model(whole.input, whole.get_layer("features").output)
base.trainable = False
inputs = keras.Input((size, size, 3))
answer = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(base(inputs, training=False)))
model = keras.Model(inputs, answer)
model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
ready = time.time()
model.fit(learn, validation_data=validation, epochs=epochs, verbose=0)
fitted = time.time()
print(model.evaluate(images(test, shuffle=False), verbose=0)[1], ready - began, fitted - ready)
"""


@dataclass(frozen=True, slots=True)
class Report:
    """The results."""

    size: int
    images: int  # that both train on
    tutorial_s: float
    tutorial_accuracy: float
    ours_s: float
    ours_accuracy: float
    ratio: float
    many: int  # that only ours trains on
    many_s: float
    many_tutorial_s: float  # extrapolated
    many_ratio: float


def main() -> None:
    """Measure; print text or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=2000, help="that both train on (default: 2000)")
    add("--many", type=int, default=20_000, help="that only ours trains on (default: 20000)")
    add("--size", type=int, default=64, help="side of the network's input, pixels (default: 64)")
    weights = settings().models_dir / f"{settings().model}.h5"
    add(
        "--weights",
        type=Path,
        default=weights,
        help="a ResNet50 of train_model.py for that size (default: models/resnet50_model.h5)",
    )
    add("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.weights.exists():
        sys.exit(f"no {arguments.weights}: create one with python3 run.py, or name another with --weights")
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(arguments, Path(temporary))
    if arguments.json:
        print(json.dumps(asdict(report) | {"machine": hardware.describe()}))
    else:
        print(as_text(report))


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Both on the smaller data set, ours on the larger."""
    generator.make_dataset(folder / "test", dict.fromkeys(CLASSES, TEST), seed=2)
    drawn = min(DIFFERENT, max(arguments.images, arguments.many) // 2)
    generator.make_dataset(folder / "all", dict.fromkeys(CLASSES, drawn), seed=1)
    few = link_images(folder / "all", folder / "few", arguments.images // 2)
    many = link_images(folder / "all", folder / "many", arguments.many // 2)
    began = time.monotonic()
    output = run(
        [
            sys.executable,
            "-c",
            TUTORIAL,
            str(few),
            str(folder / "test"),
            str(arguments.weights),
            str(arguments.size),
            str(EPOCHS),
        ]
    )
    tutorial_s = time.monotonic() - began
    accuracy, start_s, fit_s = map(float, output.split()[-3:])
    ours_s, ours_accuracy = ours(arguments, few, folder)
    many_s, _ = ours(arguments, many, folder)
    many_tutorial_s = start_s + fit_s * arguments.many / arguments.images
    return Report(
        arguments.size,
        arguments.images,
        tutorial_s,
        accuracy,
        ours_s,
        ours_accuracy,
        tutorial_s / ours_s,
        arguments.many,
        many_s,
        many_tutorial_s,
        many_tutorial_s / many_s,
    )


def link_images(source: Path, target: Path, count: int) -> Path:
    """A folder with so many images per class, repeating images if there are fewer."""
    for name in CLASSES:
        (target / name).mkdir(parents=True)
        paths = sorted((source / name).rglob("*.jpg"))
        for number in range(count):
            os.link(paths[number % len(paths)], target / name / f"{number:06}.jpg")
    return target


def ours(arguments: argparse.Namespace, train: Path, folder: Path) -> tuple[float, float]:
    """Seconds of the whole command, and accuracy on the test images."""
    output = folder / f"{train.name}.h5"
    command = ["train_model.py", "--train", str(train), "--test", str(folder / "test"), "--size", str(arguments.size)]
    began = time.monotonic()
    run([sys.executable, *command, "--weights", str(arguments.weights), "--no-augment", "--output", str(output)])
    took = time.monotonic() - began
    return took, read_manifest(output.with_suffix(".json")).metrics["test"]["accuracy"]


def run(command: list[str]) -> str:
    """Run a command and return its stdout; exit if it fails."""
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False, text=True)
    if result.returncode:
        sys.exit(f"failed: {' '.join(command[:3])}")
    return result.stdout


def as_text(report: Report) -> str:
    """Two lines."""
    return (
        f"{report.images} images at {report.size} px: the tutorial {report.tutorial_s:.0f} s "
        f"({report.tutorial_accuracy:.1%} accuracy), ours {report.ours_s:.0f} s ({report.ours_accuracy:.1%}): "
        f"{report.ratio:.1f} times faster\n"
        f"{report.many} images: ours {report.many_s:.0f} s, the tutorial {report.many_tutorial_s:.0f} s, extrapolated: "
        f"{report.many_ratio:.1f} times faster"
    )


if __name__ == "__main__":
    main()
