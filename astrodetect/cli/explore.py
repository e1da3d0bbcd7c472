"""Says in what state labelled images are."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._options import Subparsers, command_parser, float_between, model_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from astrodetect.datasets.health import ScanResult
    from astrodetect.records import Floats

SMALLEST_CROP = 0.1
BY_SHAPES = "shapes and colours measured in the middle of the images"
MEANING = """in what state labelled images are: counts, damage, copies, leaks, doubtful labels, as a page to read

DATA has a folder for each class, or parts (train, validation, test) that have, or is a .csv of path,label[,part].
Copies are found re-encoded, resized, a little cropped, brighter or darker, turned or mirrored. A label is doubted
where what was learnt from the other images speaks for another class: by shapes and colours in the middle of the image
or, with --model, by the features of a trained model. A model that has learnt from the same images remembers their
labels and doubts few of them. Beside the page, explore.json lists everything for programs.
"""
EXAMPLES = """examples:
  python -m astrodetect explore data/sample
  python -m astrodetect explore my/images --output state --model resnet50_model
  python -m astrodetect explore my/catalogue.csv --json | jq .verdict
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "explore", MEANING, EXAMPLES, run)
    option("data", type=Path, metavar="DATA", help="labelled images")
    option("--output", type=Path, metavar="FOLDER", help="where the page goes (default: explore, here)")
    option(
        "--crop",
        type=float_between(SMALLEST_CROP, 1.0),
        default=0.5,
        help="central share of the frame in which shapes are measured (default: 0.5)",
    )
    option("--model", type=model_name, metavar="NAME", help="doubt labels by the features of this trained model")
    option("--json", action="store_true", help="print what was found as JSON, and write a page only with --output")


def run(arguments: argparse.Namespace) -> int:
    """Looks at the images, writes the page and says where it is."""
    from astrodetect.datasets import health  # noqa: PLC0415 - the other verbs need none of this
    from astrodetect.reports import health_report  # noqa: PLC0415 - the other verbs need none of this

    model = arguments.model
    by = f"the features of the model {model}" if model else BY_SHAPES
    found = health.examine(arguments.data, crop=arguments.crop, features=_asked(model) if model else None)
    if arguments.json:
        print(json.dumps(health_report.health_as_json(found, by=by)))
        if not arguments.output:
            return 0
    else:
        for line in health_report.recommendations(found):
            print(f"{line.found}: {line.do}")
    place = health_report.write_health_report(found, arguments.output or Path("explore"), by=by)
    if not arguments.json:
        print(place)
    return 0


def _asked(model: str) -> "Callable[[ScanResult], Floats]":
    """What tells the features that a model sees in images; a model that cannot be used is told before they are read."""
    import numpy as np  # noqa: PLC0415

    from astrodetect.datasets.dataset import Dataset  # noqa: PLC0415
    from astrodetect.inference.engine import Engine, load_model  # noqa: PLC0415
    from astrodetect.scoring import evaluate  # noqa: PLC0415
    from astrodetect.settings import settings  # noqa: PLC0415

    chosen = settings()
    engine = Engine(load_model(chosen.models_dir, model, chosen.precision))

    def features(seen: "ScanResult") -> "Floats":
        paths = [look.item.path for look in seen.images]
        return evaluate.compute_outputs(Dataset((), paths, np.zeros(len(paths), np.int64), ""), engine, model).features

    return features
