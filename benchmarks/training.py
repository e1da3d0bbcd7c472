"""`python -m benchmarks.training`: a head on a frozen ResNet50, beside the way that Keras's tutorial shows.

The tutorial's way: image_dataset_from_directory, the frozen network with a new head on it, compile, fit for five
epochs, evaluate. Ours: `python train_model.py --weights FILE`, which also calibrates, quantises, publishes and reports.
Both start from the same weights, see the same folders, and are whole processes, from start to end. Larger folders are
ours alone: the tutorial's time for them follows from its rate, which does not change with their number.
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
DIFFERENT = 2000  # images of a class that are simulated for training; a larger folder has links to them
TEST = 250  # images of a class
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
    """What came out."""

    size: int
    images: int  # both learnt from
    tutorial_s: float
    tutorial_accuracy: float
    ours_s: float
    ours_accuracy: float
    ratio: float
    many: int  # ours alone learnt from
    many_s: float
    many_tutorial_s: float  # as its rate has it
    many_ratio: float


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=2000, help="that both learn from (default: 2000)")
    add("--many", type=int, default=20_000, help="that ours learns from besides (default: 20000)")
    add("--size", type=int, default=64, help="side of what the network sees, pixels (default: 64)")
    weights = settings().models_dir / f"{settings().model}.h5"
    add(
        "--weights",
        type=Path,
        default=weights,
        help="a ResNet50 of train_model.py's for that size (default: models/resnet50_model.h5)",
    )
    add("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.weights.exists():
        sys.exit(f"no {arguments.weights}: python3 run.py makes one, or name another with --weights")
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(arguments, Path(temporary))
    if arguments.json:
        print(json.dumps(asdict(report) | {"machine": hardware.describe()}))
    else:
        print(in_words(report))


def measure(arguments: argparse.Namespace, folder: Path) -> Report:
    """Both ways on some images, ours on many."""
    generator.make_dataset(folder / "test", dict.fromkeys(CLASSES, TEST), seed=2)
    drawn = min(DIFFERENT, max(arguments.images, arguments.many) // 2)
    generator.make_dataset(folder / "all", dict.fromkeys(CLASSES, drawn), seed=1)
    some = linked(folder / "all", folder / "some", arguments.images // 2)
    many = linked(folder / "all", folder / "many", arguments.many // 2)
    began = time.monotonic()
    shown = run(
        [
            sys.executable,
            "-c",
            TUTORIAL,
            str(some),
            str(folder / "test"),
            str(arguments.weights),
            str(arguments.size),
            str(EPOCHS),
        ]
    )
    tutorial_s = time.monotonic() - began
    accuracy, start_s, fit_s = map(float, shown.split()[-3:])
    ours_s, ours_accuracy = ours(arguments, some, folder)
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


def linked(source: Path, place: Path, count: int) -> Path:
    """A folder with so many images of each class, the same ones again and again where there are fewer."""
    for name in CLASSES:
        (place / name).mkdir(parents=True)
        found = sorted((source / name).rglob("*.jpg"))
        for number in range(count):
            os.link(found[number % len(found)], place / name / f"{number:06}.jpg")
    return place


def ours(arguments: argparse.Namespace, train: Path, folder: Path) -> tuple[float, float]:
    """The seconds of the whole command, and the accuracy on the test images."""
    output = folder / f"{train.name}.h5"
    command = ["train_model.py", "--train", str(train), "--test", str(folder / "test"), "--size", str(arguments.size)]
    began = time.monotonic()
    run([sys.executable, *command, "--weights", str(arguments.weights), "--no-augment", "--output", str(output)])
    took = time.monotonic() - began
    return took, read_manifest(output.with_suffix(".json")).metrics["test"]["accuracy"]


def run(command: list[str]) -> str:
    """What it prints; where it fails, so does this."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command[:3])}")
    return done.stdout


def in_words(report: Report) -> str:
    """A few lines."""
    return (
        f"{report.images} images at {report.size} px: the tutorial's way {report.tutorial_s:.0f} s "
        f"({report.tutorial_accuracy:.1%} right), ours {report.ours_s:.0f} s ({report.ours_accuracy:.1%}): "
        f"{report.ratio:.1f} times faster\n"
        f"{report.many} images: ours {report.many_s:.0f} s, the tutorial's {report.many_tutorial_s:.0f} s by its rate: "
        f"{report.many_ratio:.1f} times faster"
    )


if __name__ == "__main__":
    main()
