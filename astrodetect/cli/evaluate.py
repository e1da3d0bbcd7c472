"""`evaluate`: evaluate a trained model on labelled images."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from astrodetect.cli._options import (
    Subparsers,
    add_figure_options,
    add_prior_option,
    check_figures,
    check_writable_folder,
    command_parser,
    local_path,
    model_name,
    print_warnings,
)
from astrodetect.datasets import class_folders, dataset, tables
from astrodetect.errors import DataError
from astrodetect.images import ORIENTATIONS
from astrodetect.model_store.manifest import METRICS
from astrodetect.records import ImagePath, parse_prior
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path

DESCRIPTION = """evaluate a trained model on labelled images and write a report

DATA has one folder per class, or parts (train, validation, test) with class folders, or is a table of
path,label[,part]; of several parts the one named by --part is evaluated. Classes that the model does not have are left
out and named; --map gives them the names of the model's classes. NAME.metrics.json, beside the report, has the metrics
for programs; the report compares them with those of an earlier run, or of the training. --views 8 averages the
probabilities over the eight rotations and reflections of every image (test-time augmentation) and reports the gain; it
takes nine times as long.
"""
EXAMPLES = """examples:
  python -m astrodetect evaluate resnet50_model data/sample
  python -m astrodetect evaluate resnet50_model my/test --views 8 --output night.html
  python -m astrodetect evaluate resnet50_model galaxies.csv --map elliptical=E,spiral=SB
"""
DEFAULT_PART = "test"


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "evaluate", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model", type=model_name, metavar="MODEL", help=f"name of a model in {settings().models_dir.name}"
    )
    parser.add_argument("data", type=as_image_path, metavar="DATA", help="labelled images")
    parser.add_argument("--part", choices=tables.PARTS, help=f"part of DATA to evaluate (default: {DEFAULT_PART})")
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, ORIENTATIONS),
        help="orientations of each image to average (default: those of the model, 1 unless trained with --views)",
    )
    add_prior_option(parser)
    parser.add_argument(
        "--map",
        type=_class_map,
        default={},
        metavar="NAME=CLASS,…",
        help="names of classes in DATA that stand for classes of the model, such as elliptical=E,spiral=SB",
    )
    parser.add_argument(
        "--output",
        type=_html_path,
        metavar="FILE.html",
        help="path of the report (default: ./MODEL-evaluation.html; the report of the training is models/MODEL.html)",
    )
    add_figure_options(parser, "confusion matrix, ROC, precision and recall, calibration, training, class imbalance")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the model, print the main metrics and the path of the report."""
    from astrodetect.evaluation.summary import summarise_evaluation, summary_lines  # noqa: PLC0415
    from astrodetect.inference.engine import load_verified  # noqa: PLC0415
    from astrodetect.reports import evaluation_report  # noqa: PLC0415
    from astrodetect.scoring import evaluate  # noqa: PLC0415

    check_figures(arguments)
    config, data = settings(), arguments.data
    check_writable_folder(arguments.output.parent if arguments.output else Path())
    loaded = load_verified(config.models_dir, arguments.model, config.precision, prior=arguments.prior)
    manifest = loaded.manifest
    part = arguments.part or (DEFAULT_PART if class_folders.part_names(data) else None)
    title = part or PurePosixPath(str(data)).stem
    remarks = _left_out(data, part, manifest.classes, arguments.map)
    if loaded.prior_weights is not None:
        shares = arguments.prior or parse_prior(config.prior)
        text = ", ".join(f"{name}={share:g}" for name, share in shares.items())
        remarks.append(f"probabilities are corrected for the expected share of classes: {text}")
    images = dataset.read_dataset(
        data, manifest.classes, title=title, part=part, contract=manifest.image, renamed=arguments.map
    )
    from astrodetect.inference.engine import Engine  # noqa: PLC0415 - slow to import: after the quick checks

    inputs = evaluate.evaluate(Engine(loaded, views=1), {title: images}, views=arguments.views, remarks=remarks)
    summary = summarise_evaluation(inputs)
    report = evaluation_report.write_evaluation_report(
        inputs,
        summary,
        arguments.output or Path(f"{manifest.name}-evaluation.html"),
        compared_with=config.models_dir / f"{manifest.name}{METRICS}",
    )
    if arguments.figures:
        from astrodetect.reports import figures  # noqa: PLC0415 - imports Matplotlib

        figures.write_figures(figures.evaluation_figures(inputs), arguments.figures, arguments.figure_format)
    print("\n".join([*summary_lines(summary), *remarks]))
    print_warnings(manifest)
    print(report)
    return 0


def _left_out(data: ImagePath, part: str | None, classes: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """A remark on the images of classes that the model does not have; DataError for names that do not exist."""
    if unknown := sorted({*renamed.values()} - {*classes}):
        raise DataError(f"--map: the model has no class {unknown[0]}, only {', '.join(classes)}")
    listed = class_folders.list_dataset(data)
    if unknown := sorted({*renamed} - {item.label for item in listed}):
        raise DataError(f"--map: {data} has no class {unknown[0]}")
    counts = Counter(item.label for item in listed if part in {None, item.part})
    others = [f"{name} ({counts[name]:,} images)" for name in sorted({*counts} - {*classes} - {*renamed})]
    if not others:
        return []
    advice = f"--map NAME=CLASS counts them as one of {', '.join(classes)}"
    return [f"left out, since the model has no such class: {', '.join(others)} ({advice})"]


def _class_map(text: str) -> dict[str, str]:
    """Option type: NAME=CLASS, separated by commas."""
    pairs = [pair.partition("=")[::2] for pair in text.split(",")]
    if not all(name and target for name, target in pairs) or len({name for name, _ in pairs}) < len(pairs):
        raise argparse.ArgumentTypeError(f"NAME=CLASS,… with each name once, such as elliptical=E, not {text}")
    return dict(pairs)


def _html_path(text: str) -> Path:
    """Option type: a path of a report."""
    if not text.endswith(".html"):
        raise argparse.ArgumentTypeError(f"a path that ends in .html, not {text}")
    return local_path(text)
