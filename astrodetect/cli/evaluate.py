"""Evaluates a trained model on labelled images."""

import argparse
from pathlib import Path

from astrodetect.cli._options import Subparsers, command_parser, model_name
from astrodetect.datasets import dataset
from astrodetect.images import ORIENTATIONS
from astrodetect.settings import settings

MEANING = """how well a trained model does on labelled images, as a page to read

DATA has a folder for each class, or parts (train, validation, test) that have, or is a .csv of path,label[,part]; of
parts the one that --part names is looked at. Beside the page, NAME.metrics.json has the figures for programs; where an
earlier run left one, the page shows both. --views 8 looks at every image in its quarter turns and their mirror images,
takes the mean and says what that gained; it takes nine times as long.
"""
EXAMPLES = """examples:
  python -m astrodetect evaluate resnet50_model data/sample
  python -m astrodetect evaluate resnet50_model my/test --views 8 --output night.html
"""
TEST = "test"  # the part that is looked at unless another is named


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "evaluate", MEANING, EXAMPLES, run)
    option("model", type=model_name, metavar="MODEL", help=f"a name in {settings().models_dir.name}")
    option("data", type=Path, metavar="DATA", help="labelled images")
    option("--part", choices=dataset.PARTS, help=f"of data that has parts (default: {TEST})")
    option("--views", type=int, choices=(1, ORIENTATIONS), default=1, help="of each image (default: 1)")
    option("--output", type=page, metavar="FILE.html", help="(default: models/MODEL.html)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates a model, and says the headline figures and where the page is."""
    from astrodetect.evaluation.summary import summarise, summary_lines  # noqa: PLC0415
    from astrodetect.inference.engine import load_model  # noqa: PLC0415
    from astrodetect.reports import evaluation_report  # noqa: PLC0415
    from astrodetect.scoring import evaluate  # noqa: PLC0415

    chosen, data = settings(), arguments.data
    loaded = load_model(chosen.models_dir, arguments.model, chosen.precision)
    manifest = loaded.manifest
    part = arguments.part or (TEST if dataset.part_names(data) else None)
    title = part or data.stem
    catalogue = dataset.read_dataset(data, manifest.classes, title=title, part=part, contract=manifest.image)
    from astrodetect.inference.engine import Engine  # noqa: PLC0415 - OpenVINO takes its time, after the quick checks

    evidence = evaluate.evaluate(Engine(loaded), {title: catalogue}, views=arguments.views)
    summary = summarise(evidence)
    place = evaluation_report.write_evaluation_report(
        evidence, summary, arguments.output or chosen.models_dir / f"{manifest.name}.html"
    )
    print("\n".join(summary_lines(summary)))
    print(place)
    return 0


def page(text: str) -> Path:
    """A parser of paths to pages."""
    if not text.endswith(".html"):
        raise argparse.ArgumentTypeError(f"a path that ends in .html, not {text}")
    return Path(text)
