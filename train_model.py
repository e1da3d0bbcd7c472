"""Labelled images to a trained, calibrated, evaluated and exported model in models/.

ResNet50 learns to tell an anomaly (class E, score near 1) from the ordinary (class SB, score near 0); with --classes it
learns to tell any number of classes apart, with --recipe something else learns. Stopped by Ctrl-C or worse, the same
command goes on where it was.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrodetect import provenance
from astrodetect.anomalies.analysis import fit_novelty
from astrodetect.cli import train_options
from astrodetect.datasets import dataset, health
from astrodetect.datasets.dataset import Dataset
from astrodetect.errors import AstrodetectError, DataError
from astrodetect.evaluation import calibration, metrics
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import store as bundle
from astrodetect.model_store.manifest import Manifest
from astrodetect.recipes import RECIPES
from astrodetect.records import ImageContract, Outputs
from astrodetect.scoring import evaluate

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine
    from astrodetect.learning.training import TrainingPlan, TrainingResult

FEWEST_IMAGES = 10  # of each class, to learn anything from
COMPARED_IMAGES = 500  # at most, of the validation and of the test images: the networks that serve must agree on them
SKIPPED_SHOWN = 10
LEAKS_SOUGHT_UP_TO = 5000  # images: 2 ms each; `explore` takes its time for more


@dataclass(frozen=True, slots=True)
class Data:
    """The images: to learn from, to choose and calibrate by, and to judge the outcome."""

    train: Dataset
    validation: Dataset
    test: Dataset
    described: dict[str, Any]  # what the manifest keeps of them

    @property
    def judged(self) -> dict[str, Dataset]:
        """The parts that figures are made of."""
        return {"validation": self.validation, "test": self.test}


def main(argv: list[str] | None = None) -> int:
    """Trains as the arguments say: 0 where a model stands at the end, 1 where it cannot, 130 after Ctrl-C."""
    arguments = train_options.parse(argv, __doc__)
    try:
        print(train(arguments))
    except AstrodetectError as error:
        say(f"train_model: {error}")
        return 1
    except OSError as error:  # no room on the disk, no right to a folder
        say(f"train_model: {error.filename or arguments.output}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        say("stopped: run the same command again to continue")
        return 130
    return 0


def train(arguments: argparse.Namespace) -> Path:
    """From images to a published model; returns the path of what Keras opens, or of what serves."""
    try:
        contract = ImageContract(arguments.size, arguments.crop, arguments.bands, arguments.stretch)
    except ValueError as error:
        raise DataError(str(error)) from error
    data = read_data(arguments, contract)

    # TensorFlow takes seconds to load: images that cannot be used are told of before.
    from astrodetect.learning import training  # noqa: PLC0415

    plan = make_plan(arguments, contract)
    name, folder = arguments.output.stem, arguments.output.parent
    with bundle.exclusive_lock(folder, name):
        store = folder / f".{name}.training"
        learnt = training.run_training(
            plan, data.train, data.validation, store=store, run=run_key(arguments, data), echo=say
        )
        temperature, threshold = calibrate(learnt, plan, data.validation, arguments.threshold)
        manifest = Manifest(
            name=name,
            task="binary" if plan.binary else "classes",
            recipe=plan.recipe,
            classes=list(data.train.classes),
            image=contract,
            metrics={},
            data=data.described,
            settings=plain(arguments) | {"adopted_weights": learnt.adopted, "history": learnt.history},
            versions=provenance.versions(),
            temperature=temperature,
            threshold=threshold,
        )
        published, said = publish(learnt, manifest, folder, data)
        page = evaluate.evaluate_and_report(
            folder, name, data.judged, train=data.train, remarks=leaks(data), known=said
        )
        say(f"report: {page}")
        training.clear_checkpoints(store)
    return Path(folder, f"{name}{'.h5' if f'{name}.h5' in published.files else '.xml'}")


def read_data(arguments: argparse.Namespace, contract: ImageContract) -> Data:
    """The images in their parts; what cannot be used is listed and left out."""
    place, test_place = (arguments.data or arguments.train), (arguments.data or arguments.test)
    classes = [arguments.negative, arguments.positive]  # in the order of their numbers: the anomaly is 1
    if arguments.classes:
        classes = dataset.class_names(place) if arguments.classes == ["all"] else arguments.classes
    parted = dataset.part_names(arguments.data) if arguments.data else []
    if arguments.data and not {"train", "test"} <= set(parted):
        raise DataError(f"{arguments.data} has no parts train and test: python -m astrodetect split makes them")
    everything = read_part("training", place, classes, contract, "train" if parted else None)
    for name, most in arguments.limit:
        everything = everything.limit_class(name, most, arguments.seed)
    test = read_part("test", test_place, classes, contract, "test" if parted else None)
    described = {"train": describe(everything), "test": describe(test)}
    for name, count in everything.counts().items():
        if count < FEWEST_IMAGES:
            raise DataError(f"{place / name} holds {count} images that can be read: {FEWEST_IMAGES} are needed")
    if "validation" in parted:
        validation = read_part("validation", place, classes, contract, "validation")
        described["validation"] = describe(validation)
        return Data(everything, validation, test, described)
    learn, validation = everything.split(arguments.validation, arguments.seed)
    return Data(learn, validation, test, described)


def read_part(title: str, place: Path, classes: list[str], contract: ImageContract, part: str | None) -> Dataset:
    """One part of the images, with what was skipped told."""
    catalogue = dataset.read_dataset(place, classes, title=f"{title} images", part=part, contract=contract)
    for skipped in catalogue.skipped[:SKIPPED_SHOWN]:
        say(f"skipped {skipped.path}: {skipped.reason}")
    if len(catalogue.skipped) > SKIPPED_SHOWN:
        say(f"skipped {len(catalogue.skipped) - SKIPPED_SHOWN} more: the model's manifest will list them all")
    say(f"{title} images: " + ", ".join(f"{count} {name}" for name, count in catalogue.counts().items()))
    return catalogue


def make_plan(arguments: argparse.Namespace, contract: ImageContract) -> "TrainingPlan":
    """How to learn, as the arguments have it."""
    from astrodetect.learning.training import TrainingPlan  # noqa: PLC0415

    return TrainingPlan(
        recipe=arguments.recipe,
        binary=not arguments.classes,
        contract=contract,
        weights=arguments.weights,
        fine_tune=arguments.fine_tune,
        epochs=arguments.epochs,
        patience=arguments.patience,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augment=arguments.augment,
        balance=arguments.class_weights == "balanced",
        smoothing=arguments.label_smoothing,
        mixed_precision=arguments.mixed_precision,
        seed=arguments.seed,
    )


def calibrate(learnt: "TrainingResult", plan: "TrainingPlan", validation: Dataset, rule: str) -> tuple[float, float]:
    """Makes its probabilities mean what they say: the temperature for that, and the threshold that was asked for."""
    from astrodetect.learning import training  # noqa: PLC0415

    said = training.predict_dataset(learnt.model, validation, plan.contract, "calibrating")
    temperature = calibration.fit_temperature(validation.labels, calibration.to_logits(said))
    learnt.model.calibrate(temperature)
    if not plan.binary:
        return temperature, 0.5
    scores = calibration.apply_temperature(said, temperature)[:, 1]
    return temperature, calibration.choose_threshold(rule, validation.labels, scores)


def publish(
    learnt: "TrainingResult", manifest: Manifest, folder: Path, data: Data
) -> tuple[Manifest, dict[str, Outputs]]:
    """Puts the model in place, judged by what serves on images it has not learnt from; and what it said of them."""
    from astrodetect.learning import export, training  # noqa: PLC0415

    contract, random = manifest.image, np.random.default_rng(manifest.settings["seed"])
    said: dict[str, Outputs] = {}

    def measure(engine: "Engine") -> dict[str, dict[str, float]]:
        figures = {}
        for part, catalogue in data.judged.items():
            said[part] = evaluate.compute_outputs(catalogue, engine, f"{part} images")
            probabilities, decided = said[part].probabilities, engine.manifest.predict(said[part].probabilities)
            figures[part] = metrics.headline_metrics(catalogue.labels, probabilities, decided)
            print(in_words(part, figures[part]), flush=True)
        return figures

    some = [part.subset(random.permutation(len(part))[:COMPARED_IMAGES]) for part in data.judged.values()]
    pixels = np.concatenate([training.read_pixels(part, contract) for part in some])
    held = export.HeldOut(pixels, np.concatenate([part.labels for part in some]), learnt.model.probabilities(pixels))
    calibrating = None
    if RECIPES[manifest.recipe].kind != "forest":
        chosen = random.permutation(len(data.train))[: export.CALIBRATION_IMAGES]
        calibrating = training.read_pixels(data.train.subset(chosen), contract)

    def carry(place: Path) -> None:
        try:
            fit_novelty(data.train, contract, manifest.settings["seed"], read_ahead).save(place)
        except DataError as error:
            say(f"the service will tell no novelty: {error}")

    published = export.export_model(
        learnt.model, manifest, folder, held, calibration_images=calibrating, evaluate=measure, write_novelty=carry
    )
    print(precision_in_words(published), flush=True)
    return published, said


def leaks(data: Data) -> list[str]:
    """Remarks on images that are both learnt from and judged by."""
    judged = len(data.train) + len(data.test)
    if judged > LEAKS_SOUGHT_UP_TO:
        return [f"{judged} images: python -m astrodetect explore looks for copies among so many"]
    found = health.find_leaks(data.train, data.test)
    if not found:
        return []
    example = f"{found[0].test} shows what {found[0].train} shows"
    remark = f"{len(found)} test images show what is learnt from, which flatters the figures; {example}"
    say(f"{remark}: python -m astrodetect explore lists them, split keeps them together")
    return [remark]


def run_key(arguments: argparse.Namespace, data: Data) -> str:
    """The same for the same settings, images, start and Keras: only then does a run go on from another's checkpoint."""
    weights = Path(arguments.weights)
    start = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
    parts = [plain(arguments), data.described["train"]["fingerprint"], start, provenance.versions()["keras"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def describe(part: Dataset) -> dict[str, Any]:
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


def precision_in_words(manifest: Manifest) -> str:
    """One line: what serves, how close it is to Keras, and what was refused."""
    said = []
    for precision, tried in manifest.fidelity.items():
        verb = "serves" if precision == manifest.precision else "could serve" if tried.kept else "is refused"
        said.append(
            f"{precision} {verb}: {tried.same_decisions:.2%} of {tried.images} decisions as in Keras, "
            f"AUC {tried.auc_difference:+.4f}"
        )
    return "; ".join(said if manifest.precision in manifest.fidelity else ["f32 serves", *said])


def say(line: str) -> None:
    """To a person; what a program may want goes to stdout."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
