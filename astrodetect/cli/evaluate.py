"""`evaluate`: evaluate a trained model on labelled images."""

import argparse
from pathlib import Path

from astrodetect.cli._options import Subparsers, command_parser, model_name
from astrodetect.datasets import dataset
from astrodetect.images import ORIENTATIONS
from astrodetect.settings import settings

DESCRIPTION = """evaluate a trained model on labelled images and write a report

DATA has one folder per class, or parts (train, validation, test) with class folders, or is a .csv of path,label[,part];
of several parts the one named by --part is evaluated. NAME.metrics.json, beside the report, has the metrics for
programs; the report compares them with those of an earlier run. --views 8 averages the probabilities over the eight
rotations and reflections of every image (test-time augmentation) and reports the gain; it takes nine times as long.
"""
EXAMPLES = """examples:
  python -m astrodetect evaluate resnet50_model data/sample
  python -m astrodetect evaluate resnet50_model my/test --views 8 --output night.html
"""
DEFAULT_PART = "test"


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "evaluate", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "model", type=model_name, metavar="MODEL", help=f"name of a model in {settings().models_dir.name}"
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="labelled images")
    parser.add_argument("--part", choices=dataset.PARTS, help=f"part of DATA to evaluate (default: {DEFAULT_PART})")
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, ORIENTATIONS),
        default=1,
        help="orientations of each image to average (default: 1)",
    )
    parser.add_argument(
        "--output", type=_html_path, metavar="FILE.html", help="path of the report (default: models/MODEL.html)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the model, print the main metrics and the path of the report."""
    from astrodetect.evaluation.summary import summarise_evaluation, summary_lines  # noqa: PLC0415
    from astrodetect.inference.engine import load_model  # noqa: PLC0415
    from astrodetect.reports import evaluation_report  # noqa: PLC0415
    from astrodetect.scoring import evaluate  # noqa: PLC0415

    config, data = settings(), arguments.data
    loaded = load_model(config.models_dir, arguments.model, config.precision)
    manifest = loaded.manifest
    part = arguments.part or (DEFAULT_PART if dataset.part_names(data) else None)
    title = part or data.stem
    images = dataset.read_dataset(data, manifest.classes, title=title, part=part, contract=manifest.image)
    from astrodetect.inference.engine import Engine  # noqa: PLC0415 - slow to import: after the quick checks

    inputs = evaluate.evaluate(Engine(loaded), {title: images}, views=arguments.views)
    summary = summarise_evaluation(inputs)
    report = evaluation_report.write_evaluation_report(
        inputs, summary, arguments.output or config.models_dir / f"{manifest.name}.html"
    )
    print("\n".join(summary_lines(summary)))
    print(report)
    return 0


def _html_path(text: str) -> Path:
    """Option type: a path of a report."""
    if not text.endswith(".html"):
        raise argparse.ArgumentTypeError(f"a path that ends in .html, not {text}")
    return Path(text)
