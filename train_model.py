"""Train, calibrate, evaluate and export an image classifier from labelled images.

By default a ResNet50 classifies images as anomalies (class E, score near 1) or not (class SB, score near 0). --classes
trains on any number of classes, --recipe another network or a random forest. After Ctrl-C or a crash, run the same
command again to continue.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports needs no traceback

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrodetect import provenance
from astrodetect.anomalies.analysis import fit_novelty
from astrodetect.cli import train_options
from astrodetect.cli._options import print_warnings
from astrodetect.cli.training_data import TrainingData, leakage_remarks, read_training_data
from astrodetect.datasets import framing
from astrodetect.errors import AstrodetectError, DataError, is_interrupt
from astrodetect.evaluation import calibration, metrics
from astrodetect.evaluation.summary import classification_report
from astrodetect.extras import require_extra
from astrodetect.inference.pipeline import read_ahead
from astrodetect.model_store import store
from astrodetect.model_store.manifest import Manifest
from astrodetect.model_store.training_progress import CHECKPOINTS, report_progress
from astrodetect.progress import escape_output
from astrodetect.progress import print_notice as echo
from astrodetect.recipes import AUTO_CROP, RECIPES
from astrodetect.records import ImageContract, Outputs
from astrodetect.scoring import evaluate

if TYPE_CHECKING:
    from astrodetect.inference.engine import Engine
    from astrodetect.learning.training import TrainingPlan, TrainingResult

MAX_COMPARED_IMAGES = 500  # of each of validation and test, that exported and trained model are compared on


def main(argv: list[str] | None = None) -> int:
    """Run the command: exit code 0 trained, 1 failed, 130 interrupted."""
    arguments = train_options.parse_train_options(argv, __doc__)
    try:
        print(train(arguments, sys.argv[1:] if argv is None else argv))
    except AstrodetectError as error:
        echo(f"train_model: {error}")
        return 1
    except OSError as error:  # disk full, no permission
        echo(f"train_model: {error.filename or arguments.output}: {error.strerror or error}")
        return 1
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interrupt(error):
            raise
        echo("stopped: run the same command again to continue")
        return 130
    return 0


def train(arguments: argparse.Namespace, command: list[str]) -> Path:
    """From images to a published model; returns the path of its `.h5`, or of its `.xml` if Keras does not open it."""
    require_extra("train", "training")
    try:
        crop = 1.0 if arguments.crop == AUTO_CROP else arguments.crop
        contract = ImageContract(arguments.size, crop, arguments.bands, arguments.stretch)
    except ValueError as error:
        raise DataError(str(error)) from error
    name, folder = arguments.output.stem, arguments.output.parent
    with (
        store.exclusive_lock(folder, name),
        report_progress(folder, name, recipe=arguments.recipe, command=command) as progress,
    ):
        data = read_training_data(arguments, contract)
        if arguments.crop == AUTO_CROP:
            contract = replace(contract, crop=framing.choose_crop(data.train, contract, arguments.seed))
            echo(f"the objects fill the central {contract.crop:.0%} of the images: --crop {contract.crop:g}")

        # TensorFlow takes seconds to load: unusable images are reported before.
        from astrodetect.learning import training  # noqa: PLC0415

        plan, checkpoints = make_plan(arguments, contract), folder / f".{name}{CHECKPOINTS}"
        result = training.run_training(
            plan,
            data.train,
            data.validation,
            store=checkpoints,
            run=run_key(arguments, data),
            echo=echo,
            on_epoch=progress.show_epochs,
        )
        fitted, threshold = calibrate(result, plan, data, arguments.threshold)
        manifest = Manifest(
            name=name,
            task="binary" if plan.binary else "classes",
            recipe=plan.recipe,
            classes=list(data.train.classes),
            image=contract,
            metrics={},
            data=data.summary,
            settings=json_arguments(arguments) | {"adopted_weights": result.adopted, "history": result.history},
            versions=provenance.software_versions(),
            temperature=fitted.temperature,
            bias=list(fitted.bias),
            balance={name: count / len(data.validation) for name, count in data.validation.counts().items()},
            views=plan.views,
            threshold=threshold,
            simulated=2 * data.summary["train"]["simulated"] > sum(data.summary["train"]["images"].values()),
        )
        published, outputs = publish_model(result, manifest, folder, data)
        report = evaluate.evaluate_and_report(
            folder, name, data.held_out, train=data.train, remarks=leakage_remarks(data, contract), known=outputs
        )
        print("\n".join(classification_report(list(report.summary.parts.values())[-1])), flush=True)
        echo(f"report: {report.page}")
        if arguments.figures:
            from astrodetect.reports import figures  # noqa: PLC0415 - imports Matplotlib

            figures.write_figures(figures.evaluation_figures(report.inputs), arguments.figures, arguments.figure_format)
        print_warnings(published)
        training.clear_checkpoints(checkpoints)
    return Path(folder, f"{name}{'.h5' if f'{name}.h5' in published.files else '.xml'}")


def make_plan(arguments: argparse.Namespace, contract: ImageContract) -> "TrainingPlan":
    """The training settings from the command line."""
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
        views=arguments.views,
        balance=arguments.class_weights == "balanced",
        smoothing=arguments.label_smoothing,
        mixed_precision=arguments.mixed_precision,
        seed=arguments.seed,
    )


def calibrate(
    result: "TrainingResult", plan: "TrainingPlan", data: TrainingData, rule: str
) -> tuple[calibration.Calibration, float]:
    """Calibrate the model on the validation images, at their class balance; returns the calibration and threshold."""
    from astrodetect.learning import training  # noqa: PLC0415

    fitted, probabilities = training.calibrate_model(result.model, plan, data.train, data.validation)
    if not plan.binary:
        return fitted, 0.5
    return fitted, calibration.choose_threshold(rule, data.validation.labels, probabilities[:, 1])


def publish_model(
    result: "TrainingResult", manifest: Manifest, folder: Path, data: TrainingData
) -> tuple[Manifest, dict[str, Outputs]]:
    """Export and publish the model, with metrics of the network that serves; returns its outputs on held-out images."""
    from astrodetect.learning import export, training  # noqa: PLC0415

    contract, random = manifest.image, np.random.default_rng(manifest.settings["seed"])
    outputs: dict[str, Outputs] = {}

    def evaluate_exported(engine: "Engine") -> dict[str, dict[str, float]]:
        part_metrics = {}
        for part, images in data.held_out.items():
            outputs[part] = evaluate.compute_outputs(images, engine, f"{part} images", manifest.views)
            probabilities = outputs[part].probabilities
            predicted = engine.manifest.predict(probabilities)
            part_metrics[part] = metrics.headline_metrics(images.labels, probabilities, predicted)
            print(metrics_text(part, part_metrics[part]), flush=True)
        return part_metrics

    def write_novelty(path: Path) -> None:
        try:
            fit_novelty(data.train, contract, manifest.settings["seed"], read_ahead).save(path)
        except DataError as error:
            echo(f"the model will have no novelty detectors: {error}")

    samples = [part.subset(random.permutation(len(part))[:MAX_COMPARED_IMAGES]) for part in data.held_out.values()]
    pixels = np.concatenate([training.read_pixels(sample, contract) for sample in samples])
    labels = np.concatenate([sample.labels for sample in samples])
    held_out = export.HeldOut(pixels, labels, result.model.probabilities(pixels))
    calibration_images = None
    if RECIPES[manifest.recipe].kind != "forest":
        selected = random.permutation(len(data.train))[: export.CALIBRATION_IMAGES]
        calibration_images = training.read_pixels(data.train.subset(selected), contract)
    published = export.export_model(
        result.model,
        manifest,
        folder,
        held_out,
        calibration_images=calibration_images,
        evaluate=evaluate_exported,
        write_novelty=write_novelty,
    )
    print(precision_text(published), flush=True)
    return published, outputs


def run_key(arguments: argparse.Namespace, data: TrainingData) -> str:
    """Hash of settings, images, initial weights and Keras version: a checkpoint is resumed only if it is the same."""
    path = Path(arguments.weights)
    weights = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    parts = [
        json_arguments(arguments),
        data.summary["train"]["fingerprint"],
        data.validation.fingerprint,
        weights,
        provenance.software_versions()["keras"],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def json_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments as JSON values, without those that do not change the model."""
    values = {name: value for name, value in vars(arguments).items() if name not in {"figures", "figure_format"}}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def metrics_text(part: str, values: dict[str, float]) -> str:
    """The metrics of a part in one line."""
    return (
        f"{part} ({values['images']:.0f} images): accuracy {values['accuracy']:.2%}, "
        f"balanced accuracy {values['balanced_accuracy']:.2%}, AUC {values['auc']:.4f}"
    )


def precision_text(manifest: Manifest) -> str:
    """The precision that serves and the fidelity of each that was tried, in one line."""
    texts = []
    for precision, fidelity in manifest.fidelity.items():
        verb = "serves" if precision == manifest.precision else "could serve" if fidelity.kept else "is refused"
        texts.append(
            f"{precision} {verb}: {fidelity.same_decisions:.2%} of {fidelity.images} decisions as in Keras, "
            f"AUC {fidelity.auc_difference:+.4f}"
        )
    return "; ".join(texts if manifest.precision in manifest.fidelity else ["f32 serves", *texts])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    escape_output()
    sys.exit(main())
