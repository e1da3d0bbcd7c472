"""The command line of train_model.py."""

import argparse
from pathlib import Path

from astrodetect.cli._options import class_count, class_name, float_between, int_at_least
from astrodetect.evaluation.calibration import THRESHOLD_RULES, parse_threshold_rule
from astrodetect.model_store import store
from astrodetect.settings import settings

USERS_FOLDER = "images_E_S_SB_227x227_a_03_{}_processed"
NETWORKS = ("resnet50", "efficientnetv2-b0", "mobilenetv3", "convnext-tiny", "cnn")
RECIPES = (*NETWORKS, store.FOREST)
SMALL = ("cnn", store.FOREST)  # the four-class study's, made for small grey images
SMALLEST_CROP = 0.1
EXAMPLES = """examples:
  python train_model.py
  python train_model.py --train data/sample/train --test data/sample/test --size 64 --weights none
  python train_model.py --data my/split --classes all --recipe efficientnetv2-b0 --output models/kinds.h5
  python train_model.py --weights models/resnet50_model.h5 --fine-tune --output models/tuned.h5
"""


def parse(argv: list[str] | None, description: str | None) -> argparse.Namespace:
    """The arguments, with the defaults of their recipe."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _data(parser.add_argument_group("images"))
    _model(parser.add_argument_group("model"))
    _learning(parser.add_argument_group("learning"))
    arguments = parser.parse_args(argv)
    if arguments.positive == arguments.negative:
        parser.error(f"--positive and --negative are both {arguments.positive}: they name two classes")
    if (
        arguments.classes
        and len(set(arguments.classes)) < max(2, len(arguments.classes))
        and arguments.classes != ["all"]
    ):
        parser.error("--classes takes two or more different classes, or all")
    if arguments.classes and arguments.threshold != "0.5":
        parser.error(
            "--threshold is for an anomaly and its opposite; of several --classes the most probable one is said"
        )
    small, adopted = arguments.recipe in SMALL, arguments.fine_tune
    defaults = {
        "size": 100 if small else 227,
        "epochs": 80 if arguments.recipe == "cnn" else 5,
        "patience": 20 if arguments.recipe == "cnn" else 3,
        "learning_rate": 1e-4 if adopted else 1e-3,
        "weights": "none" if small else "imagenet",
        "output": _output(arguments.recipe),
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.recipe == store.FOREST and arguments.weights != "none":
        parser.error("a forest starts from nothing: leave --weights out")
    return arguments


def _data(group: "argparse._ArgumentGroup") -> None:
    add, data = group.add_argument, settings().data_dir
    add(
        "--data",
        type=Path,
        help="images in parts (train, test, perhaps validation), as `split` makes them: a folder or a .csv",
    )
    add(
        "--train",
        type=Path,
        default=data / USERS_FOLDER.format("train"),
        help="or: folder with a folder for each class, or a .csv",
    )
    add("--test", type=Path, default=data / USERS_FOLDER.format("test"), help="the same, never learnt from")
    add("--positive", type=class_name, default="E", help="class that is the anomaly, 1 (default: E)")
    add("--negative", type=class_name, default="SB", help="class that is not, 0 (default: SB)")
    add(
        "--classes",
        type=class_name,
        nargs="+",
        metavar="CLASS",
        help="instead: two or more classes to tell apart, or all",
    )
    add(
        "--limit",
        type=class_count,
        action="append",
        default=[],
        metavar="CLASS=N",
        help="learn from N images of this class at most, repeatable",
    )
    add("--size", type=int_at_least(32), help="side of what the model sees, pixels (default: 227; cnn and forest 100)")
    add(
        "--crop",
        type=float_between(SMALLEST_CROP, 1),
        default=1.0,
        help="central share of the frame that it sees, 0.1 to 1 (default: 1)",
    )
    add(
        "--stretch",
        choices=("none", "asinh", "zscale", "linear"),
        default="none",
        help="how FITS values become brightness (default: none, no FITS)",
    )
    add("--bands", default="RGB", help="planes of a FITS cube for red, green and blue, such as 2,1,0 (default: RGB)")


def _model(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--recipe", choices=RECIPES, default="resnet50", help="what learns (default: resnet50)")
    add("--weights", help="imagenet, none, or a Keras .h5 file to start from (default: imagenet; cnn and forest none)")
    add("--fine-tune", action="store_true", help="train the backbone of adopted weights too, not the head alone")
    add(
        "--threshold",
        type=_rule,
        default="0.5",
        metavar="RULE",
        help=f"{THRESHOLD_RULES}; chosen on the validation images (default: 0.5)",
    )
    add(
        "--output",
        type=_h5_path,
        help="where the model goes, its other files beside it (default: models/resnet50_model.h5, or models/RECIPE.h5)",
    )


def _learning(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--epochs", type=int_at_least(1), help="times through the images at most (default: 5; cnn 80)")
    add("--patience", type=int_at_least(1), help="epochs with no better validation loss (default: 3; cnn 20)")
    add("--batch-size", type=int_at_least(1), default=32, help="images a step (default: 32)")
    add(
        "--learning-rate",
        type=_rate,
        help="highest rate, after warming up (default: 0.001; fine-tuning 0.0001)",
    )
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="turns, mirror images, small shifts, zooms and changes of light",
    )
    add("--class-weights", choices=("none", "balanced"), default="none", help="balanced: each class counts the same")
    add(
        "--label-smoothing",
        type=float_between(0, 0.5),
        default=0.0,
        metavar="SHARE",
        help="of each label, spread over all classes (default: 0)",
    )
    add(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="bfloat16 within the network (default: on an accelerator)",
    )
    add(
        "--validation",
        type=float_between(0.01, 0.5),
        default=0.1,
        metavar="SHARE",
        help="of the training images, to choose the epoch by and to calibrate (default: 0.1)",
    )
    add("--seed", type=int_at_least(0), default=0, help="for every random draw (default: 0)")


def _output(recipe: str) -> Path:
    name = settings().model if recipe == "resnet50" else recipe
    return settings().models_dir / f"{name}.h5"


def _rate(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, not {text}")
    return float(text)


def _rule(text: str) -> str:
    try:
        parse_threshold_rule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _h5_path(text: str) -> Path:
    if Path(text).suffix != ".h5" or Path(text).stem.endswith(store.INT8):  # that name is for a network of NAME
        raise argparse.ArgumentTypeError(f"a path that ends in .h5 and not in {store.INT8}.h5, not {text}")
    return Path(text)
