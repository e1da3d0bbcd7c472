"""Class folders to a trained, evaluated and exported model in models/.

ResNet50 learns to tell an anomaly (class E, score near 1) from the ordinary (class SB, score near 0). Stopped by Ctrl-C
or worse, the same command goes on where it was.
"""

import argparse
import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fasteners
import numpy as np

from astrodetect import __version__, bundle, images
from astrodetect.catalogue import folders
from astrodetect.catalogue.folders import Catalogue
from astrodetect.errors import AstrodetectError, DataError, ModelError
from astrodetect.evaluation import metrics
from astrodetect.records import ImageContract, Pixels
from astrodetect.settings import settings

if TYPE_CHECKING:
    import keras

USERS_FOLDER = "images_E_S_SB_227x227_a_03_{}_processed"
EXAMPLES = """examples:
  python train_model.py
  python train_model.py --train data/sample/train --test data/sample/test --size 64 --weights none
  python train_model.py --weights models/resnet50_model.h5 --fine-tune --learning-rate 1e-4 --output models/tuned.h5
"""
VALIDATION_SHARE = 0.1  # of the training images, held out to choose the epoch by
FEWEST_IMAGES = 10  # of each class, to learn anything from
COMPARED_IMAGES = 500  # at most, of the validation and of the test images: scored by what serves, before it does
SKIPPED_SHOWN = 10
SMALLEST_CROP = 0.1
VERSIONED = ("tensorflow", "keras", "openvino", "nncf", "numpy", "pillow")


def main(argv: list[str] | None = None) -> int:
    """Trains as the arguments say: 0 where a model stands at the end, 1 where it cannot, 130 after Ctrl-C."""
    arguments = parse(argv)
    try:
        print(train(arguments))
    except AstrodetectError as error:
        say(f"train_model: {error}")
        return 1
    except OSError as error:  # no room on the disk, no right to a folder
        say(f"train_model: {error.filename or arguments.output}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        say("stopped: the same command goes on where this one was")
        return 130
    return 0


def train(arguments: argparse.Namespace) -> Path:
    """From folders to a published model; returns the path of its `.h5`."""
    everything, test = read_folders(arguments)
    learn, validation = everything.split(VALIDATION_SHARE, arguments.seed)

    # TensorFlow takes seconds to load: folders that cannot be used are told of before.
    from astrodetect.learning import export, network, quantise, training  # noqa: PLC0415
    from astrodetect.learning.checkpoint import Checkpoint  # noqa: PLC0415

    network.set_seed(arguments.seed)
    contract = ImageContract(size=arguments.size, crop=arguments.crop)
    model = network.build(arguments.size, training.measure_standard(learn, contract, arguments.seed))
    adopted = adopt_weights(model, arguments.weights)
    if adopted and not arguments.fine_tune:
        network.freeze_backbone(model)
        say("learning the head alone (--fine-tune trains the backbone too)")

    with only_one(arguments.output):
        checkpoint = Checkpoint(arguments.output.parent / f".{arguments.output.stem}.training")
        history = training.fit(
            model,
            learn,
            validation,
            contract=contract,
            recipe=training.Recipe(
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                learning_rate=arguments.learning_rate,
                seed=arguments.seed,
                augment=arguments.augment,
                balance=arguments.class_weights == "balanced",
                patience=arguments.patience,
            ),
            checkpoint=checkpoint,
            run=run_key(arguments, everything, adopted=adopted),
            say=say,
        )
        figures, scored = {}, []
        for part, catalogue in (("validation", validation), ("test", test)):
            scored.append(training.predict(model, catalogue, contract, arguments.batch_size))
            figures[part] = metrics.binary(catalogue.labels, scored[-1])
            print(in_words(part, figures[part]), flush=True)
        manifest = bundle.Manifest(
            name=arguments.output.stem,
            classes=list(everything.classes),
            image=contract,
            metrics=figures,
            data={"train": describe(everything), "test": describe(test)},
            settings=plain(arguments) | {"adopted_weights": adopted, "history": history},
            versions={name: version(name) for name in VERSIONED}
            | {"python": platform.python_version(), "astrodetect": __version__},
        )
        random = np.random.default_rng(arguments.seed)
        held = []
        for catalogue, scores in zip((validation, test), scored, strict=True):
            some = random.permutation(len(catalogue))[:COMPARED_IMAGES]
            held.append((read_pixels(catalogue.subset(some), contract), catalogue.labels[some], scores[some]))
        calibration = learn.subset(random.permutation(len(learn))[: quantise.CALIBRATION_IMAGES])
        published = export.publish(
            model,
            manifest,
            arguments.output.parent,
            export.HeldOut(*(np.concatenate(parts) for parts in zip(*held, strict=True))),
            read_pixels(calibration, contract),
        )
        print(precision_in_words(published), flush=True)
        say("a service that runs with an older model serves this one after a restart")
        checkpoint.clear()
    return Path(arguments.output)


def read_folders(arguments: argparse.Namespace) -> tuple[Catalogue, Catalogue]:
    """The training and the test images; what cannot be used is listed and left out."""
    classes = (arguments.negative, arguments.positive)  # in the order of their numbers: the anomaly is 1
    parts = []
    for title, folder in (("training images", arguments.train), ("test images", arguments.test)):
        catalogue = folders.read(folder, classes, title=title)
        for skipped in catalogue.skipped[:SKIPPED_SHOWN]:
            say(f"skipped {skipped.path}: {skipped.reason}")
        if len(catalogue.skipped) > SKIPPED_SHOWN:
            say(f"skipped {len(catalogue.skipped) - SKIPPED_SHOWN} more: the model's manifest will list them all")
        say(f"{title}: " + ", ".join(f"{count} {name}" for name, count in catalogue.counts().items()))
        parts.append(catalogue)
    for name, count in parts[0].counts().items():
        if count < FEWEST_IMAGES:
            raise DataError(
                f"{arguments.train / name} holds {count} images that can be read: {FEWEST_IMAGES} are needed"
            )
    return parts[0], parts[1]


def adopt_weights(model: "keras.Model", weights: str) -> bool:
    """Starts from the weights asked for; False where the start is from scratch."""
    from astrodetect.learning import network  # noqa: PLC0415

    if weights == "none":
        return False
    if weights != "imagenet":
        network.adopt_file(model, Path(weights))
        return True
    try:
        network.adopt_imagenet(model)
    except ModelError as error:
        say(f"{error}; starting from scratch (--weights FILE starts from a file)")
        return False
    return True


def run_key(arguments: argparse.Namespace, catalogue: Catalogue, *, adopted: bool) -> str:
    """The same for the same settings, images, start and Keras: only then does a run go on from another's checkpoint."""
    weights = Path(arguments.weights)
    start = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else adopted
    parts = [plain(arguments), catalogue.fingerprint, start, version("keras")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_pixels(catalogue: Catalogue, contract: ImageContract) -> Pixels:
    """All its images, as the service gets them."""
    pixels: Pixels = np.stack([images.read_file(path, contract) for path in catalogue.paths])
    return pixels


def describe(part: Catalogue) -> dict[str, Any]:
    """What the manifest keeps of a part of the data."""
    skipped = [{"path": str(skipped.path), "reason": skipped.reason} for skipped in part.skipped]
    return {"images": part.counts(), "fingerprint": part.fingerprint, "skipped": skipped}


def plain(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON has them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}


def in_words(part: str, figures: dict[str, float]) -> str:
    """One line of figures."""
    return (
        f"{part} ({figures['images']:.0f} images): accuracy {figures['accuracy']:.2%}, "
        f"balanced accuracy {figures['balanced_accuracy']:.2%}, AUC {figures['auc']:.4f}"
    )


def precision_in_words(manifest: bundle.Manifest) -> str:
    """One line: what serves, how close it is to Keras, and what was refused."""
    said = []
    for precision, tried in manifest.fidelity.items():
        verb = "serves" if precision == manifest.precision else "could serve" if tried.kept else "is refused"
        said.append(
            f"{precision} {verb}: {tried.same_decisions:.2%} of {tried.images} decisions as in Keras, "
            f"AUC {tried.auc_difference:+.4f}"
        )
    return "; ".join(said if manifest.precision in manifest.fidelity else ["f32 serves", *said])


@contextlib.contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Keeps two trainings of the same model from writing over each other."""
    output.parent.mkdir(parents=True, exist_ok=True)
    lock = fasteners.InterProcessLock(output.parent / f".{output.stem}.lock")
    if not lock.acquire(blocking=False):
        raise ModelError(f"{output} is being trained by another process")
    try:
        yield
    finally:
        lock.release()


def say(line: str) -> None:
    """To a person; what a program may want goes to stdout."""
    print(line, file=sys.stderr, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    data = settings().data_dir
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--train", type=Path, default=data / USERS_FOLDER.format("train"), help="folder with a folder per class")
    add("--test", type=Path, default=data / USERS_FOLDER.format("test"), help="the same, never learnt from")
    add("--positive", type=class_name, default="E", help="class that is the anomaly, 1 (default: E)")
    add("--negative", type=class_name, default="SB", help="class that is not, 0 (default: SB)")
    add("--epochs", type=at_least(1), default=5, help="times through the images at most (default: 5)")
    add(
        "--patience",
        type=at_least(1),
        default=3,
        help="epochs with no better validation loss (default: 3)",
    )
    add("--batch-size", type=at_least(1), default=32, help="images a step (default: 32)")
    add("--size", type=at_least(32), default=227, help="side of what the network sees, pixels (default: 227)")
    add("--crop", type=share, default=1.0, help="central share of the frame that it sees, 0.1 to 1 (default: 1)")
    add("--learning-rate", type=rate, default=1e-3, help="highest rate, after warming up (default: 0.001)")
    add("--weights", default="imagenet", help="imagenet, none, or a Keras .h5 file to start from (default: imagenet)")
    add("--fine-tune", action="store_true", help="train the backbone of adopted weights too, not the head alone")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="flips, quarter turns, small shifts")
    add("--class-weights", choices=("none", "balanced"), default="none", help="balanced: each class counts the same")
    add("--seed", type=at_least(0), default=0, help="for every random draw (default: 0)")
    add(
        "--output",
        type=h5_path,
        default=settings().models_dir / f"{settings().model}.h5",
        help="where the model goes, its other files beside it (default: models/resnet50_model.h5)",
    )
    arguments = parser.parse_args(argv)
    if arguments.positive == arguments.negative:
        parser.error(f"--positive and --negative are both {arguments.positive}: they name two folders")
    return arguments


def class_name(text: str) -> str:
    """A parser of names of class folders."""
    if not text.strip(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"the name of a folder with images, not {text!r}")
    return text


def rate(text: str) -> float:
    """A parser of learning rates."""
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"between 0 and 1, not {text}")
    return float(text)


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers that are not smaller."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least}, not {text}")
        return int(text)

    return whole_number


def share(text: str) -> float:
    """A parser of shares of the frame."""
    if not SMALLEST_CROP <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"between {SMALLEST_CROP} and 1, not {text}")
    return float(text)


def h5_path(text: str) -> Path:
    """A parser of paths to Keras models."""
    if Path(text).suffix != ".h5" or Path(text).stem.endswith(bundle.INT8):  # that name is for a network of NAME
        raise argparse.ArgumentTypeError(f"a path that ends in .h5 and not in {bundle.INT8}.h5, not {text}")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
