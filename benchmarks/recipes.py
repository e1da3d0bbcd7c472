"""`python -m benchmarks.recipes DATA --classes …`: test metrics of every recipe on the same labelled images.

DATA has folders `train` and `test`, with a folder for each class. Each recipe is trained by `train_model.py`, from
scratch or from the weights of the installation. Its output goes to stderr; the metrics are of the exported network.
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
INSTALLED = "efficientnet-lite0"  # whose weights come with the installation: fine-tuned with its own defaults


@dataclass(frozen=True, slots=True)
class Row:
    """The test metrics of a recipe."""

    recipe: str
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auc: float
    calibration_error: float
    training_s: float  # of the whole command
    serves: str  # the serving precision


def main() -> None:
    """Train every recipe; print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    add = parser.add_argument
    add("data", type=Path)
    add("--classes", nargs="+", default=["all"])
    add("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--crop", help="default: that of each recipe")
    add(
        "--epochs",
        type=int,
        default=EPOCHS,
        help="of networks with a backbone (default: 12); cnn has 80",
    )
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
    """Train one recipe."""
    output = folder / f"{recipe}.h5"
    data = arguments.data
    command = ["train_model.py", "--train", str(data / "train"), "--test", str(data / "test"), "--recipe", recipe]
    command += ["--classes", *arguments.classes, "--output", str(output)]
    command += ["--crop", arguments.crop] if arguments.crop else []
    command += ["--class-weights", arguments.class_weights]
    if recipe == INSTALLED:
        command += ["--fine-tune", "--label-smoothing", "0.05", "--views", "8"]
    elif RECIPES[recipe].kind == "network":
        epochs = str(arguments.epochs)
        command += ["--size", str(SIZE), "--epochs", epochs, "--patience", epochs]
        command += ["--learning-rate", str(RATE), "--weights", "none"]
    began = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr, check=True)
    took = time.monotonic() - began
    manifest = read_manifest(output.with_suffix(".json"))
    metrics = manifest.metrics["test"]
    return Row(
        recipe,
        metrics["accuracy"],
        metrics["balanced_accuracy"],
        metrics["macro_f1"],
        metrics["auc"],
        metrics["ece"],
        took,
        manifest.precision,
    )


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| recipe | accuracy | balanced | macro F1 | AUC | calibration error | training |", "| --- " * 7 + "|"]
    lines += [
        f"| {row.recipe} | {row.accuracy:.1%} | {row.balanced_accuracy:.1%} | {row.macro_f1:.3f} | {row.auc:.3f} "
        f"| {row.calibration_error:.3f} | {row.training_s:.0f} s |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
