"""`explore`: quality control of labelled images."""

import argparse
import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._options import (
    Subparsers,
    add_figure_options,
    add_ray_option,
    add_reading_options,
    check_figures,
    check_writable_folder,
    command_parser,
    describe_features,
    local_path,
    model_name,
    print_warnings,
    refuse_unused,
)
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.storage.references import as_image_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from astrodetect.datasets.health import ScanResult
    from astrodetect.datasets.tables import ListedImage
    from astrodetect.records import BatchRunner, Floats

    ScanBatch = Callable[[Sequence[ListedImage]], ScanResult]

BY_SHAPES = "shapes and colours measured in the middle of the images"
DESCRIPTION = """check labelled images: counts, unreadable files, duplicates, leaks, doubtful labels; writes a report

DATA has one folder per class, or parts (train, validation, test) with class folders, or is a table of
path,label[,part]. Duplicates are found even if re-encoded, resized, slightly cropped, brighter or darker, rotated or
mirrored. A label is doubtful if a classifier trained on the other images (cross-validation) is confident of another
class. It uses shapes and colours in the middle of the image or, with --model, the features of a trained model; a model
trained on the same images has memorised their labels and finds few errors. explore.json, beside the report, lists
everything for programs.
"""
EXAMPLES = """examples:
  python -m astrodetect explore data/sample
  python -m astrodetect explore my/images --output report --model resnet50_model
  python -m astrodetect explore my/catalogue.csv --json | jq .verdict
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "explore", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", type=as_image_path, metavar="DATA", help="labelled images")
    parser.add_argument("--output", type=local_path, metavar="FOLDER", help="folder of the report (default: ./explore)")
    add_reading_options(parser, "central share of the frame in which shapes are measured (default: 0.5)")
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="check labels with the features of this trained model"
    )
    add_figure_options(parser, "class imbalance")
    add_ray_option(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON; writes a report only with --output"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the images, write the report and print the recommendations."""
    from astrodetect.datasets import health  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.reports import health_report  # noqa: PLC0415

    check_figures(arguments)
    if arguments.model:
        refuse_unused(arguments, "crop planes", "with --model")
    if arguments.ray and arguments.model:
        raise DataError("the features of a model are computed on this machine: leave --ray or --model out")
    output = arguments.output or (None if arguments.json else Path("explore"))
    if output:
        check_writable_folder(output)
    crop, bands = arguments.crop or health.CROP, arguments.planes
    features, doubts_by = None, BY_SHAPES
    if arguments.model:
        features, doubts_by, bands = _model_features(arguments.model)
    with _batch_runner(arguments.ray, partial(health.scan_batch, crop, bands)) as run_batches:
        result = health.examine(arguments.data, crop=crop, features=features, run_batches=run_batches, bands=bands)
    if arguments.figures:
        from astrodetect.reports import figures  # noqa: PLC0415 - imports Matplotlib

        figures.write_figures(figures.dataset_figures(result), arguments.figures, arguments.figure_format)
    if arguments.json:
        print(json.dumps(health_report.health_as_json(result, by=doubts_by)))
    else:
        for line in health_report.recommendations(result):
            print(f"{line.finding}: {line.action}")
    if output:
        report = health_report.write_health_report(result, output, by=doubts_by)
        if not arguments.json:
            print(report)
    return 0


@contextmanager
def _batch_runner(address: str | None, scan_batch: "ScanBatch") -> "Iterator[BatchRunner | None]":
    """What scans the images: threads of this process (None), or a Ray cluster."""
    if not address:
        yield None
        return
    require_extra("cluster", "--ray")
    from astrodetect.cluster.ray_batches import ray_cluster  # noqa: PLC0415 - imports Ray

    with ray_cluster(address) as make_runner:
        yield make_runner(partial(partial, scan_batch))


def _model_features(model: str) -> "tuple[Callable[[ScanResult], Floats], str, str]":
    """What computes the model's features of scanned images, their description and the bands; loads the model."""
    import numpy as np  # noqa: PLC0415

    from astrodetect.datasets.dataset import Dataset  # noqa: PLC0415
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415
    from astrodetect.scoring import evaluate  # noqa: PLC0415
    from astrodetect.settings import settings  # noqa: PLC0415

    config = settings()
    engine = Engine(load_verified(config.models_dir, model, config.precision))
    print_warnings(engine.manifest)

    def features(scan: "ScanResult") -> "Floats":
        paths = [image.item.path for image in scan.images]
        return evaluate.compute_outputs(Dataset((), paths, np.zeros(len(paths), np.int64), ""), engine, model).features

    return features, describe_features(engine.manifest), engine.manifest.image.bands
