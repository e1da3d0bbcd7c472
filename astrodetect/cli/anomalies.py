"""Finds the unusual among images."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.anomalies.detectors.registry import DEFAULT_DETECTORS, DETECTORS
from astrodetect.cli._options import Subparsers, command_parser, float_between, int_between, model_name
from astrodetect.errors import DataError
from astrodetect.recipes import DEFAULT_RECIPE, NO_NORMALISATION
from astrodetect.records import ImageContract
from astrodetect.settings import settings

if TYPE_CHECKING:  # what describes and judges takes its time to load: the other verbs need none of it
    from astrodetect.anomalies.analysis import FittedDetectors
    from astrodetect.anomalies.results import AnomalyResults
    from astrodetect.datasets.dataset import ListedImage
    from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor, FeatureKind
    from astrodetect.inference.engine import Engine
    from astrodetect.labels import LabelValue

SHAPES_PX, IMAGENET_PX = 128, 224  # sides of what is looked at, where no model of ours says it
SMALLEST_CROP = 0.1
MOST_IN_THE_GALLERY = 1000
IMAGENET = "imagenet"
AUTOENCODER, ALL = "autoencoder", "all"
WORDS = {
    "shapes": "described by shapes and colours in the middle of the frame",
    "network": "described by {}",
    "both": "described by shapes and colours in the middle of the frame and by {}",
}
DESCRIPTION = """which images are unusual, ranked and explained, as a page to read and a table

DATA is a folder with a folder for each class, or parts that have, a .csv of path,label[,part], any other folder of
images, or several; labels colour the map and are never learnt from. What is usual is learnt from --normal, or from DATA
itself, where each image is judged by the others. Images are described by shapes and colours in the middle of the frame,
which needs no model; with --features network or both, by what a trained model (--model) or a ResNet50 with ImageNet or
other weights (--weights) sees. What is described is kept in data/cache, up to 4 GB: a second run over the same images
describes nothing, and after Ctrl-C or a crash the same command goes on.

In the folder: anomalies.html; anomalies.csv or .parquet, in the order in which to look; ids/METHOD.txt, the images that
each detector flags, and ids/consensus.txt, those that all of them do. --detectors autoencoder,kmeans,dbscan are the
study's three. --labels ranks anew by a .csv of label (interesting, ordinary, artefact) and path or image_sha256.
--attach gives a trained model these detectors: the service then tells the novelty of each image.
"""
EXAMPLES = """examples:
  python -m astrodetect anomalies my/images
  python -m astrodetect anomalies night7 --normal data/sample/train --output night7-odd
  python -m astrodetect anomalies my/images --detectors autoencoder,kmeans,dbscan --format parquet
  python -m astrodetect anomalies my/images --labels labels.csv
  python -m astrodetect anomalies data/sample/train --attach resnet50_model
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "anomalies", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="images, labelled or not")
    parser.add_argument(
        "--normal", type=Path, metavar="DATA", help="images to learn what is usual from (default: the same)"
    )
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="prepare images as this trained model wants them"
    )
    parser.add_argument(
        "--weights", metavar="FILE.h5", help="see images by a ResNet50 with these weights, or with imagenet's"
    )
    parser.add_argument(
        "--features",
        choices=("shapes", "network", "both"),
        help="what is compared (default: shapes; network with --weights)",
    )
    parser.add_argument(
        "--detectors",
        type=_detectors,
        metavar="NAME,…",
        help=f"of {', '.join(DETECTORS)}; or {ALL} (default: {','.join(DEFAULT_DETECTORS)})",
    )
    parser.add_argument("--labels", type=Path, metavar="LABELS.csv", help="rank by what people said of some images")
    parser.add_argument("--attach", type=model_name, metavar="NAME", help="give this trained model the detectors")
    parser.add_argument(
        "--crop",
        type=float_between(SMALLEST_CROP, 1.0),
        help="central share of the frame to look at, without a model (default: 0.5 for shapes, 1 for a network)",
    )
    parser.add_argument(
        "--top", type=int_between(1, MOST_IN_THE_GALLERY), default=60, help="images in the gallery (default: 60)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("anomalies"), metavar="FOLDER", help="(default: anomalies, here)"
    )
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the table (default: csv)")


def run(arguments: argparse.Namespace) -> int:
    """Finds them, and says how many and where the page is."""
    try:
        for line in find(arguments):
            print(line)
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def find(arguments: argparse.Namespace) -> list[str]:
    """From images to results; returns what is said of them."""
    from astrodetect.anomalies import (  # noqa: PLC0415
        active_learning,
        analysis,
        projection,
        results,
    )
    from astrodetect.anomalies.results import AnomalyResults, order_images  # noqa: PLC0415
    from astrodetect.datasets import image_files  # noqa: PLC0415
    from astrodetect.features.extraction import extract_features  # noqa: PLC0415
    from astrodetect.inference.pipeline import read_ahead  # noqa: PLC0415
    from astrodetect.labels import match_images, read_image_labels  # noqa: PLC0415
    from astrodetect.model_store import store  # noqa: PLC0415
    from astrodetect.reports import anomaly_report  # noqa: PLC0415
    from astrodetect.reports.html import ThumbnailReader  # noqa: PLC0415

    chosen = settings()
    results.check_output_folder(arguments.output)
    items = image_files.list_images(arguments.data)
    normal_items = image_files.list_images([arguments.normal]) if arguments.normal else None
    given = read_image_labels(arguments.labels) if arguments.labels else []
    extractor, seen_by = _extractor(arguments)

    def extract(listed: "Sequence[ListedImage]", title: str) -> "ExtractedFeatures":
        return extract_features(
            listed,
            extractor,
            chosen.descriptions_dir,
            run_batches=read_ahead,
            title=title,
            max_pixels=chosen.max_image_pixels,
        )

    normal = extract(normal_items, str(arguments.normal)) if normal_items else None
    seen = extract(items, " ".join(map(str, arguments.data)))
    fitted = _fitted(arguments, seen, normal, extractor.kind)
    looked = fitted.result
    paths = [item.path for item in seen.items]
    labels: dict[int, LabelValue] = {}
    strays, interest = 0, None
    if given:
        labels, strays = match_images(given, paths, seen.sha256)
        interest = active_learning.rank_by_labels(looked.vectors, looked.strength, labels).interest
    gallery = order_images(looked.strength, interest)[: arguments.top].tolist()
    findings = AnomalyResults(
        paths=paths,
        labels=[item.label for item in seen.items],
        sha256=seen.sha256,
        novelty=looked,
        projection=projection.project(looked.vectors, gallery),
        review_labels=labels,
        interest=interest,
        skipped=[(file.path, file.reason) for file in seen.skipped],
    )
    reasons = analysis.explain(fitted, seen, gallery, extractor, max_pixels=chosen.max_image_pixels)
    about = anomaly_report.RunDescription(
        title=" ".join(place.resolve().name for place in arguments.data),
        features=WORDS[extractor.kind].format(seen_by),
        comparison=f"judged by {len(normal.items):,} of {arguments.normal.resolve().name}"
        if normal
        else "each judged by the others",
        reader=ThumbnailReader(extractor.contract, chosen.max_image_pixels),
    )
    with results.replace_output_folder(arguments.output) as staged:
        results.write_tables(staged, findings, arguments.format)
        anomaly_report.write_anomaly_report(staged / "anomalies.html", findings, reasons, about)
    if arguments.attach:
        store.attach_detectors(chosen.models_dir, arguments.attach, fitted.novelty.save)
    return [*_said(findings, seen, strays, arguments.attach), str(arguments.output / "anomalies.html")]


def _said(findings: "AnomalyResults", seen: "ExtractedFeatures", strays: int, attached: str | None) -> list[str]:
    flagged = ", ".join(
        f"{'all' if name == 'consensus' else name} {int(flags.sum()):,}"
        for name, flags in findings.flagged_by().items()
    )
    lines = [f"{len(findings):,} images, {seen.computed:,} of them described anew; {len(seen.skipped):,} bad files"]
    lines.append(f"flagged by {flagged}")
    if findings.interest is not None:
        lines.append(
            f"ranked by the labels of {len(findings.review_labels):,} images; {strays:,} labels are of none here"
        )
    if attached:
        lines.append(f"the model {attached} now carries these detectors: its service tells novelty")
    return lines


def _fitted(
    arguments: argparse.Namespace, seen: "ExtractedFeatures", normal: "ExtractedFeatures | None", sight: "FeatureKind"
) -> "FittedDetectors":
    """The detectors that are asked for, which the study's autoencoder may be one of."""
    from astrodetect.anomalies import analysis  # noqa: PLC0415

    names, extra = arguments.detectors or DEFAULT_DETECTORS, []
    if AUTOENCODER in names:
        from astrodetect.learning import autoencoder  # noqa: PLC0415 - Keras, where it is asked for

        extra = [autoencoder.fit_autoencoder((normal or seen).features)]
    return analysis.fit_detectors(seen, normal, sight, [name for name in names if name != AUTOENCODER], extra)


def _extractor(arguments: argparse.Namespace) -> "tuple[FeatureExtractor, str]":
    """What describes the images, and whose features these are, in words."""
    from astrodetect.features.extraction import CENTRAL_SHARE, measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import network_extractor  # noqa: PLC0415
    from astrodetect.model_store.manifest import read_manifest  # noqa: PLC0415

    chosen, model, weights = settings(), arguments.attach or arguments.model, arguments.weights
    sight: FeatureKind = arguments.features or ("network" if weights else "shapes")
    _consistent(arguments, sight)
    if weights:
        engine, version = _adopted(weights, arguments.crop or 1.0)
        source = f"what ResNet50 sees by the weights of {Path(weights).name}"
        return network_extractor(engine, sight, version), source
    if sight == "shapes" and not model:
        contract = ImageContract(SHAPES_PX, arguments.crop or CENTRAL_SHARE, stretch="asinh")
        return measured_extractor(contract), ""
    model = model or chosen.model
    if sight == "shapes":
        return measured_extractor(read_manifest(chosen.models_dir / f"{model}.json").image), ""
    # After the quick checks, since importing OpenVINO takes a second.
    from astrodetect.inference.engine import Engine, load_model  # noqa: PLC0415

    loaded = load_model(chosen.models_dir, model, chosen.precision)

    extractor = network_extractor(Engine(loaded), sight, loaded.manifest.version)
    return extractor, f"the features of the model {model}"


def _consistent(arguments: argparse.Namespace, sight: "FeatureKind") -> None:
    """What is asked for fits together."""
    model = arguments.attach or arguments.model
    if arguments.attach and arguments.model not in {None, arguments.attach}:
        raise DataError(
            f"the model {arguments.attach} cannot use what {arguments.model} sees: --attach and --model differ"
        )
    if arguments.weights and (model or sight == "shapes"):
        raise DataError("--weights are a network of their own: leave --model, --attach and --features shapes out")
    if arguments.crop and (model or (sight != "shapes" and not arguments.weights)):
        raise DataError("a model says itself what it looks at: leave --crop out")


def _adopted(weights: str, crop: float) -> "tuple[Engine, str]":
    """A ResNet50 with weights that were learnt elsewhere, and what tells them from others."""
    if weights != IMAGENET and not Path(weights).is_file():
        raise DataError(f"no file of weights {weights}: name a Keras .h5, or {IMAGENET}")
    from astrodetect.learning import network  # noqa: PLC0415 - Keras, where it is asked for
    from astrodetect.learning.export import features_engine  # noqa: PLC0415

    model = network.build(DEFAULT_RECIPE, IMAGENET_PX, NO_NORMALISATION, 1)
    if weights == IMAGENET:
        network.load_imagenet_weights(model, DEFAULT_RECIPE)
        version = IMAGENET
    else:
        network.load_weights_file(model, DEFAULT_RECIPE, Path(weights))
        with Path(weights).open("rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()
    return features_engine(model, ImageContract(IMAGENET_PX, crop, stretch="asinh")), version


def _detectors(text: str) -> list[str]:
    """A parser of names of detectors."""
    names = list(DETECTORS) if text == ALL else text.split(",")
    if not set(names) <= set(DETECTORS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{ALL}, or some of {', '.join(DETECTORS)}, each once, not {text}")
    return names
