"""The command line of train_model.py."""

import argparse
import re
from pathlib import Path

from astrodetect.cli._options import (
    add_figure_options,
    class_count,
    class_name,
    float_between,
    int_at_least,
    int_between,
)
from astrodetect.evaluation.calibration import THRESHOLD_RULES, parse_threshold_rule
from astrodetect.images import ORIENTATIONS
from astrodetect.model_store.manifest import MODEL_NAME_PATTERN
from astrodetect.model_store.publication import RESERVED_SUFFIXES
from astrodetect.recipes import AUTO_CROP, DEFAULT_RECIPE, FIXED_THRESHOLD, RECIPES
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, is_url, parent_folder

DEFAULT_FOLDER = "images_E_S_SB_227x227_a_03_{}_processed"
MIN_TRAINING_CROP = 0.1
DEFAULT_VALIDATION = 0.1  # share of the training images
MAX_SEED = 2**32 - 1  # of NumPy's global generator
NETWORK_OPTIONS = (  # which a forest has no use for
    "fine_tune",
    "epochs",
    "patience",
    "batch_size",
    "learning_rate",
    "label_smoothing",
    "mixed_precision",
)
RECIPE_DEFAULTS = ("size", "crop", "weights", "epochs", "patience", "batch_size", "class_weights", "views")
EXAMPLES = """examples:
  python train_model.py
  python train_model.py --train data/sample/train --test data/sample/test --size 64 --weights none
  python train_model.py --data my/split --classes all --recipe efficientnetv2-b0 --output models/kinds.h5
  python train_model.py --weights models/resnet50_model.h5 --fine-tune --output models/tuned.h5
"""


def parse_train_options(argv: list[str] | None, description: str | None) -> argparse.Namespace:
    """Parse the command line; options that were left out get the recipe's defaults."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_train_options(parser)
    arguments = parser.parse_args(argv)
    if arguments.data is not None and (arguments.train, arguments.test) != (
        parser.get_default("train"),
        parser.get_default("test"),
    ):
        parser.error("--data has the parts train and test: leave --train and --test out")
    if arguments.positive == arguments.negative:
        parser.error(f"--positive and --negative are both {arguments.positive}: they name two classes")
    if (
        arguments.classes
        and len(set(arguments.classes)) < max(2, len(arguments.classes))
        and arguments.classes != ["all"]
    ):
        parser.error("--classes takes two or more different classes, or all")
    if arguments.classes and arguments.threshold not in (None, FIXED_THRESHOLD):
        parser.error("--threshold is for binary models; with --classes the most probable class is the prediction")
    if arguments.classes and (arguments.positive, arguments.negative) != (
        parser.get_default("positive"),
        parser.get_default("negative"),
    ):
        parser.error("--classes replaces --positive and --negative: leave these out")
    if not arguments.figures and arguments.figure_format != parser.get_default("figure_format"):
        parser.error("--figure-format has no effect without --figures")
    recipe = RECIPES[arguments.recipe]
    if recipe.kind == "forest" and arguments.weights not in (None, "none"):
        parser.error("a forest has no pretrained weights: leave --weights out")
    for name in NETWORK_OPTIONS if recipe.kind == "forest" else ():
        if getattr(arguments, name) != parser.get_default(name):
            parser.error(f"a forest has no use for --{name.replace('_', '-')}: leave it out")
    defaults = {name: getattr(recipe, name) for name in RECIPE_DEFAULTS} | {
        "threshold": FIXED_THRESHOLD if arguments.classes else recipe.threshold,
        "learning_rate": recipe.fine_tuning_rate if arguments.fine_tune else recipe.learning_rate,
        "output": _output(recipe.name),
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    _add_image_options(parser.add_argument_group("images"))
    _add_model_options(parser.add_argument_group("model"))
    _add_training_options(parser.add_argument_group("training"))


def _add_image_options(group: "argparse._ArgumentGroup") -> None:
    add, data = group.add_argument, settings().data_dir
    add(
        "--data",
        type=as_image_path,
        help="images in parts (train, test, optionally validation), as `split` makes them: a folder or a .csv",
    )
    add(
        "--train",
        type=as_image_path,
        default=data / DEFAULT_FOLDER.format("train"),
        help="or: training images, a folder with a folder for each class, or a .csv",
    )
    add(
        "--test", type=as_image_path, default=data / DEFAULT_FOLDER.format("test"), help="test images, in the same form"
    )
    add("--positive", type=class_name, default="E", help="class that is the anomaly, label 1 (default: E)")
    add("--negative", type=class_name, default="SB", help="class that is no anomaly, label 0 (default: SB)")
    add(
        "--classes",
        type=class_name,
        nargs="+",
        metavar="CLASS",
        help="instead of those two: two or more classes to distinguish, or all",
    )
    add(
        "--limit",
        type=class_count,
        action="append",
        default=[],
        metavar="CLASS=N",
        help="train on at most N images of this class; repeatable",
    )
    add("--size", type=int_at_least(32), help=f"side of the model's input, pixels (default: {_defaults('size')})")
    add(
        "--crop",
        type=_crop,
        help=f"central share of the frame that is used, 0.1 to 1, or {AUTO_CROP}: where the light of the training "
        f"images is (default: {_defaults('crop')})",
    )
    add(
        "--stretch",
        choices=("none", "asinh", "zscale", "linear"),
        default="none",
        help="how FITS values are mapped to brightness (default: none, no FITS)",
    )
    add(
        "--planes",
        "--bands",
        dest="bands",
        default="RGB",
        metavar="R,G,B",
        help="planes of a FITS cube for red, green and blue, or one for grey, from 0 (default: RGB, of three 2,1,0)",
    )


def _add_model_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    descriptions = "; ".join(f"{recipe.name}: {recipe.description}" for recipe in RECIPES.values())
    add(
        "--recipe",
        choices=list(RECIPES),
        default=DEFAULT_RECIPE,
        help=f"what is trained (default: {DEFAULT_RECIPE}). {descriptions}",
    )
    add(
        "--weights",
        help="what to start from: imagenet (downloaded), packaged (ResNet50 pre-trained on simulated skies; best with "
        f"--size 64 and a --crop that the object fills), a Keras .h5 file, or none (default: {_defaults('weights')})",
    )
    add(
        "--fine-tune",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train the pretrained backbone too, not the head alone (default: off)",
    )
    add(
        "--views",
        type=int,
        choices=(1, ORIENTATIONS),
        help="orientations of each image that the model averages wherever it is used, which takes as many times longer "
        f"(default: {_defaults('views')})",
    )
    add(
        "--threshold",
        type=_rule,
        metavar="RULE",
        help=f"{THRESHOLD_RULES}; chosen on the validation images (default: {_defaults('threshold')})",
    )
    add(
        "--output",
        type=_h5_path,
        help="path of the model; its other files go beside it (default: models/resnet50_model.h5, or models/RECIPE.h5)",
    )


def _add_training_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--epochs", type=int_at_least(1), help=f"maximum number of epochs (default: {_defaults('epochs')})")
    add(
        "--patience",
        type=int_at_least(1),
        help=f"epochs without a lower validation loss before early stopping (default: {_defaults('patience')})",
    )
    add("--batch-size", type=int_at_least(1), help=f"images per step (default: {_defaults('batch_size')})")
    add(
        "--learning-rate",
        type=_rate,
        help="peak learning rate, after warm-up "
        f"(default: {_defaults('learning_rate')}; with --fine-tune {_defaults('fine_tuning_rate')})",
    )
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="random rotations, reflections, small shifts, zooms and changes of brightness (default: on)",
    )
    add(
        "--class-weights",
        choices=("none", "balanced"),
        help=f"balanced: weights inverse to the classes' frequencies (default: {_defaults('class_weights')})",
    )
    add(
        "--label-smoothing",
        type=float_between(0, 0.5),
        default=0.0,
        metavar="SHARE",
        help="share of each label that is spread over all classes (default: 0)",
    )
    add(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: on accelerators)",
    )
    add(
        "--validation",
        type=float_between(0.01, 0.5),
        metavar="SHARE",
        help=f"validation share of the training images, if the data has no such part (default: {DEFAULT_VALIDATION})",
    )
    add_figure_options(group, "confusion matrix, ROC, precision and recall, calibration, training, class imbalance")
    add("--seed", type=int_between(0, MAX_SEED), default=0, help="seed of every random generator (default: 0)")


def _defaults(option: str) -> str:
    """The recipes' defaults of an option, such as "227; cnn and forest 100"."""
    recipes_by_value: dict[object, list[str]] = {}
    for recipe in RECIPES.values():
        recipes_by_value.setdefault(getattr(recipe, option), []).append(recipe.name)
    (usual, _), *others = sorted(recipes_by_value.items(), key=lambda entry: -len(entry[1]))
    return "; ".join([f"{usual}", *(f"{' and '.join(names)} {value}" for value, names in others)])


def _output(recipe: str) -> Path:
    name = settings().model if recipe == DEFAULT_RECIPE else recipe
    return settings().models_dir / f"{name}.h5"


def _crop(text: str) -> float | str:
    return text if text == AUTO_CROP else float_between(MIN_TRAINING_CROP, 1)(text)


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
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"a local path: set ASTRODETECT_MODELS_DIR={parent_folder(text)} to publish models there"
        )
    if Path(text).suffix != ".h5" or Path(text).stem.endswith(RESERVED_SUFFIXES):
        ends = " or ".join(f"{end}.h5" for end in RESERVED_SUFFIXES)
        raise argparse.ArgumentTypeError(f"a path that ends in .h5 and not in {ends}, not {text}")
    if not re.fullmatch(MODEL_NAME_PATTERN, Path(text).stem):
        raise argparse.ArgumentTypeError(f"a file name of letters, digits, _, - and . for the service, not {text}")
    return Path(text)
