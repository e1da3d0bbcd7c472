"""`python -m benchmarks.recipes DATA --classes …`: every recipe on the same labelled images, as a table.

DATA has folders `train` and `test`, with a folder for each class. Each recipe is a whole `train_model.py` from
scratch, with what it prints on stderr; the figures are those of what serves, on the test images.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from astrodetect.model_store.manifest import read_manifest
from astrodetect.recipes import RECIPES
from astrodetect.settings import ROOT

SIZE, EPOCHS, RATE = 64, 12, 1e-3


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a recipe."""

    recipe: str
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auc: float
    calibration_error: float
    training_s: float  # the whole command
    serves: str  # the precision


def main() -> None:
    """Trains with every recipe, and prints a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    add = parser.add_argument
    add("data", type=Path)
    add("--classes", nargs="+", default=["all"])
    add("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--crop", type=float, default=1.0)
    add("--epochs", type=int, default=EPOCHS, help="of the large networks (default: 12); cnn has its own 80")
    add("--class-weights", default="none")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in arguments.recipes:
            rows.append(train(arguments, recipe, Path(folder)))
            print(rows[-1], file=sys.stderr, flush=True)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table(rows))


def train(arguments: argparse.Namespace, recipe: str, folder: Path) -> Row:
    """One recipe, from scratch."""
    output = folder / f"{recipe}.h5"
    data = arguments.data
    command = ["train_model.py", "--train", str(data / "train"), "--test", str(data / "test"), "--recipe", recipe]
    command += ["--classes", *arguments.classes, "--crop", str(arguments.crop), "--output", str(output)]
    command += ["--class-weights", arguments.class_weights]
    if RECIPES[recipe].kind == "network":
        epochs = str(arguments.epochs)
        command += ["--size", str(SIZE), "--epochs", epochs, "--patience", epochs]
        command += ["--learning-rate", str(RATE), "--weights", "none"]
    began = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr, check=True)
    took = time.monotonic() - began
    manifest = read_manifest(output.with_suffix(".json"))
    figures = manifest.metrics["test"]
    return Row(
        recipe,
        figures["accuracy"],
        figures["balanced_accuracy"],
        figures["macro_f1"],
        figures["auc"],
        figures["ece"],
        took,
        manifest.precision,
    )


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| recipe | accuracy | balanced | macro F1 | AUC | calibration error | training |", "| --- " * 7 + "|"]
    lines += [
        f"| {row.recipe} | {row.accuracy:.1%} | {row.balanced_accuracy:.1%} | {row.macro_f1:.3f} | {row.auc:.3f} "
        f"| {row.calibration_error:.3f} | {row.training_s:.0f} s |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
